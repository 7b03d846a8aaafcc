r"""The geometric objectives as pure functions of predictions and targets of one clip.

By default each computes what the published implementation computes. Its quirks, and the option that avoids them:

- A quaternion and its negative are the same rotation, but far apart in L1: `camera_loss(align_quaternion_sign=True)`.
- Depth is compared as it is, in the teacher's arbitrary unit: [`silog_loss`] forgives a common factor.
- Coarse gradients look at every 2nd, 4th, 8th pixel and at nothing between: `depth_loss(gradient_pooling=True)`.
- The largest 2 % of the depth errors, often edges, teach nothing: `depth_loss(quantile=None)`.

Two differences are always on, though no clip of under ten million pixels with positive confidence feels them:
quantiles are exact and deterministic at any size (published: of a random sample above that), and confidence 0 means
no measurement.

Losses are computed in float32 whatever the inputs' dtype. Nothing here waits for the device: what depends on values is
selected with masks of fixed shape. A clip without any measured pixel has zero loss and zero gradients.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


# Bounds of the published losses, in the units of what they bound.
MAX_ERROR = 100.0
MIN_FILTERED_ELEMENTS = 1000
MIN_CONFIDENT_PIXELS = 100
MIN_GRADIENT_PIXELS = 10


class CameraLoss(NamedTuple):
    """Scalars of [`camera_loss`]: the weighted total and its unweighted parts."""

    total: torch.Tensor
    translation: torch.Tensor
    rotation: torch.Tensor
    fov: torch.Tensor


class DepthLoss(NamedTuple):
    """Scalars of [`depth_loss`]: the total and its parts, which sum to it."""

    total: torch.Tensor
    regression: torch.Tensor
    gradient: torch.Tensor
    confidence: torch.Tensor


def camera_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    translation_weight: float = 1.0,
    rotation_weight: float = 1.0,
    fov_weight: float = 0.5,
    align_quaternion_sign: bool = False,
) -> CameraLoss:
    r"""L1 distance of pose encodings, averaged over frames and numbers. A translation error counts as 100 at most.

    Args:
        prediction (`torch.FloatTensor` of shape `(..., 9)`):
            Predicted translation (3), quaternion x, y, z, w (4), vertical and horizontal field of view (2, radians).
        target (`torch.FloatTensor` of shape `(..., 9)`):
            Their targets.
        translation_weight (`float`, *optional*, defaults to 1.0):
            Weight of the translation's distance.
        rotation_weight (`float`, *optional*, defaults to 1.0):
            Weight of the quaternion's distance.
        fov_weight (`float`, *optional*, defaults to 0.5):
            Weight of the fields of view's distance.
        align_quaternion_sign (`bool`, *optional*, defaults to `False`):
            Whether to compare with the sign of the target quaternion that is nearer. The published loss does not.

    Returns:
        [`CameraLoss`]: Scalars.

    Raises:
        ValueError: The shapes differ or do not end with 9.
    """
    _check_same_shape(prediction, target)
    if prediction.shape[-1] != 9:
        raise ValueError(f"`prediction` must have shape (..., 9), got {tuple(prediction.shape)}.")
    prediction, target = prediction.float(), target.float()
    true_rotation = target[..., 3:7]
    if align_quaternion_sign:
        opposite = (prediction[..., 3:7] * true_rotation).sum(-1, keepdim=True) < 0
        true_rotation = torch.where(opposite, -true_rotation, true_rotation)
    translation = (prediction[..., :3] - target[..., :3]).abs().clamp(max=MAX_ERROR).mean()
    rotation = (prediction[..., 3:7] - true_rotation).abs().mean()
    fov = (prediction[..., 7:] - target[..., 7:]).abs().mean()
    total = translation_weight * translation + rotation_weight * rotation + fov_weight * fov
    return CameraLoss(total, translation, rotation, fov)


def depth_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    confidence: torch.Tensor | None = None,
    *,
    filter_ratio: float = 0.0,
    quantile: float | None = 0.98,
    gradient_scales: int = 4,
    gradient_pooling: bool = False,
    predicted_confidence: torch.Tensor | None = None,
    alpha: float = 0.2,
    gamma: float = 1.0,
) -> DepthLoss:
    r"""L1 distance of depth without its largest errors, plus the L1 distance of depth gradients at several scales.

    Args:
        prediction (`torch.FloatTensor` of shape `(T, H, W)`):
            Predicted depth.
        target (`torch.FloatTensor` of shape `(T, H, W)`):
            Its target. Any value is allowed where the confidence is 0.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*):
            Confidence of the target. 0 means no measurement: such a pixel takes no part in any term.
        filter_ratio (`float`, *optional*, defaults to 0.0):
            Share of the measured pixels, the least confident ones, that are left out. If fewer than 100 remain, all
            terms are zero.
        quantile (`float`, *optional*, defaults to 0.98):
            Share of the errors that are kept by [`filter_by_quantile`]; `None` keeps all.
        gradient_scales (`int`, *optional*, defaults to 4):
            Number of scales of the gradient term: strides 1, 2, 4, ... Scales with fewer than 10 pixels do not count.
        gradient_pooling (`bool`, *optional*, defaults to `False`):
            Whether a coarser scale averages the measured errors of its cells instead of picking one pixel of each.
        predicted_confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*):
            The model's confidence in its prediction, > 0. Adds the confidence term. No GeoVR head predicts it.
        alpha (`float`, *optional*, defaults to 0.2):
            Reward of a confidence's logarithm, in the confidence term.
        gamma (`float`, *optional*, defaults to 1.0):
            Weight of an error times its confidence, in the confidence term.

    Returns:
        [`DepthLoss`]: Scalars.

    Raises:
        ValueError: The shapes differ or have not three dimensions, `filter_ratio` is given without `confidence`, or it
            or `quantile` lies outside [0, 1].
    """
    measured = _measured_pixels(prediction, target, confidence, filter_ratio)
    if filter_ratio > 0:
        measured = measured & (measured.sum() >= MIN_CONFIDENT_PIXELS)
    residual = torch.where(measured, prediction.float() - target.float(), 0.0)
    error = residual.abs()
    regression = _robust_mean(error, measured, quantile)
    gradient = _gradient_distance(residual, measured, gradient_scales, gradient_pooling)
    uncertainty = torch.zeros_like(regression)
    if predicted_confidence is not None:
        _check_same_shape(prediction, predicted_confidence)
        weight = predicted_confidence.float()
        uncertainty = _robust_mean(gamma * error * weight - alpha * weight.log(), measured, quantile)
    return DepthLoss(regression + gradient + uncertainty, regression, gradient, uncertainty)


def silog_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    confidence: torch.Tensor | None = None,
    *,
    filter_ratio: float = 0.0,
    variance_focus: float = 0.5,
) -> torch.Tensor:
    r"""Scale-invariant logarithmic distance of depth: with `d` the log ratio, sqrt(mean d² - focus (mean d)² + 1e-6).

    Args:
        prediction (`torch.FloatTensor` of shape `(T, H, W)`):
            Predicted depth, > 0.
        target (`torch.FloatTensor` of shape `(T, H, W)`):
            Its target, > 0 where the confidence is.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*):
            Confidence of the target. 0 means no measurement: such a pixel takes no part.
        filter_ratio (`float`, *optional*, defaults to 0.0):
            Share of the measured pixels, the least confident ones, that are left out.
        variance_focus (`float`, *optional*, defaults to 0.5):
            How much of a factor common to all pixels is forgiven: 0 nothing, 1 all of it.

    Returns:
        `torch.FloatTensor` of shape `()`: The loss.

    Raises:
        ValueError: The shapes differ or have not three dimensions, or `filter_ratio` is given without `confidence`.
    """
    measured = _measured_pixels(prediction, target, confidence, filter_ratio)
    prediction, target = (torch.where(measured, depth.float(), 1.0) for depth in (prediction, target))
    log_ratio = prediction.log() - target.log()
    mean = _masked_mean(log_ratio, measured)
    mean_square = _masked_mean(log_ratio.square(), measured)
    return (mean_square - variance_focus * mean.square() + 1e-6).sqrt() * measured.any()


def scale_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""L1 distance of metric scales `s` as log(1 + s), averaged.

    Args:
        prediction (`torch.FloatTensor` of any shape): Predicted metres per unit, >= 0.
        target (`torch.FloatTensor` of the same shape): Their targets.

    Returns:
        `torch.FloatTensor` of shape `()`: The loss.

    Raises:
        ValueError: The shapes differ.
    """
    _check_same_shape(prediction, target)
    return F.l1_loss(prediction.float().log1p(), target.float().log1p())


