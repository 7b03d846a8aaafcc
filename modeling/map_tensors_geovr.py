"""One walk over the tensors of layouts, targets and batches."""

from dataclasses import fields, is_dataclass, replace

import torch


def map_tensors(value, function):
    """Apply a function to the tensors in dictionaries, sequences and dataclasses, and give these with its results."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if is_dataclass(value):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    return value
