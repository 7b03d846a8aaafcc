"""Targets like those of a large teacher, a small teacher that computes, and pictures, for tests of stored targets."""

import numpy as np
import torch
from PIL import Image

from geovr_hf import GeometryTargets
from geovr_hf.data.clip import Clip
from geovr_hf.teachers import TeacherSpec
from geovr_hf.teachers.images import ImageRule


TILE = 28


def realistic_targets(frames=2, grid=(14, 18), channels=1024, layers=4, seed=0) -> GeometryTargets:
    """Targets of the documented size, for fewer frames: smooth depth, few outlier channels, confidence from 1 on.

    Features of a transformer are correlated across tokens, have a few channels far larger than the others, and
    tokens of different length.
    """
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    features = []
    for _ in range(layers):
        outliers = torch.ones(channels)
        outliers[torch.randperm(channels, generator=generator)[: max(1, channels // 128)]] = 40.0
        shared = 0.7 * randn(1, 1, 1, channels)
        features.append((shared + randn(frames, *grid, channels)) * outliers * randn(frames, *grid, 1).mul(0.3).exp())
    height, width = grid[0] * TILE, grid[1] * TILE
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    time = torch.arange(frames)[:, None, None]
    depth = 0.4 + rows + 0.3 * torch.sin(6 * columns + 0.1 * time) + 0.8 * (columns > 0.6)
    confidence = 1 + (2 * torch.cos(5 * rows + 3 * columns + time) + 0.1 * randn(frames, height, width)).exp()
    pose = torch.cat([0.1 * randn(frames, 3), randn(frames, 4), torch.full((frames, 2), 1.0)], dim=1)
    return GeometryTargets(
        pose_enc=pose,
        depth=depth,
        depth_confidence=confidence,
        metric_scale=torch.tensor(2.3),
        features=features,
        features_pooled=True,
    )


def spec(name="stand-in", layers=2, channels=64, patch_size=14, pool_size=2, rule=None) -> TeacherSpec:
    return TeacherSpec(
        name=name,
        num_layers=layers,
        alignment_layers=tuple(range(layers)),
        depth_layers=(0, 0, 1, 1),
        hidden_size=channels,
        patch_size=patch_size,
        pool_size=pool_size,
        image_rule=rule or ImageRule(longest_side=56, multiple=28),
        licence="apache-2.0",
        non_commercial=False,
    )


class PixelTeacher:
    """A teacher whose targets are functions of the pixels: another picture, other targets."""

    def __init__(self, fingerprint="pixels-1", channels=64, patch_size=14):
        self.spec = spec(channels=channels, patch_size=patch_size)
        self.fingerprint = fingerprint
        self.calls = 0

    def targets(self, clip):
        self.calls += 1
        frames = (clip if isinstance(clip, torch.Tensor) else clip.frames).float() / 255
        grey = frames.mean(-1)[:, None]
        patches, side = 2 * self.spec.patch_size, self.spec.patch_size
        depth = torch.nn.functional.interpolate(grey, (2 * patches, patches))[:, 0] + 0.5
        grid = torch.nn.functional.interpolate(grey, (2 * patches // side, patches // side))[:, 0, :, :, None]
        waves = torch.arange(1.0, self.spec.hidden_size + 1)
        mean = grey.mean((1, 2, 3))
        return GeometryTargets(
            pose_enc=mean[:, None] * torch.linspace(0.1, 1, 9),
            depth=depth,
            depth_confidence=1 + (depth > 0.6).float(),
            metric_scale=1 + mean.mean(),
            features=[torch.sin(grid * waves), torch.cos(grid * waves)],
        )


def clip(num_frames=3, seed=0, source="somewhere else", size=(64, 32)) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    return Clip(
        frames=torch.randint(0, 256, (num_frames, *size, 3), generator=generator, dtype=torch.uint8),
        timestamps=torch.arange(num_frames, dtype=torch.float64) / 2,
        source=source,
        frame_indices=tuple(range(num_frames)),
    )


def image_folder(path, num_images=4, seed=0, size=(64, 32)):
    """A folder of pictures, which is a clip without any video codec."""
    path.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(num_images):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path / f"{index}.png")
    return path


def assert_same_targets(one: GeometryTargets, other: GeometryTargets, **tolerance):
    for name in ("pose_enc", "depth", "depth_confidence", "metric_scale"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine.float(), theirs.float(), **tolerance, msg=name)
    assert (one.features is None) == (other.features is None)
    for mine, theirs in zip(one.features or [], other.features or [], strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), **tolerance)
