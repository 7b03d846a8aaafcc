"""Exact geometry targets of a walk through a room."""

from dataclasses import dataclass

import numpy as np
import torch

from geovr_hf.modeling.geometry_geovr import matrix_to_quaternion, relative_to_first
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .camera import Walk
from .raycast import Hits


IMAGE_TILE = 32  # pixels of picture under one visual token of Qwen3-VL
DEPTH_TILE = 28  # pixels of depth map under one visual token, with the default teacher layout of GeoVRConfig


@dataclass(frozen=True)
class FeatureSpec:
    """Feature targets `coordinate-fourier`: where in the first camera's frame the things are that a token shows.

    The world points of a clip are averaged within each token's cell. Each of their three coordinates (in units of the
    clip's mean depth) is written as sine and cosine of `2 pi x / wavelength`. Every layer has wavelengths of its own:
    all of them together run geometrically from `longest` to `shortest`, the first layer having the longest. So shallow
    layers say roughly where, deep layers exactly where.

    Args:
        num_layers (`int`, *optional*, defaults to 4):
            Number of layers `L`.
        wavelengths (`int`, *optional*, defaults to 8):
            Wavelengths of a layer. A feature has `6 * wavelengths` channels: for each coordinate first the sines, then
            the cosines.
        longest (`float`, *optional*, defaults to 16.0):
            Longest wavelength in units.
        shortest (`float`, *optional*, defaults to 0.5):
            Shortest wavelength in units.

    Raises:
        ValueError: A value is out of range.
    """

    num_layers: int = 4
    wavelengths: int = 8
    longest: float = 16.0
    shortest: float = 0.5

    def __post_init__(self):
        if self.num_layers < 1 or self.wavelengths < 1:
            raise ValueError(
                f"`num_layers` and `wavelengths` must be at least 1, got {self.num_layers} and {self.wavelengths}."
            )
        if not 0 < self.shortest <= self.longest:
            raise ValueError(
                f"Wavelengths must run from `longest` to `shortest`, got {self.longest}, {self.shortest}."
            )

    @property
    def hidden_size(self) -> int:
        """Channels of a feature."""
        return 6 * self.wavelengths

    def encode(self, points: torch.Tensor) -> list[torch.Tensor]:
        """Encode points of shape `(..., 3)`, in units, into `num_layers` tensors of shape `(..., hidden_size)`."""
        bands = torch.logspace(
            np.log10(self.longest), np.log10(self.shortest), self.num_layers * self.wavelengths, dtype=points.dtype
        )
        features = []
        for wavelengths in bands.split(self.wavelengths):
            phase = 2 * torch.pi * points[..., None] / wavelengths
            features.append(torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2))
        return features


def token_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of visual tokens over a picture of the given height and width."""
    return max(1, round(image_size[0] / IMAGE_TILE)), max(1, round(image_size[1] / IMAGE_TILE))


def default_depth_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of depth maps of one `DEPTH_TILE` per visual token."""
    rows, columns = token_grid(image_size)
    return rows * DEPTH_TILE, columns * DEPTH_TILE


def check_depth_size(depth_size: tuple[int, int], grid: tuple[int, int], features: FeatureSpec | None):
    """Refuse depth maps that the token grid does not divide, from which feature targets could not be averaged.

    Raises:
        ValueError: A side is not positive, or feature targets are wanted and the grid does not divide it.
    """
    if min(depth_size) < 1:
        raise ValueError(f"`depth_size` must be a positive (height, width), got {depth_size}.")
    if features is not None and (depth_size[0] % grid[0] or depth_size[1] % grid[1]):
        raise ValueError(
            f"Feature targets are averages over the {grid[0]} x {grid[1]} visual tokens: `depth_size` must be a "
            f"multiple of that grid, got {depth_size}."
        )


def geometry_targets(
    walk: Walk, hits: Hits, grid: tuple[int, int], features: FeatureSpec | None = None
) -> GeometryTargets:
    """Targets of the frames of a walk.

    A unit is the mean depth over the whole clip, so `metric_scale` is that depth in metres.

    Args:
        walk: Cameras of `T` frames.
        hits: First hits of `walk.rays(depth_size)`: depth is exact at the centres of the depth map's own pixels.
        grid: Rows and columns of visual tokens, for the features.
        features: Feature targets to make, if any.

    Returns:
        `GeometryTargets`: With confidence 1, and 0 where a ray met nothing (depth is 0 there).
    """
    measured = hits.face >= 0
    unit = float(hits.depth[measured].mean(dtype=np.float64))
    cam_from_room = torch.from_numpy(np.linalg.inv(walk.room_from_cam))[:, :3]
    cam_from_first = relative_to_first(cam_from_room)
    fov = torch.tensor(walk.fov, dtype=torch.float64).expand(len(cam_from_first), 2)
    pose_enc = torch.cat([cam_from_first[..., 3] / unit, matrix_to_quaternion(cam_from_first[..., :3]), fov], dim=-1)
    return GeometryTargets(
        pose_enc=pose_enc.float(),
        depth=torch.from_numpy(hits.depth / np.float32(unit)),
        depth_confidence=torch.from_numpy(measured.astype(np.float32)),
        metric_scale=torch.tensor(unit, dtype=torch.float32),
        features=None if features is None else features.encode(_cell_points(walk, hits, grid, unit)),
        features_pooled=features is not None,
    )


def _cell_points(walk: Walk, hits: Hits, grid: tuple[int, int], unit: float) -> torch.Tensor:
    """Mean point of each token's cell in the first camera's frame, in units, shape `(T, h, w, 3)` float32."""
    frames, height, width = hits.face.shape
    cells = (frames, grid[0], height // grid[0], grid[1], width // grid[1])
    weight = (hits.face >= 0).reshape(*cells, 1)
    total = (hits.points.reshape(*cells, 3) * weight).sum(axis=(2, 4), dtype=np.float64)
    means = total / np.maximum(weight.sum(axis=(2, 4)), 1)
    first = walk.room_from_cam[0]
    return torch.from_numpy((means - first[:3, 3]) @ first[:3, :3] / unit).float()
