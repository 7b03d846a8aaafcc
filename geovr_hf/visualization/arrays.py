"""From whatever holds the numbers (tensor on any device, array, list) to checked numpy arrays."""

from typing import Any

import numpy as np
import torch
from PIL import Image


def to_numpy(values: Any, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return `values` as a numpy array of the promised shape.

    Args:
        values (`torch.Tensor`, `np.ndarray` or nested `list`): the numbers; a tensor may be on any device and in bf16.
        name (`str`): what the numbers are, for the error message.
        shape (`tuple[int | None, ...]`): expected shape, `None` where any length is fine.

    Raises:
        ValueError: if the shape differs.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("*" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"`{name}` must have shape {wanted}, got {array.shape}.")
    return array


def to_frames(frames: Any) -> np.ndarray:
    """Return RGB frames as a uint8 array of shape (T, H, W, 3).

    Raises:
        ValueError: if the shape or the type is another; frames are never rescaled by guess.
    """
    array = to_numpy(frames, "frames", (None, None, None, 3))
    if array.dtype != np.uint8:
        raise ValueError(f"`frames` must be uint8 RGB, got {array.dtype}; convert to 0..255 first.")
    return array


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 frames (T, H, W, 3) to (T, height, width, 3), antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    resized = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image) for image in resized])


def camera_centres(cam_from_world: np.ndarray) -> np.ndarray:
    """Camera positions in the world, (T, 3), of camera-from-world matrices (T, 3, 4): `-R^T t`."""
    rotation, translation = cam_from_world[:, :, :3], cam_from_world[:, :, 3]
    return -np.einsum("tji,tj->ti", rotation, translation)


def viewing_directions(cam_from_world: np.ndarray) -> np.ndarray:
    """Unit vectors along the cameras' optical axes in the world, (T, 3): the third row of each rotation."""
    return cam_from_world[:, 2, :3]
