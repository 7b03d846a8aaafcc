"""Means of many named values, kept on the device until somebody asks."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator


class RunningMeans:
    r"""Weighted means of named scalars.

    Adding never waits for the device; reading waits once, and with several processes communicates once.

    Args:
        names (`Sequence[str]`): All names, the same on every process: one that has seen no value must still take part.
    """

    def __init__(self, names: Sequence[str]):
        self._names = list(names)
        self.clear()

    def clear(self):
        """Forget everything."""
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, torch.Tensor | float] = {}

    def add(self, name: str, total: torch.Tensor, count: torch.Tensor | float = 1.0):
        """Add a sum of values and how many they are.

        Args:
            name (`str`): Name of the mean.
            total (`torch.Tensor` of shape `()`): Sum of the values.
            count (`torch.Tensor` of shape `()` or `float`, *optional*, defaults to 1.0): Their number or weight.
        """
        if name not in self._names:
            raise KeyError(f"{name!r} is none of {self._names}.")
        self._sums[name] = self._sums.get(name, 0.0) + total.detach().float()
        self._counts[name] = self._counts.get(name, 0.0) + count

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """Sum and count of each name that was added, of this process alone. Waits for the device."""
        return {name: (float(total), float(self._counts[name])) for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, tuple[float, float]]):
        """Go on from a saved state.

        Args:
            state (`dict`): What `state_dict` gave. Names of other runs are left out.
        """
        known = {name: pair for name, pair in state.items() if name in self._names}
        self._sums = {name: total for name, (total, _) in known.items()}
        self._counts = {name: count for name, (_, count) in known.items()}

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Read the means over all processes, and forget them.

        Args:
            accelerator ([`~accelerate.Accelerator`]): What reduces over processes. All of them have to call.

        Returns:
            `dict[str, float]`: The mean of each name that was added anywhere, in the order of the names.
        """
        table = torch.zeros(2, len(self._names), device=accelerator.device)
        for column, name in enumerate(self._names):
            if name in self._sums:
                table[0, column] = self._sums[name]
                table[1, column] = self._counts[name]
        self.clear()
        sums, counts = accelerator.reduce(table, reduction="sum").tolist()
        return {name: total / count for name, total, count in zip(self._names, sums, counts, strict=True) if count > 0}