def alignment_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""One minus the cosine between projected student features and teacher features, averaged over positions.

    Args:
        student (`torch.FloatTensor` of shape `(..., C)`): What the alignment head made of the hidden states.
        teacher (`torch.FloatTensor` of shape `(..., C)`): Teacher features on the same grid. Receives no gradient.

    Returns:
        `torch.FloatTensor` of shape `()`: The loss, in [0, 2].

    Raises:
        ValueError: The shapes differ.
    """
    return alignment_distance(student, teacher).mean()


def alignment_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """One minus the cosine between features `(..., C)` at every position, `(...)`; otherwise as [`alignment_loss`]."""
    _check_same_shape(student, teacher)
    return 1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)


def filter_by_quantile(
    values: torch.Tensor, mask: torch.Tensor, quantile: float = 0.98
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Leave out the largest of many values: those above their quantile (of its neighbours, the upper) or above 100.

    At most 1000 values are left alone. If the filter would keep fewer than 1000, all are kept, but bounded by 100.

    Args:
        values (`torch.FloatTensor` of any shape): The values.
        mask (`torch.BoolTensor` of the same shape): Which of them count.
        quantile (`float`, *optional*, defaults to 0.98): Share to keep.

    Returns:
        `tuple[torch.FloatTensor, torch.BoolTensor]`: The values, bounded if need be, and which of them are kept.
    """
    count = mask.sum()
    ordered = torch.where(mask, values.detach(), torch.inf).flatten().sort().values
    lower, fraction = _quantile_rank(quantile, count)
    threshold = _element(ordered, lower + (fraction > 0)).clamp(max=MAX_ERROR)
    kept = mask & (values.detach() <= threshold)
    many = count > MIN_FILTERED_ELEMENTS
    enough = kept.sum() >= MIN_FILTERED_ELEMENTS
    bounded = torch.where(many & ~enough, values.clamp(max=MAX_ERROR), values)
    return bounded, torch.where(many & enough, kept, mask)


