"""The metric-scale target: how many metres one unit of a teacher's geometry is.

As published: a metric depth network sees the frames too, and the scale is the least-squares
factor from the teacher's depth to metric depth over pixels that are not sky and that the teacher is sure of.
"""

import torch
import torch.nn.functional as F

from geovr_hf.modeling.losses_geovr import masked_quantile


# DA3METRIC's depth is for a camera of this focal length, in pixels of the image given to the network.
CANONICAL_FOCAL_LENGTH = 300.0
METRIC_PATCH_SIZE = 14
MAX_SKY = 0.3
MIN_METRIC_DEPTH = 1e-2
MIN_TEACHER_DEPTH = 1e-3


def metric_image_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Size of the metric network's image: the teacher's, with sides rounded to multiples of its patch.

    Teachers of patch 14 have such sides already. VGGT-Omega's, of patch 16, change: halves go to the even multiple.

    Args:
        image_size (`tuple[int, int]`): Height and width of the teacher's image in pixels.

    Returns:
        `tuple[int, int]`: Height and width in pixels.
    """
    height, width = (round(side / METRIC_PATCH_SIZE) * METRIC_PATCH_SIZE for side in image_size)
    return height, width


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images or maps bilinearly, without antialiasing, as published.

    Args:
        maps (`torch.FloatTensor` of shape `(T, H, W)` or `(T, C, H, W)`): Maps or images.
        size (`tuple[int, int]`): Wanted height and width.

    Returns:
        `torch.FloatTensor` of shape `(T, *size)` or `(T, C, *size)`: The resized maps; the input if nothing changes.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    batched = maps if maps.ndim == 4 else maps[:, None]
    resized = F.interpolate(batched, tuple(size), mode="bilinear", align_corners=False)
    return resized if maps.ndim == 4 else resized[:, 0]


def depth_in_metres(canonical_depth: torch.Tensor, focal_length: torch.Tensor) -> torch.Tensor:
    """Depth in metres from DA3METRIC's depth for a canonical camera.

    Args:
        canonical_depth (`torch.FloatTensor` of shape `(T, H, W)`): The network's depth.
        focal_length (`torch.FloatTensor` of shape `(T,)`): Mean focal length in pixels of these maps.

    Returns:
        `torch.FloatTensor` of shape `(T, H, W)`: Depth along z in metres.
    """
    return canonical_depth * (focal_length / CANONICAL_FOCAL_LENGTH)[..., None, None]


def alignment_mask(
    depth: torch.Tensor, confidence: torch.Tensor, metric_depth: torch.Tensor, sky: torch.Tensor
) -> torch.Tensor:
    """Pixels that the metric scale is fitted on: not sky, not too near, teacher at least as sure as on half of them.

    Args:
        depth (`torch.FloatTensor` of shape `(T, H, W)`): Teacher's depth in its own unit.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`): Teacher's confidence; 0 means no measurement.
        metric_depth (`torch.FloatTensor` of shape `(T, H, W)`): Depth in metres.
        sky (`torch.FloatTensor` of shape `(T, H, W)`): Sky score of the metric network; sky from 0.3 on.

    Returns:
        `torch.BoolTensor` of shape `(T, H, W)`: The pixels.
    """
    candidates = (sky < MAX_SKY) & (confidence > 0)
    sure = confidence >= masked_quantile(confidence, candidates, 0.5)
    return candidates & sure & (metric_depth > MIN_METRIC_DEPTH) & (depth > MIN_TEACHER_DEPTH)


def least_squares_scale(target: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The factor `s` that makes `s * source` nearest to `target`: <target, source> / <source, source>.

    Args:
        target (`torch.FloatTensor` of any shape): What to reach.
        source (`torch.FloatTensor` of the same shape): What to scale.
        mask (`torch.BoolTensor` of the same shape, *optional*): Which elements count; all by default.

    Returns:
        `torch.FloatTensor` of shape `()`: The factor; 0 if the source is zero or nothing counts, as published.

    Raises:
        ValueError: The shapes differ.
    """
    if target.shape != source.shape:
        raise ValueError(
            f"`target` and `source` must have one shape, got {tuple(target.shape)} and {tuple(source.shape)}."
        )
    if mask is not None:
        target, source = torch.where(mask, target, 0), torch.where(mask, source, 0)
    return (target * source).sum() / source.square().sum().clamp(min=1e-12)


def metric_scale_target(
    depth: torch.Tensor, confidence: torch.Tensor, metric_depth: torch.Tensor, sky: torch.Tensor
) -> torch.Tensor | None:
    """Metres in one unit of a teacher's depth, by a metric network's depth of the same frames.

    Args:
        depth (`torch.FloatTensor` of shape `(T, H, W)`):
            Teacher's depth in its own unit.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`):
            Teacher's confidence; 0 means no measurement.
        metric_depth (`torch.FloatTensor` of shape `(T, h, w)`):
            Depth in metres. The teacher's depth and confidence are resized to it.
        sky (`torch.FloatTensor` of shape `(T, h, w)`):
            Sky score; sky from 0.3 on.

    Returns:
        `torch.FloatTensor` of shape `()` or `None`: The scale, or `None` if no pixel qualifies: the clip then has no
        scale objective. (The published code trains such a clip towards a scale of 0.)
    """
    size = tuple(metric_depth.shape[-2:])
    depth, confidence = resize_maps(depth, size), resize_maps(confidence, size)
    mask = alignment_mask(depth, confidence, metric_depth, sky)
    return least_squares_scale(metric_depth, depth, mask) if mask.any() else None
