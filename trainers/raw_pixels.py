"""Pixels that leave workers as the bytes they are, and become what a model takes on its device.

Bytes are a quarter of what float32 takes: less to compute and to move for workers, the process that collects their
batches, and the way to the GPU.
"""

from typing import Any

import torch


PIXELS = ("pixel_values", "pixel_values_videos")  # in a batch: of pictures and of clips
UNTOUCHED = {"do_rescale": False, "do_normalize": False}  # what a processor is told for the sake of bytes


class PixelScaler:
    r"""Scales and normalises patches of bytes, on their device, to the very values that the processor gives.

    Args:
        processor ([`GeoVRProcessor`]): Says how.
        dtype (`torch.dtype`): Of the result; the values are computed in float32.
    """

    def __init__(self, processor, dtype: torch.dtype):
        self.dtype = dtype
        self._parts = dict(zip(PIXELS, (processor.image_processor, processor.video_processor), strict=True))
        self._constants: dict[tuple[str, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace pixels of bytes in a batch; others stay as they are.

        Args:
            batch (`dict`): With `pixel_values` and `pixel_values_videos`, or without, of shape
                `(patches, channels * values of a channel)`.

        Returns:
            `dict`: The same, pixels that were bytes in `dtype`.
        """
        raw = {name: batch[name] for name in PIXELS if name in batch and batch[name].dtype == torch.uint8}
        return {**batch, **{name: self._scaled(name, pixels) for name, pixels in raw.items()}}

    def _scaled(self, name: str, pixels: torch.Tensor) -> torch.Tensor:
        part = self._parts[name]
        values = pixels.unflatten(1, (len(part.image_mean), -1)).float()
        if part.do_normalize:
            mean, std = self._constants_on(name, pixels.device)
            values = values.sub_(mean).div_(std)
        elif part.do_rescale:
            values = values * part.rescale_factor
        return values.flatten(1).to(self.dtype)

    def _constants_on(self, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of each channel, moved once, and so that nobody waits for the device."""
        if (name, device) not in self._constants:
            part = self._parts[name]
            factor = 1.0 / part.rescale_factor if part.do_rescale else 1.0
            mean, std = (torch.tensor(values)[:, None] * factor for values in (part.image_mean, part.image_std))
            self._constants[name, device] = tuple(value.to(device, non_blocking=True) for value in (mean, std))
        return self._constants[name, device]
