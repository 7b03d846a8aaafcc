"""Batches that leave their worker in a few pieces of memory instead of hundreds."""

from typing import Any

import torch
from torch.utils.data import get_worker_info

from geovr_hf.modeling.map_tensors_geovr import map_tensors


SMALL = 1 << 20  # bytes: what is larger is not copied
ALIGNMENT = 64  # bytes


def leave_worker(batch: dict[str, Any]) -> dict[str, Any]:
    """Make a batch ready to leave a worker; in the main process it stays as it is.

    Each piece of memory passes to the main process by a file descriptor and a connection of its own, half a
    millisecond in which that process launches nothing, and a batch of many clips has ten small tensors for each.

    Args:
        batch (`dict`): A batch.

    Returns:
        `dict`: The same batch, its small tensors in one piece of memory.
    """
    return batch if get_worker_info() is None else in_one_storage(batch)


def in_one_storage(batch: dict[str, Any]) -> dict[str, Any]:
    """Copy the small tensors of a batch into one piece of memory; see [`leave_worker`]."""
    small: dict[int, torch.Tensor] = {}

    def collect(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.nbytes < SMALL:
            small[id(tensor)] = tensor
        return tensor

    map_tensors(batch, collect)
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in small.values()]
    memory, start = torch.empty(sum(sizes), dtype=torch.uint8), 0
    copies = {}
    for (key, tensor), size in zip(small.items(), sizes, strict=True):
        copies[key] = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        start += size
    return map_tensors(batch, lambda tensor: copies.get(id(tensor), tensor))
