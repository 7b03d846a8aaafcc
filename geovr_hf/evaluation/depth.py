"""Depth against measured depth: as it is, or after the best scale, or the best scale and shift, of the clip.

A network without metric scale is judged after alignment, and numbers under different alignments say different things:
each result carries the name of its own.
"""

from typing import Literal, NamedTuple

import torch

from geovr_hf.trainers.metrics import depth_errors


DepthAlignment = Literal["raw", "median", "scale-and-shift"]
DEPTH_ALIGNMENTS: tuple[DepthAlignment, ...] = ("raw", "median", "scale-and-shift")


class DepthMetrics(NamedTuple):
    """Depth errors over the measured pixels of a clip.

    Args:
        abs_rel (`float`): Mean of `|p - t| / t`. Lower is better.
        rmse (`float`): Root of the mean squared error, in the unit of the truth. Lower is better.
        delta (`float`): Share of pixels with `max(p / t, t / p) < 1.25`. Higher is better.
    """

    abs_rel: float
    rmse: float
    delta: float


def depth_metrics(
    prediction: torch.Tensor,
    target: torch.Tensor,
    confidence: torch.Tensor | None = None,
    alignment: DepthAlignment = "raw",
) -> DepthMetrics | None:
    r"""Compare the depth maps of a clip where the truth was measured.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, H, W)`): Predicted depth.
        target (`torch.FloatTensor` of shape `(T, H, W)`): True depth. Without `confidence`, 0 means no measurement.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*): Pixels with confidence 0 take no part.
        alignment (`str`, *optional*, defaults to `"raw"`): See [`align_depth`].

    Returns:
        [`DepthMetrics`] or `None`: `None` if nothing was measured.

    Raises:
        ValueError: Shapes differ, or the alignment is unknown.
    """
    if prediction.shape != target.shape or (confidence is not None and confidence.shape != target.shape):
        shapes = [tuple(depth.shape) for depth in (prediction, target, confidence) if depth is not None]
        raise ValueError(f"Depth maps must have one shape, got {shapes}. Resize the prediction to the truth's size.")
    measured = target > 0 if confidence is None else confidence > 0
    if not measured.any():
        return None
    prediction, target = prediction[measured].double(), target[measured].double()
    prediction = align_depth(prediction, target, alignment)
    errors = depth_errors(prediction, target)
    rmse = (prediction - target).square().mean().sqrt()
    return DepthMetrics(float(errors.abs_rel), float(rmse), float(errors.delta))


def align_depth(prediction: torch.Tensor, target: torch.Tensor, alignment: DepthAlignment) -> torch.Tensor:
    r"""Bring predicted depth to the scale of the truth.

    - `raw`: as it is.
    - `median`: times `median(t) / median(p)`. Depth whose median is not positive has no scale and stays as it is: a
      scale of the other sign would make the opposite of the truth right. At least half of its pixels are then wrong.
    - `scale-and-shift`: `a p + b` with the least squared error to `t`. The fit is on depth, not on its inverse.

    Args:
        prediction (`torch.FloatTensor`): Predicted depth at measured pixels, of a frame or of a whole clip.
        target (`torch.FloatTensor`): True depth of the same shape.
        alignment (`str`): One of the names above.

    Returns:
        `torch.FloatTensor`: Aligned depth.

    Raises:
        ValueError: Unknown alignment.
    """
    if alignment == "raw":
        return prediction
    if alignment == "median":
        median = prediction.median()
        return prediction if median <= 0 else prediction * (target.median() / median)
    if alignment == "scale-and-shift":
        centred, mean = prediction - prediction.mean(), target.mean()
        variance = centred.square().mean()
        # A constant prediction has no scale; the best it can be is the mean.
        scale = (centred * target).mean() / variance if variance > 0 else 0.0
        return scale * centred + mean
    raise ValueError(f"`alignment` must be one of {', '.join(DEPTH_ALIGNMENTS)}; got {alignment!r}.")
