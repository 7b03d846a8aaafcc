"""Do depth maps and cameras of a clip agree with each other? No truth is needed for that."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from geovr_hf.modeling.geometry_geovr import invert_pose, pose_encoding_to_cameras, world_points


class MultiViewConsistency(NamedTuple):
    """Agreement of the frames of a clip, over the pixels that one frame sees and another should see, too.

    Args:
        reprojection_px (`float`): Median distance, in pixels of the depth map, between a pixel and where it comes back
            to after a trip to the other frame's surface. Lower is better.
        depth_error (`float`): Median relative difference between the depth that a point has in the other frame and
            the depth that is predicted there. Lower is better. The median, because points that something hides from
            the other frame disagree even where all is right.
        consistent (`float`): Share of pixels with less than a pixel and less than a hundredth of difference, the
            usual test of multi-view stereo. Higher is better.
        overlap (`float`): Share of pixels that fall into the other frame.
    """

    reprojection_px: float
    depth_error: float
    consistent: float
    overlap: float


def multi_view_consistency(
    pose_enc: torch.Tensor,
    depth: torch.Tensor,
    confidence: torch.Tensor | None = None,
    pairs: list[tuple[int, int]] | None = None,
    max_pixels: float = 1.0,
    max_depth_error: float = 0.01,
) -> MultiViewConsistency | None:
    r"""Send every pixel of a frame to its point in the world, into another frame, and back.

    Between pixels the other frame's inverse depth is interpolated linearly, which is exact on planes.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(T, 9)`): Cameras, in the unit of the depth.
        depth (`torch.FloatTensor` of shape `(T, H, W)`): Depth along the camera's z axis.
        confidence (`torch.FloatTensor` of shape `(T, H, W)`, *optional*): Pixels with confidence 0 are left out.
        pairs (`list[tuple[int, int]]`, *optional*): Frames to compare, from and to. By default each with the next, in
            both directions.
        max_pixels (`float`, *optional*, defaults to 1.0): Bound of the reprojection distance in `consistent`.
        max_depth_error (`float`, *optional*, defaults to 0.01): Bound of the relative difference in `consistent`.

    Returns:
        [`MultiViewConsistency`] or `None`: `None` if no pixel of any pair falls into the other frame.

    Raises:
        ValueError: The number of frames differs, or a pair names a frame that is not there.
    """
    num_frames = len(depth)
    if pairs is None:
        pairs = [pair for t in range(num_frames - 1) for pair in ((t, t + 1), (t + 1, t))]
    if len(pose_enc) != num_frames or not all(0 <= t < num_frames for pair in pairs for t in pair):
        raise ValueError(f"{len(pose_enc)} cameras and {num_frames} depth maps do not give the pairs {pairs}.")
    if not pairs:
        return None
    usable = torch.isfinite(depth) & (depth > 0)
    if confidence is not None:
        usable &= confidence > 0
    depth = torch.where(usable, depth.double(), float("nan"))
    cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc.double(), tuple(depth.shape[-2:]))
    points = world_points(depth, intrinsics, cam_from_world)
    source, other = torch.tensor(pairs).T

    pixels, seen_depth = project(points[source], intrinsics[other], cam_from_world[other])
    other_depth = _sample_depth(depth[other], pixels)
    back = _lift(pixels, other_depth, intrinsics[other], cam_from_world[other])
    returned, _ = project(back, intrinsics[source], cam_from_world[source])
    home = project(points[source], intrinsics[source], cam_from_world[source])[0]

    lands = torch.isfinite(other_depth) & (seen_depth > 0)
    if not lands.any():
        return None
    distance = (returned - home).norm(dim=-1)[lands]
    # What comes back from behind the camera has no pixel: as far off as can be.
    distance = torch.nan_to_num(distance, nan=float("inf"))
    difference = ((other_depth - seen_depth).abs() / seen_depth)[lands]
    agree = (distance < max_pixels) & (difference < max_depth_error)
    overlap = lands.sum() / usable[source].sum()
    return MultiViewConsistency(
        float(distance.median()), float(difference.median()), float(agree.double().mean()), float(overlap)
    )


def project(
    points: torch.Tensor, intrinsics: torch.Tensor, cam_from_world: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Project points of the world into cameras.

    Args:
        points (`torch.FloatTensor` of shape `(N, H, W, 3)`): Points.
        intrinsics (`torch.FloatTensor` of shape `(N, 3, 3)`): Pinhole matrices in pixels, without skew.
        cam_from_world (`torch.FloatTensor` of shape `(N, 3, 4)`): Cameras.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]`: Pixels (x, y) of shape `(N, H, W, 2)`, the first pixel's centre
        being (0.5, 0.5), NaN behind the camera; and depth of shape `(N, H, W)`.
    """
    rotation, translation = cam_from_world[:, None, :, :3], cam_from_world[:, None, None, :, 3]
    in_camera = points @ rotation.mT + translation
    depth = in_camera[..., 2]
    focal, centre = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2], intrinsics[..., :2, 2]
    pixels = in_camera[..., :2] / depth[..., None] * focal[:, None, None] + centre[:, None, None]
    return torch.where(depth[..., None] > 0, pixels, float("nan")), depth


def _sample_depth(depth: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Depth at pixels between the centres of the outermost ones; NaN elsewhere, and beside what is not usable."""
    height, width = depth.shape[-2:]
    size = pixels.new_tensor([width, height])
    inside = ((pixels >= 0.5) & (pixels <= size - 0.5)).all(-1)
    # grid_sample mixes a neighbour of weight 0 in, too, and NaN times 0 is NaN: usable pixels are sampled apart.
    usable = torch.isfinite(depth)
    inverse = torch.stack([torch.where(usable, 1 / depth, 0.0), usable.to(depth.dtype)], dim=1)
    grid = torch.where(inside[..., None], 2 * pixels / size - 1, 0.0)
    sampled, weight = F.grid_sample(inverse, grid, align_corners=False).unbind(1)
    return torch.where(inside & (weight > 1 - 1e-9), 1 / sampled, float("nan"))


def _lift(
    pixels: torch.Tensor, depth: torch.Tensor, intrinsics: torch.Tensor, cam_from_world: torch.Tensor
) -> torch.Tensor:
    """Points of the world at pixels (x, y) of shape `(N, H, W, 2)` with a depth of shape `(N, H, W)`."""
    focal, centre = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2], intrinsics[..., :2, 2]
    rays = (pixels - centre[:, None, None]) / focal[:, None, None]
    in_camera = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1) * depth[..., None]
    world_from_cam = invert_pose(cam_from_world)
    return in_camera @ world_from_cam[:, None, :, :3].mT + world_from_cam[:, None, None, :, 3]
