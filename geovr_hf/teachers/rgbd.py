"""Recorded RGB-D as a teacher."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geovr_hf.data.clip import Clip
from geovr_hf.data.rgbd import RGBDRecording
from geovr_hf.modeling.targets_geovr import GeometryTargets

from .images import ImageRule, teacher_image_size
from .teacher import TeacherSpec


SPEC = TeacherSpec(
    name="rgbd",
    num_layers=0,
    alignment_layers=(),
    depth_layers=(0, 1, 2, 3),
    hidden_size=0,
    patch_size=14,
    pool_size=2,
    image_rule=None,
    licence="that of the recording",
    non_commercial=False,
)


class RecordedRGBDTeacher:
    """Looks up what was measured: pose, depth and metric scale of the frames of one recording, and no features.

    It knows frames by their number, not by their looks. Clips come from [`RGBDRecording.clip`] or from
    [`~geovr_hf.data.read_clip`] on the recording's folder, whole and uncropped.

    Args:
        folder (`str` or `Path`):
            The recording, see [`RGBDRecording`].
        depth_size (`tuple[int, int]`, *optional*):
            Height and width of the depth maps, multiples of 28. By default what the published implementation makes
            its teachers see: the longer side 504, the other in proportion.
        options:
            Arguments of [`RGBDRecording`]: `intrinsics`, `frame_rate`.

    Raises:
        ValueError: The folder is no recording, or `depth_size` is not a multiple of 28.
    """

    def __init__(self, folder: str | Path, depth_size: tuple[int, int] | None = None, **options: Any) -> None:
        self.spec = SPEC
        self.recording = RGBDRecording(folder, **options)
        tile = SPEC.patch_size * SPEC.pool_size
        self.depth_size = depth_size or teacher_image_size(self.recording.image_size, ImageRule(504, tile))
        if any(side < 1 or side % tile for side in self.depth_size):
            raise ValueError(f"`depth_size` must be positive multiples of {tile}, got {self.depth_size}.")
        self.fingerprint = f"rgbd-{self._digest()[:12]}"

    def targets(self, clip: Clip | torch.Tensor) -> GeometryTargets:
        """Measured targets of a clip of the recording, see [`RGBDRecording.targets`].

        Raises:
            ValueError: The clip is bare frames, or comes from somewhere else than the recording's folder.
        """
        if not isinstance(clip, Clip):
            raise ValueError(
                "The rgbd teacher knows frames by their number, not by their looks: give it the `Clip` with its "
                f"`source` and `frame_indices`, not {type(clip).__name__}."
            )
        if Path(clip.source).resolve() != self.recording.folder.resolve():
            raise ValueError(
                f"The clip comes from {clip.source}, this teacher measured {self.recording.folder}. Make a teacher "
                "for each recording."
            )
        return self.recording.targets(clip.frame_indices, self.depth_size)

    def _digest(self) -> str:
        """Hash of all that the targets depend on; depth maps count by name and size."""
        files = self.recording.files
        digest = hashlib.sha256(np.ascontiguousarray(self.recording.world_from_cam).tobytes())
        for matrix in (files.color_intrinsics, files.depth_intrinsics):
            digest.update(b"" if matrix is None else np.ascontiguousarray(matrix, dtype=np.float64).tobytes())
        depths = [(frame.depth.name, frame.depth.stat().st_size) for frame in files.frames if frame.depth is not None]
        digest.update(repr((self.depth_size, files.depth_per_metre, depths)).encode())
        return digest.hexdigest()
