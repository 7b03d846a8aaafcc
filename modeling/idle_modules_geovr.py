"""Modules that a batch has no work for stay in the graph of a training step nevertheless.

Their parameters then have a gradient of zero, not none, and an update is the same however its batch is cut.

With several processes the modules are even called: every process calls all modules, in the same order. A module that
only some of them call makes the others wait forever, or lets gradients of different parameters be added up: DDP waits
for a gradient of every parameter, ZeRO-2 exchanges gradients in the order in which they appear, FSDP and ZeRO-3 gather
parameters when their module is called. So a batch without a clip sends a black frame through the vision tower, and a
head that has no clip to look at looks at a zero state. A single process spares itself these calls.
"""

import torch
from torch import distributed, nn


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters of a module, or of a part of it, are gathered when they are needed (FSDP2, ZeRO-3).

    Args:
        module (`nn.Module`): The module.

    Returns:
        `bool`.
    """
    return any(hasattr(p, "ds_id") or hasattr(p, "device_mesh") for p in module.parameters())


def idle_parameters(module: nn.Module) -> list[torch.Tensor]:
    """What keeps a module that is not called in the graph: its trained parameters.

    Args:
        module (`nn.Module`): The module.

    Returns:
        `list[nn.Parameter]`.
    """
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def idle_states(state: torch.Tensor) -> torch.Tensor:
    """A zero state for a head to look at. It has its place in the graph, where the hooks of wrappers expect it.

    Args:
        state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`): A hidden state.

    Returns:
        `torch.FloatTensor` of shape `(1, hidden_size)`.
    """
    return 0.0 * state.flatten(0, 1)[:1]


def idle_term(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Zero, with outputs or parameters of idle modules behind it.

    Args:
        tensors (`list[torch.FloatTensor]`): At least one.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    return 0.0 * sum(tensor.sum() for tensor in tensors)
