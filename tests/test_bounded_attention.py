"""Attention without a running maximum is attention, on Triton's interpreter where there is no GPU."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from geovr_hf.teachers.networks.bounded_attention import MAX_LOGIT, can_bound, logit_bound


CODE = """
import math, torch
from torch import nn
from geovr_hf.teachers.networks.bounded_attention import bounded_attention
from geovr_hf.teachers.networks.rotary import rotate

torch.manual_seed(0)
for clips, tokens, heads, dim, groups, rotated in [
    (2, 70, 2, 16, 2, True),  # the last tile of a head reaches into the next
    (1, 130, 3, 64, 1, True),
    (2, 64, 1, 32, 2, False),  # whole tiles
    (1, 1, 2, 16, 1, True),
]:
    norms = [nn.LayerNorm(dim) for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
    qkv, angles = torch.randn(clips, tokens, 3 * heads * dim), 3 * torch.randn(tokens, dim)
    table = (angles.cos(), angles.sin()) if rotated else None
    with torch.no_grad():
        actual = bounded_attention(qkv, *norms, table, heads, groups, 1 / math.sqrt(dim))
        query, key, value = qkv.unflatten(-1, (3, heads, dim)).unbind(2)
        query, key = norms[0](query), norms[1](key)
        if rotated:
            query, key = (rotate(states, table, groups) for states in (query, key))
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        weights = (query @ key.transpose(-1, -2) / math.sqrt(dim)).softmax(-1)
    torch.testing.assert_close(actual, (weights @ value).transpose(1, 2).flatten(2), rtol=1e-4, atol=1e-5)
print("equal")
"""


def test_the_kernels_compute_attention(project_root):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def norms(dim: int = 64, weight: float = 1.0, bias: float = 0.0) -> tuple[nn.LayerNorm, nn.LayerNorm]:
    pair = nn.LayerNorm(dim), nn.LayerNorm(dim)
    for norm in pair:
        nn.init.constant_(norm.weight, weight)
        nn.init.constant_(norm.bias, bias)
    return pair


def test_no_logit_passes_the_bound():
    torch.manual_seed(0)
    query_norm, key_norm = norms()
    for norm in (query_norm, key_norm):
        nn.init.normal_(norm.weight, 1, 0.5)
        nn.init.normal_(norm.bias, 0, 0.5)
    spikes = 100 * torch.eye(64)  # the worst case of a normalised vector
    x = torch.cat([spikes, -spikes, torch.randn(1000, 64)])
    with torch.no_grad():
        logits = query_norm(x) @ key_norm(x).T / 8 * math.log2(math.e)
    assert logits.abs().max() <= logit_bound(query_norm, key_norm, 1 / 8)


def test_the_bound_is_reached_by_equal_weights():
    # A normalised vector of 64 channels has length 8: 8 * 8 / 8 in base e.
    assert logit_bound(*norms(), 1 / 8) == pytest.approx(8 * math.log2(math.e))


@pytest.mark.parametrize(
    ("query_norm", "key_norm", "bounded"),
    [
        (*norms(), True),
        (*norms(weight=10.0), False),
        (*norms(bias=20.0), False),
        (*norms(dim=48), False),  # no power of two
        (None, None, False),
    ],
)
def test_blocks_without_a_small_bound_are_left_alone(query_norm, key_norm, bounded):
    assert can_bound(query_norm, key_norm, 1 / 8) is bounded


def test_sums_of_the_largest_weights_stay_finite():
    assert torch.isfinite(torch.tensor(2.0**MAX_LOGIT) * 2**20 * 2**15)
