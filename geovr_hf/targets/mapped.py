"""Targets whose tensors are mapped from a file, passed to another process by the file's name."""

from dataclasses import fields
from pathlib import Path

import torch

from geovr_hf.modeling.targets_geovr import GeometryTargets


class MappedTargets(GeometryTargets):
    """Targets that are all mapped from one file.

    Pickled, as when a worker of a `DataLoader` hands a batch over, they are the file's name and its key, and the
    receiver maps the file again: copying 90 MB through shared memory costs more than everything else about reading
    them, and containers have little of it. Once a tensor was replaced or written into, they are pickled as tensors.
    """

    @classmethod
    def of(cls, targets: GeometryTargets, path: Path, key: str) -> "MappedTargets":
        """Targets as they have just been mapped from a file."""
        mapped = cls(**{field.name: getattr(targets, field.name) for field in fields(targets)})
        mapped._origin = (path, key, mapped._state())
        return mapped

    def _state(self) -> list[tuple[int, int]]:
        """Which tensors these are, and how often each was written into."""
        return [(id(tensor), tensor._version) for _, tensor in self._tensors()]

    def __reduce__(self):
        # What `dataclasses.replace` makes of them has no origin.
        path, key, state = getattr(self, "_origin", (None, None, None))
        if state == self._state():
            return read_again, (path, key)
        return GeometryTargets, tuple(getattr(self, field.name) for field in fields(self))


def read_again(path: Path, key: str) -> GeometryTargets:
    """Map a file that another process has mapped."""
    from .files import read_target_file

    return read_target_file(path, key)[0]


def is_mapped(targets: GeometryTargets, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether targets are these tensors and nothing that was computed from them."""
    ours = {id(tensor) for tensor in tensors.values()}
    return all(id(tensor) in ours for _, tensor in targets._tensors())
