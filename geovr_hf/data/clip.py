"""A clip: the decoded frames that the model, the teachers and the pictures all look at."""

from dataclasses import dataclass
from typing import Any

import torch


class UnreadableClipError(ValueError):
    """A clip cannot be read: the file is missing, empty, truncated, damaged, or no video. The message names it.

    Datasets with `on_bad_sample="skip"` skip what raises this error and nothing else.
    """


@dataclass(frozen=True, eq=False)
class Clip:
    """`T` frames sampled from one video, with the place of each in its source.

    Args:
        frames (`torch.Tensor` of dtype `uint8` and shape `(T, H, W, 3)`):
            RGB frames, upright, row 0 at the top.
        timestamps (`torch.Tensor` of dtype `float64` and shape `(T,)`):
            Presentation time of each frame in seconds from the start of the source, strictly increasing.
        source (`str`):
            Where the frames come from: a file, a folder, or the name of a generated scene.
        frame_indices (`tuple[int, ...]` of length `T`):
            Number of each frame in the source, 0 being the first. A ground-truth teacher finds its records by
            `source` and `frame_indices`.

    Raises:
        ValueError: The four fields do not describe the same, non-empty list of frames.
    """

    frames: torch.Tensor
    timestamps: torch.Tensor
    source: str
    frame_indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse frames, times and numbers that do not belong together."""
        frames, timestamps = self.frames, self.timestamps
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"{self.source}: a clip's frames are uint8 of shape (T, H, W, 3), "
                f"got {frames.dtype} of shape {tuple(frames.shape)}."
            )
        if len(frames) == 0:
            raise ValueError(f"{self.source}: a clip needs at least one frame, got none.")
        if timestamps.dtype != torch.float64 or timestamps.shape != frames.shape[:1]:
            raise ValueError(
                f"{self.source}: a clip of {len(frames)} frames needs float64 timestamps of shape ({len(frames)},), "
                f"got {timestamps.dtype} of shape {tuple(timestamps.shape)}."
            )
        if len(self.frame_indices) != len(frames):
            raise ValueError(
                f"{self.source}: a clip of {len(frames)} frames needs as many frame indices, "
                f"got {len(self.frame_indices)}."
            )
        if not (timestamps.isfinite().all() and (timestamps.diff() > 0).all()):
            raise ValueError(
                f"{self.source}: timestamps must be finite and strictly increasing, got {timestamps.tolist()}."
            )

    def __len__(self) -> int:
        """Number of frames `T`."""
        return len(self.frames)

    @property
    def num_frames(self) -> int:
        """Number of frames `T`."""
        return len(self.frames)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def content(self) -> dict[str, Any]:
        """The clip as a content part of a chat message.

        Returns:
            `dict`: `{"type": "video", "video": frames, "timestamps": [seconds, ...]}`.
        """
        return {"type": "video", "video": self.frames, "timestamps": self.timestamps.tolist()}