def masked_quantile(values: torch.Tensor, mask: torch.Tensor, quantile: float) -> torch.Tensor:
    r"""Quantile of the values under a mask, interpolated linearly. Exact for any number of values.

    Args:
        values (`torch.FloatTensor` of any shape): The values.
        mask (`torch.BoolTensor` of the same shape): Which of them count.
        quantile (`float`): Quantile in [0, 1].

    Returns:
        `torch.FloatTensor` of shape `()`: The quantile; infinite if the mask is empty.
    """
    ordered = torch.where(mask, values, torch.inf).flatten().sort().values
    lower, fraction = _quantile_rank(quantile, mask.sum())
    below, above = _element(ordered, lower), _element(ordered, lower + (fraction > 0))
    # `lerp` would turn the infinity of an empty mask into NaN.
    return torch.where(fraction > 0, below + fraction * (above - below), below)


def _element(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The element of a vector at an index on its device; `gather` would be compiled anew for each length."""
    return values[index.reshape(1)].reshape(())


def _quantile_rank(quantile: float, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Position of a quantile among `count` sorted values, as its integer part and its fraction.

    In integers: float32 cannot count ten million pixels times 0.98, and not every device has float64.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"A quantile or `filter_ratio` must lie in [0, 1], got {quantile}.")
    millionths = round(quantile * 1_000_000)
    position = (count - 1).clamp(min=0) * millionths
    return position // 1_000_000, (position % 1_000_000) / 1_000_000


def _measured_pixels(prediction, target, confidence, filter_ratio) -> torch.Tensor:
    """Mask of the pixels that have a target, without the share `filter_ratio` of the least confident."""
    _check_same_shape(prediction, target)
    if prediction.ndim != 3:
        raise ValueError(f"`prediction` must have shape (frames, height, width), got {tuple(prediction.shape)}.")
    if confidence is None:
        if filter_ratio > 0:
            raise ValueError(f"`filter_ratio` = {filter_ratio} needs the `confidence` it filters by, got None.")
        return torch.ones_like(prediction, dtype=torch.bool)
    _check_same_shape(prediction, confidence)
    measured = confidence > 0
    if filter_ratio > 0:
        confidence = confidence.float()
        measured = measured & (confidence > masked_quantile(confidence, measured, filter_ratio))
    return measured


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values under the mask; 0 if it is empty."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _robust_mean(values: torch.Tensor, mask: torch.Tensor, quantile: float | None) -> torch.Tensor:
    if quantile is not None:
        values, mask = filter_by_quantile(values, mask, quantile)
    return _masked_mean(values, mask)


def _gradient_distance(residual: torch.Tensor, mask: torch.Tensor, scales: int, pooling: bool) -> torch.Tensor:
    """Absolute differences between the residuals of neighbours: mean over pairs, sum over axes, mean over scales."""
    total = residual.new_zeros(())
    counted = mask.new_zeros((), dtype=torch.long)
    for scale in range(scales):
        coarse, valid = _downsample(residual, mask, 2**scale, pooling)
        distance = residual.new_zeros(())
        for axis in (-1, -2):
            size = coarse.shape[axis]
            both = valid.narrow(axis, 1, size - 1) & valid.narrow(axis, 0, size - 1)
            distance = distance + _masked_mean(coarse.diff(dim=axis).abs().clamp(max=MAX_ERROR), both)
        counts = valid.sum() >= MIN_GRADIENT_PIXELS
        total = total + torch.where(counts, distance, 0.0)
        counted = counted + counts
    return total / counted.clamp(min=1)


def _downsample(residual, mask, stride: int, pooling: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not pooling or stride == 1:
        return residual[:, ::stride, ::stride], mask[:, ::stride, ::stride]
    # The residual is 0 where nothing was measured, so this is the mean over the measured pixels of a cell.
    share = F.avg_pool2d(mask.to(residual.dtype), stride, ceil_mode=True)
    mean = F.avg_pool2d(residual, stride, ceil_mode=True) / torch.where(share > 0, share, 1.0)
    return mean, share > 0


def _check_same_shape(prediction: torch.Tensor, other: torch.Tensor):
    if prediction.shape != other.shape:
        raise ValueError(
            f"A prediction and its target must have one shape, got {tuple(prediction.shape)} and {tuple(other.shape)}."
        )
