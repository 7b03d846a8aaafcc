"""Regional compilation: the repeated layers and the dense objectives, each by itself, where the time goes."""

import torch
import torch._inductor.config
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from geovr_hf.modeling.modeling_geovr import GeoVRForConditionalGeneration


# Layers share their code, so all their shapes count together against the limit past which PyTorch stops compiling.
RECOMPILE_LIMIT = 64


def compile_layers(model: nn.Module) -> nn.Module:
    r"""Compile a model's layers and dense objectives in place.

    Layers of one kind share the result, so that this takes seconds where compiling the whole model takes minutes, and
    checkpointing, adapters and FSDP, which all work layer by layer, stay as they are. Nothing is compiled before the
    first call; parameters and their names do not change.

    Args:
        model (`nn.Module`): The model, perhaps with adapters, before it is wrapped for training.

    Returns:
        `nn.Module`: `model`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    # DDP would have the compiler cut graphs at every bucket of gradients. Layers are such cuts already, and cutting
    # fails on graphs that hand on integers.
    torch._dynamo.config.optimize_ddp = False
    if torch.__version__ < (2, 14):
        # For symbolic lengths the code of such kernels lacks parentheses, and a backward pass stops with "shape ... is
        # invalid for input of size 0". Seen in 2.11; 2.14 has the parentheses.
        torch._inductor.config.triton.mix_order_reduction = False
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile()
        elif isinstance(module, GeoVRForConditionalGeneration):
            module.compile_objectives()
    return model
