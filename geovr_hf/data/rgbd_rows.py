"""Training rows from recorded RGB-D: clips, their measured geometry, and questions the recording itself answers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from geovr_hf.data.camera_questions import (
    DISPLACEMENT_TEXT,
    SMALLEST_TURN,
    TURN_OPTIONS,
    TURN_TEXT,
    center_depth_text,
    turn_between,
)
from geovr_hf.data.rgbd import RGBDRecording
from geovr_hf.modeling.targets_geovr import GeometryTargets


NUMBER_INSTRUCTION = "Please answer the question using a single word or phrase."
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """A question about a clip and its exact answer."""

    question_type: str
    text: str
    answer: str
    options: tuple[str, ...] | None = None


class RGBDRows(Dataset):
    """Decoded rows of a recording, read when asked for; see [`rgbd_rows`]."""

    def __init__(self, recording: RGBDRecording, windows: list[tuple[int, ...]], depth_size: tuple[int, int]) -> None:
        """Ask every question that the recording answers about each clip of `windows`."""
        self.recording = recording
        self.depth_size = depth_size
        self.items = [(window, question) for window in windows for question in ask(recording, window)]
        self._last: tuple[tuple[int, ...], dict[str, Any], GeometryTargets] | None = None

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A decoded row."""
        window, question = self.items[index]
        content, targets = self._clip(window)
        prompt = [content, {"type": "text", "text": question.text}]
        return {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
            ],
            "geometry_targets": targets,
            "id": f"{self.recording.folder.name}-{window[0]:06d}-{question.question_type}",
            "question_type": question.question_type,
            "answer": question.answer,
            "options": None if question.options is None else list(question.options),
        }

    def clip_key(self, index: int) -> tuple[int, ...]:
        """The frames that row `index` is about."""
        return self.items[index][0]

    def _clip(self, window: tuple[int, ...]) -> tuple[dict[str, Any], GeometryTargets]:
        """A clip and its targets, from memory if the row before was about the same."""
        if self._last is None or self._last[0] != window:
            content = self.recording.clip(window).content()
            self._last = window, content, self.recording.targets(window, self.depth_size)
        return self._last[1:]


def rgbd_rows(
    recording: RGBDRecording,
    clip_length: int,
    stride: int,
    *,
    depth_size: tuple[int, int],
    frames: tuple[int, int] | None = None,
    hop: int = 1,
) -> RGBDRows:
    """Cut a recording into clips and ask about each what the recording knows.

    Split by time, not by clip: give `frames=(0, n)` to training and `frames=(n, len(recording))` to evaluation, and no
    frame is in both.

    Args:
        recording ([`RGBDRecording`]):
            The scene.
        clip_length (`int`):
            Frames per clip.
        stride (`int`):
            Recorded frames from one frame of a clip to the next.
        depth_size (`tuple[int, int]`):
            Height and width of the depth targets: multiples of the model's depth tile (28 by default).
        frames (`tuple[int, int]`, *optional*):
            First frame and end (exclusive) of the part to use. Defaults to the whole recording.
        hop (`int`, *optional*, defaults to 1):
            Recorded frames from the start of one clip to the start of the next.

    Returns:
        [`RGBDRows`]: Decoded rows. Clips with a frame whose pose is not known are left out.

    Raises:
        ValueError: A number is not positive, or no clip fits.
    """
    if min(clip_length, stride, hop) < 1:
        raise ValueError(f"`clip_length`, `stride`, `hop` must be positive, got {clip_length}, {stride}, {hop}.")
    start, stop = frames or (0, len(recording))
    if not 0 <= start < stop <= len(recording):
        raise ValueError(f"`frames` must be a range within 0..{len(recording)}, got {(start, stop)}.")
    span = (clip_length - 1) * stride + 1
    known = set(recording.valid_frames)
    windows = [tuple(range(first, first + span, stride)) for first in range(start, stop - span + 1, hop)]
    windows = [window for window in windows if known.issuperset(window)]
    if not windows:
        raise ValueError(
            f"{recording.folder}: no clip of {clip_length} frames, {stride} apart, with known poses fits into frames "
            f"{start} to {stop}. Shorten the clips or the stride."
        )
    return RGBDRows(recording, windows, depth_size)


def ask(recording: RGBDRecording, window: tuple[int, ...]) -> list[Question]:
    """The questions about one clip, with answers computed from poses and depth.

    Args:
        recording ([`RGBDRecording`]): The scene.
        window (`tuple[int, ...]`): Frames of the clip, all with known pose.

    Returns:
        `list[Question]`: How far the camera moved (`camera_displacement`, metres), which way it turned (`camera_turn`,
        only if by 10 degrees or more), and how far the surface at the centre of one frame is (`center_depth`, metres,
        only if measured; the frame goes round with the clip).
    """
    first, last = recording.world_from_cam[window[0]], recording.world_from_cam[window[-1]]
    questions = []
    if len(window) > 1:
        distance = np.linalg.norm(last[:3, 3] - first[:3, 3])
        text = f"{DISPLACEMENT_TEXT}\n{NUMBER_INSTRUCTION}"
        questions.append(Question("camera_displacement", text, f"{distance:.2f}"))
    turn = turn_between(first, last)
    if abs(turn) >= SMALLEST_TURN:
        text = "\n".join((TURN_TEXT, "Options:", *TURN_OPTIONS, CHOICE_INSTRUCTION))
        questions.append(Question("camera_turn", text, "A" if turn < 0 else "B", TURN_OPTIONS))
    position = window[0] % len(window)
    depth = recording.depth(window[position], (1, 1)).item()
    if math.isfinite(depth):
        text = f"{center_depth_text(position, len(window))}\n{NUMBER_INSTRUCTION}"
        questions.append(Question("center_depth", text, f"{depth:.2f}"))
    return questions
