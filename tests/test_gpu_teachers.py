"""Teachers on a CUDA device: fused operators, precision, compilation, memory."""

import math

import pytest
import torch
from parity import load_facts, load_tensors
from teacher_fixtures import tiny_config, tiny_network, tiny_weights
from tiny import random_frames
from torch import nn

from geovr_hf import load_teacher
from geovr_hf.teachers.networks.acceleration import accelerate_network
from geovr_hf.teachers.networks.blocks import Attention, FeedForward
from geovr_hf.teachers.networks.bounded_attention import bounded_attention, is_supported
from geovr_hf.teachers.networks.rotary import rotate


pytestmark = pytest.mark.gpu
NAMES = ["vggt", "vggt_omega", "da3", "da3_metric"]
# Roundings of bfloat16 (2^-9 each) add up over the layers.
TOLERANCE = 0.03


def relative(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return ((actual.float().cpu() - reference.float().cpu()).norm() / reference.float().norm().cpu()).item()


def tensors_of(output) -> dict[str, torch.Tensor]:
    # Filled depth jumps where the sky score crosses its threshold: rounding may turn a pixel from near to far.
    left_out = {"reference_view", "depth" if "raw_depth" in output else None}
    named = {name: value for name, value in output.items() if name not in left_out}
    return {
        f"{name}/{index}": tensor
        for name, value in named.items()
        for index, tensor in enumerate(value if isinstance(value, tuple) else (value,))
    }


def fixture_images(name: str) -> torch.Tensor:
    case = load_facts(f"{name}_tiny_config")["cases"][0]["name"]
    return load_tensors(f"{name}_tiny_io")[f"{case}/images"].cuda()


@pytest.mark.parametrize(
    ("clips", "tokens", "heads", "dim", "groups", "rotated"),
    [(1, 5000, 16, 64, 2, True), (7, 213, 16, 64, 1, True), (3, 1, 4, 16, 2, False), (2, 130, 3, 128, 2, True)],
)
def test_bounded_attention_is_attention(clips, tokens, heads, dim, groups, rotated):
    if not is_supported(torch.device("cuda")):
        pytest.skip("needs Hopper and Triton")
    torch.manual_seed(0)
    norms = [nn.LayerNorm(dim, device="cuda") for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
    qkv = torch.randn(clips, tokens, 3 * heads * dim, device="cuda").bfloat16()
    angles = 3 * torch.randn(tokens, dim, device="cuda")
    table = (angles.cos(), angles.sin()) if rotated else None
    with torch.no_grad():
        actual = bounded_attention(qkv, *norms, table, heads, groups, 1 / math.sqrt(dim))
        query, key, value = qkv.double().unflatten(-1, (3, heads, dim)).unbind(2)
        query, key = (norm.double()(states) for norm, states in zip(norms, (query, key), strict=True))
        if rotated:
            query, key = (rotate(states, table, groups) for states in (query, key))
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        weights = (query @ key.transpose(-1, -2) / math.sqrt(dim)).softmax(-1)
        expected = (weights @ value).transpose(1, 2).flatten(2)
    assert actual.isfinite().all()
    assert relative(actual, expected) < 0.01


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_float32_on_the_gpu_is_float32_on_the_cpu(name):
    images = fixture_images(name)
    on_gpu = tensors_of(tiny_network(name, device="cuda")(images))
    for part, reference in tensors_of(tiny_network(name)(images.cpu())).items():
        assert relative(on_gpu[part], reference) < 5e-3, part  # convolutions run in TensorFloat-32


@pytest.mark.parametrize("acceleration", [None, {"fuse": False}, {"fuse": True}, {"fuse": True, "compile": True}])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_bfloat16_is_float32_up_to_rounding(name, acceleration):
    images = fixture_images(name)
    network = tiny_network(name, torch.bfloat16, "cuda")
    if acceleration is not None:
        accelerate_network(network, **acceleration)
    rough = tensors_of(network(images))
    errors = {
        part: relative(rough[part], reference)
        for part, reference in tensors_of(tiny_network(name, device="cuda")(images)).items()
    }
    print(f"\n{name}, {acceleration}: " + ", ".join(f"{part} {error:.1e}" for part, error in errors.items()))
    assert max(errors.values()) < TOLERANCE, errors


def test_fusing_reaches_every_block_that_it_can():
    network = accelerate_network(tiny_network("vggt", torch.bfloat16, "cuda"))
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    normed = [module for module in attentions if module.q_norm is not None]
    assert all(module.use_bounded_attention == is_supported(torch.device("cuda")) for module in normed)
    assert not any(module.use_bounded_attention for module in attentions if module.q_norm is None)
    rounded = [m for m in network.modules() if isinstance(m, FeedForward) and m.fc1.weight.dtype == torch.bfloat16]
    assert len(rounded) == 2 * len(network.frame_blocks) + len(network.patch_embed.encoder.layer)
    assert all(module.fuse_gelu for module in rounded)


def test_logits_that_are_not_bounded_keep_to_the_attention_interface():
    network = tiny_network("vggt", torch.bfloat16, "cuda")
    network.global_blocks[0].attn.q_norm.weight.data.fill_(100.0)
    accelerate_network(network)
    assert not network.global_blocks[0].attn.use_bounded_attention


def test_a_teacher_goes_to_the_gpu_in_bfloat16_by_itself():
    options = {"config": tiny_config("vggt", point_head=False), "metric_config": tiny_config("da3_metric")}
    teacher = load_teacher(tiny_weights("vggt"), metric=tiny_weights("da3_metric"), **options)
    targets = teacher.targets(random_frames(3, 96, 128))
    assert teacher.device.type == "cuda"
    assert teacher.network.matrix_dtype == torch.bfloat16
    assert targets.depth.device.type == "cuda"
    assert targets.depth.dtype == torch.float32
    assert targets.validate().metric_scale > 0


def test_running_out_of_memory_names_the_frames_and_the_cure():
    options = {"config": tiny_config("vggt", point_head=False), "frames_chunk_size": 4}
    teacher = load_teacher(tiny_weights("vggt"), **options)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        with pytest.raises(RuntimeError, match=r"200 frames of 392 x 504 pixels.*`frames_chunk_size` than 4"):
            teacher.targets(torch.zeros(200, 392, 504, 3, dtype=torch.uint8))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
