"""Work that runs beside other work on a GPU."""

from collections.abc import Callable
from functools import cache

import torch


def beside(name: str, function: Callable, tensor: torch.Tensor) -> Callable:
    """Start something that does not depend on what follows: on a GPU in a stream of its own, elsewhere at once.

    Worth it for many small kernels beside a few large ones. Two large networks beside each other gain nothing.

    Args:
        name (`str`): Name of the stream. What has one name runs one after the other.
        function (`Callable`): From a tensor to a sequence of tensors.
        tensor (`torch.Tensor`): Its argument.

    Returns:
        `Callable`: Has what follows wait for the tensors, and returns them. Call it in the stream of this call.
    """
    if tensor.device.type != "cuda":
        result = function(tensor)
        return lambda: result
    here, stream = torch.cuda.current_stream(tensor.device), _stream(tensor.device, name)
    stream.wait_stream(here)
    # The allocator would give the memory of a tensor that is dropped here to what follows here.
    tensor.record_stream(stream)
    with torch.cuda.stream(stream):
        result = function(tensor)
    done = stream.record_event()

    def join():
        here.wait_event(done)
        for value in result:
            value.record_stream(here)
        return result

    return join


@cache
def _stream(device: torch.device, name: str) -> torch.cuda.Stream:
    # Kept: the allocator and cuBLAS hold memory for every stream that was ever used.
    return torch.cuda.Stream(device)
