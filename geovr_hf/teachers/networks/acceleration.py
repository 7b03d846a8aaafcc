"""Making a network fast without changing what it computes beyond the rounding of its dtype."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer  # transformers' own blocks
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersLayer

from geovr_hf.modeling.dense_decoder_geovr import DenseDecoder

from .base import TeacherNetwork
from .blocks import Attention, Block, FeedForward
from .bounded_attention import can_bound, is_supported


RECOMPILE_LIMIT = 64


def accelerate_network(network: TeacherNetwork, *, fuse: bool = True, compile: bool = False) -> TeacherNetwork:
    r"""Make a network fast, in place.

    On a GPU, convolutions are laid out channels last. With `fuse`, in bfloat16, attention with bounded logits goes to
    [`bounded_attention`] (from Hopper on) and GELUs into their matrix products. With `compile`, each block and head is
    compiled by itself: that takes seconds, not minutes, and all blocks of a kind share the result.

    Args:
        network (`TeacherNetwork`): The network, on its device.
        fuse (`bool`, *optional*, defaults to `True`): See above.
        compile (`bool`, *optional*, defaults to `False`): See above.

    Returns:
        `TeacherNetwork`: `network`.
    """
    if network.device.type == "cuda":
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.to(memory_format=torch.channels_last)
        if fuse and network.matrix_dtype == torch.bfloat16:
            _fuse(network)
    if compile:
        # All networks share the code of a block: its shapes in each count together against the limit, past which
        # PyTorch falls back to code that is not compiled.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        for module in _compilable_modules(network):
            module.compile()
    return network


def _fuse(network: TeacherNetwork) -> None:
    bounded = is_supported(network.device)
    for module in list(network.modules()):
        if isinstance(module, Dinov2WithRegistersLayer):
            module.mlp = _own_feed_forward(module.mlp)
            module.mlp.fuse_gelu = True
        elif isinstance(module, FeedForward):  # those of the camera head stay in float32
            module.fuse_gelu = module.fc1.weight.dtype == torch.bfloat16
        elif isinstance(module, Attention) and bounded and module.qkv.weight.dtype == torch.bfloat16:
            module.use_bounded_attention = can_bound(module.q_norm, module.k_norm, module.scaling)


def _own_feed_forward(mlp: nn.Module) -> FeedForward:
    """Transformers' feed-forward layer as ours, with the same parameters under the same names."""
    with torch.device("meta"):
        feed_forward = FeedForward(mlp.fc1.in_features, mlp.fc1.out_features)
    feed_forward.fc1, feed_forward.fc2 = mlp.fc1, mlp.fc2
    return feed_forward


def _compilable_modules(network: TeacherNetwork) -> Iterator[nn.Module]:
    """The parts that are worth compiling: each block, once per shape, and the heads."""
    if hasattr(network, "camera_head"):
        yield network.camera_head
    yield from (m for m in network.modules() if isinstance(m, (Block, DenseDecoder, GradientCheckpointingLayer)))
