"""Coloured point clouds: from per-frame 3D points to binary PLY and GLB."""

import os
from types import ModuleType
from typing import Any

import numpy as np

from geovr_hf.extras import import_extra

from .arrays import resize_frames, to_frames, to_numpy
from .atomic_files import atomic_path


# glTF's axes are x right, y up, z towards the viewer; ours (OpenCV) are x right, y down, z forward.
GLTF_FROM_OPENCV = np.array([1.0, -1.0, -1.0])


def coloured_points(
    points: Any, frames: Any, valid: Any = None, max_points: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flatten per-frame point maps to one cloud coloured by the frames.

    Args:
        points (`torch.Tensor` or `np.ndarray` of shape `(T, H, W, 3)`): metres, in the first camera's frame.
        frames (`torch.Tensor` or `np.ndarray` of shape `(T, h, w, 3)`): uint8 RGB, resized to the point maps.
        valid (`torch.Tensor` or `np.ndarray` of shape `(T, H, W)`, *optional*): True where a point is to be kept.
            Points that are not finite are always left out.
        max_points (`int`, *optional*): keep at most this many, evenly spread over the clip.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: points (N, 3) float32 and colours (N, 3) uint8.

    Raises:
        ValueError: if the shapes do not agree.
    """
    points = to_numpy(points, "points", (None, None, None, 3))
    num_frames, height, width = points.shape[:3]
    frames = to_frames(frames)
    if len(frames) != num_frames:
        raise ValueError(f"`frames` has {len(frames)} frames and `points` {num_frames}; they must be the same clip.")
    keep = np.isfinite(points).all(axis=-1)
    if valid is not None:
        keep &= to_numpy(valid, "valid", (num_frames, height, width)).astype(bool)
    indices = np.flatnonzero(keep)
    if max_points is not None and len(indices) > max_points:
        # A seeded draw rather than a stride, which would leave lines of a raster in the cloud.
        indices = np.sort(np.random.default_rng(0).choice(indices, size=max_points, replace=False))
    colours = resize_frames(frames, height, width)
    return points.reshape(-1, 3)[indices].astype(np.float32), colours.reshape(-1, 3)[indices]


def _checked(points: Any, colours: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) float32 and colours (N, 3) uint8, of one length."""
    points = to_numpy(points, "points", (None, 3)).astype(np.float32)
    return points, to_numpy(colours, "colours", (len(points), 3)).astype(np.uint8)


def write_ply(path: str | os.PathLike, points: Any, colours: Any) -> None:
    """Write a coloured cloud as little-endian binary PLY; metres and OpenCV axes are kept and noted in the header.

    Args:
        path (`str` or `os.PathLike`): where to write.
        points (`np.ndarray` of shape `(N, 3)`): metres.
        colours (`np.ndarray` of shape `(N, 3)`): uint8 RGB.
    """
    points, colours = _checked(points, colours)
    vertices = np.empty(len(points), dtype=[(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("r", "g", "b")])
    for column, axis in enumerate("xyz"):
        vertices[axis] = points[:, column]
    for column, channel in enumerate("rgb"):
        vertices[channel] = colours[:, column]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres; OpenCV axes: x right, y down, z forward; origin is the first camera",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        "end_header\n",
    ]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())


def import_trimesh() -> ModuleType:
    """The module `trimesh`.

    Raises:
        ImportError: if it is not installed, naming the extra that brings it.
    """
    return import_extra("trimesh", "viz", "GLB export needs trimesh")


def write_glb(path: str | os.PathLike, points: Any, colours: Any) -> None:
    """Write a coloured cloud as binary glTF, which browsers and 3D viewers open; axes are turned to glTF's (y up).

    Args:
        path (`str` or `os.PathLike`): where to write.
        points (`np.ndarray` of shape `(N, 3)`): metres, OpenCV axes.
        colours (`np.ndarray` of shape `(N, 3)`): uint8 RGB.

    Raises:
        ImportError: if trimesh is not installed, naming the extra that brings it.
        ValueError: if there is no point; glTF has no empty cloud.
    """
    trimesh = import_trimesh()
    points, colours = _checked(points, colours)
    if len(points) == 0:
        raise ValueError("A GLB file needs at least one point, got none.")
    cloud = trimesh.PointCloud(points * GLTF_FROM_OPENCV, colors=colours)
    with atomic_path(path) as temporary:
        temporary.write_bytes(trimesh.Scene(cloud).export(file_type="glb"))
