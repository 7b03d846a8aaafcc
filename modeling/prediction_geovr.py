"""Metric geometry out of a model's raw predictions."""

from dataclasses import dataclass

import torch

from .geometry_geovr import pose_encoding_to_cameras, relative_to_first, world_points


@dataclass
class GeoVRGeometry:
    r"""Metric geometry of one clip of `T` frames. OpenCV cameras (x right, y down, z forward), frame 0 is the world.

    Args:
        intrinsics (`torch.FloatTensor` of shape `(T, 3, 3)`): Pinhole matrices in pixels of `depth`.
        cam_from_world (`torch.FloatTensor` of shape `(T, 3, 4)`): `[R | t]` with `t` in metres.
        depth (`torch.FloatTensor` of shape `(T, H, W)`): Depth along the camera's z axis in metres.
        points (`torch.FloatTensor` of shape `(T, H, W, 3)`): Every pixel's point in the world, in metres.
        metric_scale (`torch.FloatTensor` of shape `()`): Metres in one unit of the raw prediction.
    """

    intrinsics: torch.Tensor
    cam_from_world: torch.Tensor
    depth: torch.Tensor
    points: torch.Tensor
    metric_scale: torch.Tensor


def metric_geometry(pose_enc: torch.Tensor, depth: torch.Tensor, metric_scale: torch.Tensor) -> GeoVRGeometry:
    r"""Bring one clip's predictions to metres and to the first camera's frame.

    The predicted first pose is near the identity, not at it; all poses are taken relative to it.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(T, 9)`): Cameras, as in [`GeometryTargets`].
        depth (`torch.FloatTensor` of shape `(T, H, W)`): Depth in teacher units.
        metric_scale (`torch.FloatTensor` of shape `()`): Metres in one teacher unit.

    Returns:
        [`GeoVRGeometry`]: In float32, on the device of `depth`.
    """
    pose_enc, scale = pose_enc.float().to(depth.device), metric_scale.float().to(depth.device)
    cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc, tuple(depth.shape[-2:]))
    cam_from_world = relative_to_first(cam_from_world)
    cam_from_world = torch.cat([cam_from_world[..., :3], cam_from_world[..., 3:] * scale], dim=-1)
    depth = depth.float() * scale
    points = world_points(depth, intrinsics, cam_from_world)
    return GeoVRGeometry(intrinsics, cam_from_world, depth, points, scale)
