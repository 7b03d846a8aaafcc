"""Depth maps as files: exact 16-bit PNGs in millimetres, and colour previews."""

import os
from typing import Any

import numpy as np
from PIL import Image

from .arrays import to_numpy
from .atomic_files import atomic_path
from .plotting import DEPTH_COLORMAP, import_matplotlib


MILLIMETRES_PER_METRE = 1000.0
MAX_MILLIMETRES = 2**16 - 1


def write_depth_png(path: str | os.PathLike, depth: Any) -> None:
    """Write one depth map as a 16-bit greyscale PNG in millimetres, the form of ScanNet, TUM and most RGB-D tools.

    Args:
        path (`str` or `os.PathLike`): where to write.
        depth (`torch.Tensor` or `np.ndarray` of shape `(H, W)`): z-depth in metres. What the format cannot hold
            becomes 0, its "no measurement": values that are not positive or not finite, and those above 65.535 m.
    """
    depth = to_numpy(depth, "depth", (None, None)).astype(np.float64)
    storable = np.isfinite(depth) & (depth > 0) & (depth <= MAX_MILLIMETRES / MILLIMETRES_PER_METRE)
    millimetres = np.rint(np.where(storable, depth, 0.0) * MILLIMETRES_PER_METRE)
    with atomic_path(path) as temporary:
        Image.fromarray(millimetres.astype(np.uint16)).save(temporary)


def read_depth_png(path: str | os.PathLike) -> np.ndarray:
    """Read a 16-bit millimetre PNG back to metres: float32 of shape (H, W), 0 where nothing was measured."""
    with Image.open(path) as image:
        return np.asarray(image).astype(np.float32) / MILLIMETRES_PER_METRE


def depth_range(*depths: np.ndarray) -> tuple[float, float]:
    """The near and far ends of a colour scale for all `depths` together: 1st and 99th percentile of measured pixels.

    Percentiles, so that one stray pixel does not flatten every colour. Without any measured pixel, (0, 1).
    """
    measured = [depth[np.isfinite(depth) & (depth > 0)] for depth in depths]
    values = np.concatenate([depth.ravel() for depth in measured]) if measured else np.empty(0)
    if values.size == 0:
        return 0.0, 1.0
    near, far = np.percentile(values, [1, 99])
    return float(near), float(max(far, near + 1e-3))


def colourise_depth(depth: Any, near: float | None = None, far: float | None = None) -> np.ndarray:
    """Colour a depth map: near is bright yellow, far is dark violet, pixels without a measurement are grey.

    Args:
        depth (`torch.Tensor` or `np.ndarray` of shape `(H, W)`): z-depth in any unit.
        near (`float`, *optional*): near end of the scale in the same unit; by default the map's own 1st percentile.
        far (`float`, *optional*): far end of the scale; by default the 99th percentile. Give both to compare maps.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB.
    """
    depth = to_numpy(depth, "depth", (None, None))
    own_near, own_far = depth_range(depth)
    near, far = own_near if near is None else near, own_far if far is None else far
    measured = np.isfinite(depth) & (depth > 0)
    position = (np.where(measured, depth, near) - near) / max(far - near, 1e-6)
    colours = import_matplotlib().colormaps[DEPTH_COLORMAP](position.clip(0, 1))[..., :3]
    colours = np.where(measured[..., None], colours, 0.6)
    return np.rint(colours * 255).astype(np.uint8)


def write_colour_png(path: str | os.PathLike, colours: np.ndarray) -> None:
    """Write uint8 RGB `colours` of shape (H, W, 3) as a PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(colours).save(temporary)
