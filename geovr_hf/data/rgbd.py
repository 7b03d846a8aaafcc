"""Recorded RGB-D: clips with measured depth, camera path and metric scale."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.images import read_image
from geovr_hf.data.rgbd_layouts import find_recording
from geovr_hf.modeling.geometry_geovr import cameras_to_pose_encoding, invert_pose, relative_to_first
from geovr_hf.modeling.targets_geovr import GeometryTargets


logger = logging.get_logger(__name__)

NO_RETURN = (0, 65535)
"""Depth values with which sensors say that they measured nothing."""


class RGBDRecording:
    """One recorded scene in a folder, in one of the layouts of `geovr_hf.data.rgbd_layouts`.

    Pixel coordinates start at the top-left corner of the picture, so that the centre of the top-left pixel is
    (0.5, 0.5). Resizing a picture then scales its intrinsics and nothing else, and leaves the field of view alone.

    Args:
        folder (`str` or `Path`):
            The recording.
        intrinsics (`np.ndarray` of shape `(3, 3)`, *optional*):
            Pinhole matrix in pixels of the colour pictures, for recordings that do not hold it.
        frame_rate (`float`, *optional*, defaults to 30.0):
            Frame numbers per second, for layouts whose file names count frames.

    Attributes:
        image_size (`tuple[int, int]`): Height and width of the colour pictures.
        intrinsics (`np.ndarray` of shape `(3, 3)`): Colour intrinsics in pixels.
        world_from_cam (`np.ndarray` of shape `(N, 4, 4)`): Recorded poses in metres, OpenCV axes.
        valid_frames (`list[int]`): Frames whose pose is known.

    Raises:
        ValueError: The folder is no recording, or a file in it is missing or malformed.
    """

    def __init__(self, folder: str | Path, *, intrinsics: np.ndarray | None = None, frame_rate: float = 30.0) -> None:
        self.folder = Path(folder)
        self.files = find_recording(folder, frame_rate, intrinsics)
        self.intrinsics = self.files.color_intrinsics
        self.world_from_cam = np.stack([frame.world_from_cam for frame in self.files.frames])
        self.valid_frames = np.flatnonzero(np.isfinite(self.world_from_cam).all((1, 2))).tolist()
        width, height = read_image(self.files.frames[0].color).size
        self.image_size = (height, width)
        self._warn_if_off_centre()

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.files.frames)

    def backwards(self) -> "RGBDRecording":
        """The same scene as if the camera had gone the way back: frames in reverse order, with times that rise again.

        Training on both directions keeps a model from learning by heart which way this one camera went.
        """
        other = copy.copy(self)
        end = self.files.frames[-1].time
        frames = [replace(frame, time=end - frame.time) for frame in reversed(self.files.frames)]
        other.files = replace(self.files, frames=frames)
        other.world_from_cam = self.world_from_cam[::-1].copy()
        other.valid_frames = [len(self) - 1 - index for index in reversed(self.valid_frames)]
        return other

    def clip(self, indices: Sequence[int]) -> Clip:
        """Read colour frames.

        Args:
            indices (`Sequence[int]`): Frames, in increasing order.

        Returns:
            [`Clip`]: Times run from the first frame of the recording.

        Raises:
            UnreadableClipError: A picture cannot be read, or its size differs from the first's.
            ValueError: No frame, or one out of range or order.
        """
        self._check_indices(indices)
        frames = [torch.from_numpy(np.array(read_image(self.files.frames[index].color))) for index in indices]
        for index, frame in zip(indices, frames, strict=True):
            if tuple(frame.shape[:2]) != self.image_size:
                raise UnreadableClipError(
                    f"{self.files.frames[index].color}: size {tuple(frame.shape[:2])} differs from the "
                    f"recording's {self.image_size}."
                )
        times = [self.files.frames[index].time - self.files.frames[0].time for index in indices]
        return Clip(
            frames=torch.stack(frames),
            timestamps=torch.tensor(times, dtype=torch.float64),
            source=str(self.folder),
            frame_indices=tuple(int(index) for index in indices),
        )

    def targets(self, indices: Sequence[int], depth_size: tuple[int, int]) -> GeometryTargets:
        """Geometry of a clip.

        One unit is the mean measured depth of the clip, and `metric_scale` is that mean in metres. Depth is taken from
        the recorded pixel that holds the centre of a target pixel, never mixed from several. Where nothing was
        measured, and in frames whose pose is not known, `depth_confidence` is 0 and `depth` 1, else confidence is 1.

        Args:
            indices (`Sequence[int]`): Frames, in increasing order; the first is the world.
            depth_size (`tuple[int, int]`): Height and width of the depth targets.

        Returns:
            [`GeometryTargets`]: `pose_enc` is `None` if the pose of a frame is not known.

        Raises:
            UnreadableClipError: A depth map cannot be read.
            ValueError: No depth was measured at all, or an index is out of range or order.
        """
        self._check_indices(indices)
        posed = np.isfinite(self.world_from_cam[list(indices)]).all((1, 2))
        metres = np.stack([self.depth(index, depth_size) for index in indices])
        metres[~posed] = math.nan
        measured = np.isfinite(metres)
        if not measured.any():
            raise ValueError(f"{self.folder}: frames {list(indices)} hold no measured depth with a known pose.")
        unit = float(metres[measured].mean(dtype=np.float64))
        return GeometryTargets(
            pose_enc=self._pose_encoding(indices, unit) if posed.all() else None,
            depth=torch.from_numpy(np.where(measured, metres / unit, 1).astype(np.float32)),
            depth_confidence=torch.from_numpy(measured.astype(np.float32)),
            metric_scale=torch.tensor(unit, dtype=torch.float32),
        ).validate(f"{self.folder}, frames {list(indices)}")

    def depth(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """Depth of one frame as its colour camera sees it.

        Args:
            index (`int`): The frame.
            size (`tuple[int, int]`, *optional*): Height and width to sample. Defaults to the colour picture's.

        Returns:
            `np.ndarray` of dtype `float64` and shape `size`: z-depth in metres, NaN where nothing was measured.

        Raises:
            UnreadableClipError: The depth map cannot be read.
        """
        size = size or self.image_size
        path = self.files.frames[index].depth
        if path is None:
            return np.full(size, math.nan)
        recorded = _read_depth(path)
        row, row_inside = self._recorded_pixels(size[0], recorded.shape[0], axis=0)
        column, column_inside = self._recorded_pixels(size[1], recorded.shape[1], axis=1)
        values = recorded[row[:, None], column]
        known = ~np.isin(values, NO_RETURN) & row_inside[:, None] & column_inside
        return np.where(known, values / self.files.depth_per_metre, math.nan)

    def _recorded_pixels(self, count: int, recorded: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Row (`axis` 0) or column (1) of the depth map at each of `count` target pixels, and whether there is one.

        A depth camera with intrinsics of its own is taken to sit where the colour camera does.
        """
        position = (np.arange(count) + 0.5) / count
        if self.files.depth_intrinsics is None:
            pixels = position * recorded
        else:
            xy = 1 - axis
            focal, centre = self.intrinsics[xy, xy], self.intrinsics[xy, 2]
            ray = (position * self.image_size[axis] - centre) / focal
            pixels = self.files.depth_intrinsics[xy, xy] * ray + self.files.depth_intrinsics[xy, 2]
        nearest = np.floor(pixels).astype(np.int64)
        return nearest.clip(0, recorded - 1), (nearest >= 0) & (nearest < recorded)

    def _pose_encoding(self, indices: Sequence[int], unit: float) -> torch.Tensor:
        world_from_cam = torch.from_numpy(self.world_from_cam[list(indices), :3])
        cam_from_first = relative_to_first(invert_pose(world_from_cam))
        cam_from_first[..., 3] /= unit
        intrinsics = torch.from_numpy(self.intrinsics).expand(len(indices), 3, 3)
        return cameras_to_pose_encoding(cam_from_first, intrinsics, self.image_size).float()

    def _check_indices(self, indices: Sequence[int]) -> None:
        if len(indices) == 0 or min(indices) < 0 or max(indices) >= len(self):
            raise ValueError(f"{self.folder}: frames must lie in 0..{len(self) - 1}, got {list(indices)}.")
        if any(later <= earlier for earlier, later in zip(indices, indices[1:], strict=False)):
            raise ValueError(f"{self.folder}: frames must be in increasing order, got {list(indices)}.")

    def _warn_if_off_centre(self) -> None:
        """The pose encoding has no place for a principal point: it is the centre of the picture."""
        height, width = self.image_size
        focal_x, focal_y = self.intrinsics[0, 0], self.intrinsics[1, 1]
        off = math.hypot((self.intrinsics[0, 2] - width / 2) / focal_x, (self.intrinsics[1, 2] - height / 2) / focal_y)
        if off > 0.01:
            logger.warning(
                f"{self.folder}: the principal point lies {math.degrees(math.atan(off)):.1f} degrees off the centre "
                "of the picture, which a pose encoding cannot say. Points unprojected from the targets will be off by "
                "as much; crop the recording around the principal point to avoid it."
            )


def _read_depth(path: Path) -> np.ndarray:
    """A 16-bit depth map as stored, of shape `(H, W)`."""
    try:
        with Image.open(path) as image:
            if not image.mode.startswith("I"):
                raise UnreadableClipError(f"{path}: a depth map has one channel of 16 bits, got mode {image.mode!r}.")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise UnreadableClipError(f"{path}: cannot read this depth map: {error}") from error
