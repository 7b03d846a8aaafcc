"""Cameras as one JSON file that states its own units, axes and direction."""

import json
import os
from collections.abc import Sequence
from typing import Any

from .arrays import to_numpy
from .atomic_files import atomic_path


CONVENTIONS = {
    "units": "metres for translations, pixels of the depth maps for intrinsics",
    "axes": "OpenCV: x right, y down, z forward",
    "cam_from_world": "3x4 [R|t]: a world point p is R p + t in the camera; the world is the first camera",
    "metric_scale": "metres in one unit of the model's own depth; already applied to every number here",
}


def cameras_to_dict(
    intrinsics: Any,
    cam_from_world: Any,
    metric_scale: float,
    image_size: tuple[int, int],
    timestamps: Sequence[float] | None = None,
) -> dict:
    """Collect the cameras of one clip in plain lists and numbers, with the conventions spelt out.

    Args:
        intrinsics (`torch.Tensor` or `np.ndarray` of shape `(T, 3, 3)`): pinhole matrices, in pixels of the depth map.
        cam_from_world (`torch.Tensor` or `np.ndarray` of shape `(T, 3, 4)`): extrinsics, metres, OpenCV axes.
        metric_scale (`float`): metres in one unit of the model's own depth.
        image_size (`tuple[int, int]`): height and width of the depth maps.
        timestamps (`Sequence[float]`, *optional*): seconds, one per frame.

    Raises:
        ValueError: if the arrays do not describe the same number of frames.
    """
    cam_from_world = to_numpy(cam_from_world, "cam_from_world", (None, 3, 4))
    num_frames = len(cam_from_world)
    intrinsics = to_numpy(intrinsics, "intrinsics", (num_frames, 3, 3))
    if timestamps is not None and len(timestamps) != num_frames:
        raise ValueError(f"`timestamps` has {len(timestamps)} entries for {num_frames} frames.")
    frames = []
    for index in range(num_frames):
        frame = {"frame": index} if timestamps is None else {"frame": index, "seconds": float(timestamps[index])}
        frame["intrinsics"] = intrinsics[index].tolist()
        frame["cam_from_world"] = cam_from_world[index].tolist()
        frames.append(frame)
    height, width = image_size
    return {
        "conventions": CONVENTIONS,
        "image_size": {"height": int(height), "width": int(width)},
        "metric_scale": float(metric_scale),
        "frames": frames,
    }


def write_cameras(path: str | os.PathLike, cameras: dict) -> None:
    """Write the result of `cameras_to_dict` as JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(cameras, indent=2) + "\n", encoding="utf-8")
