r"""Attention whose logits are known to be small, faster than any that must expect the worst.

Where queries and keys are normalised, no logit can exceed what the norms' weights allow. If that is small enough for
`exp` not to overflow, the softmax needs no running maximum and nothing is ever rescaled, which leaves most of the time
to the tensor cores. The function is the same; a block whose bound is too large keeps to the attention interface.
docs/benchmarks.md has figures.
"""

import importlib.util
import math

import torch
from torch import nn

from .rotary import RotaryTable


# Sums of 2^logit over a million tokens, and their products with values, stay below float32's 2^127.
MAX_LOGIT = 90.0
HEAD_DIMS = (16, 32, 64, 128)


def logit_bound(query_norm: nn.LayerNorm, key_norm: nn.LayerNorm, scaling: float) -> float:
    r"""The largest logit, in base 2, that normalised queries and keys can have. Rotating them changes no length.

    Args:
        query_norm (`nn.LayerNorm`): Norm of the queries, over a head.
        key_norm (`nn.LayerNorm`): Norm of the keys.
        scaling (`float`): Factor of the logits.

    Returns:
        `float`: The bound.
    """

    def longest(norm: nn.LayerNorm) -> float:
        # Before its affine part, a normalised vector of n channels has a length of at most sqrt(n).
        root = math.sqrt(norm.normalized_shape[0])
        return root * norm.weight.detach().abs().max().item() + norm.bias.detach().float().norm().item()

    return longest(query_norm) * longest(key_norm) * scaling * math.log2(math.e)


def can_bound(query_norm: nn.LayerNorm | None, key_norm: nn.LayerNorm | None, scaling: float) -> bool:
    """Whether a block may use [`bounded_attention`]: it normalises queries and keys, and its logits are bounded."""
    if query_norm is None or query_norm.normalized_shape[0] not in HEAD_DIMS:
        return False
    return logit_bound(query_norm, key_norm, scaling) <= MAX_LOGIT


def is_supported(device: torch.device) -> bool:
    """Whether the kernels run here: they use Hopper's tensor memory access, through Triton."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def bounded_attention(
    qkv: torch.Tensor,
    query_norm: nn.LayerNorm,
    key_norm: nn.LayerNorm,
    rotary: RotaryTable | None,
    num_heads: int,
    rotary_groups: int,
    scaling: float,
) -> torch.Tensor:
    r"""Normalise, rotate and attend.

    Args:
        qkv (`torch.Tensor` of shape `(batch, tokens, 3 * num_heads * head_dim)`, bfloat16):
            Queries, keys and values.
        query_norm (`nn.LayerNorm`):
            Norm of the queries, over a head.
        key_norm (`nn.LayerNorm`):
            Norm of the keys.
        rotary (`tuple[torch.FloatTensor, torch.FloatTensor]` of shape `(tokens, head_dim)`, *optional*):
            Table of the rotary embedding.
        num_heads (`int`):
            Heads.
        rotary_groups (`int`):
            Layout of the rotary embedding.
        scaling (`float`):
            Factor of the logits.

    Returns:
        `torch.Tensor` of shape `(batch, tokens, num_heads * head_dim)`, bfloat16: The mixed values.
    """
    weights = torch.stack([query_norm.weight, query_norm.bias, key_norm.weight, key_norm.bias])
    cos, sin = (None, None) if rotary is None else rotary
    return _operator(qkv, weights, cos, sin, num_heads, rotary_groups, scaling * math.log2(math.e), query_norm.eps)


@torch.library.custom_op("geovr_hf::bounded_attention", mutates_args=())
def _operator(
    qkv: torch.Tensor,
    weights: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    num_heads: int,
    rotary_groups: int,
    scale: float,
    eps: float,
) -> torch.Tensor:
    from .bounded_kernels import launch

    with torch.cuda.device_of(qkv):
        return launch(qkv, weights, cos, sin, num_heads, rotary_groups, scale, eps)


@_operator.register_fake
def _(qkv, weights, cos, sin, num_heads, rotary_groups, scale, eps):
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
