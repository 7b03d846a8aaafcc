"""Which frames of a video make a clip: a pure function of the frames' presentation times."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FrameSampling:
    """How many frames a clip has and from which stretch of its source they come.

    The frames are those nearest to equally spaced instants from the first to the last frame of the stretch. On a
    constant frame rate this picks the same frames as Qwen3-VL's own sampler. With neither `num_frames` nor `fps` the
    paper's sampling holds: 2 frames per second, 4 to 32 of them.

    Args:
        num_frames (`int`, *optional*):
            Number of frames. A source with fewer gives all it has; no frame is ever repeated.
        fps (`float`, *optional*):
            Frames per second of source time, instead of `num_frames`. Defaults to 2.
        min_frames (`int`, *optional*, defaults to 4):
            Fewest frames when sampling by `fps` (fewer only if the source has fewer).
        max_frames (`int`, *optional*, defaults to 32):
            Most frames when sampling by `fps`. `None` for no limit.
        start (`float`, *optional*):
            Start of the stretch in seconds from the first frame of the source, inclusive.
        end (`float`, *optional*):
            End of the stretch in seconds, inclusive.

    Raises:
        ValueError: Two ways of counting at once, or a value out of range.
    """

    num_frames: int | None = None
    fps: float | None = None
    min_frames: int = 4
    max_frames: int | None = 32
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        """Refuse contradictory settings."""
        if self.num_frames is not None and self.fps is not None:
            raise ValueError(f"Give `num_frames` or `fps`, not both: got {self.num_frames} and {self.fps}.")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {self.num_frames}.")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"`fps` must be positive, got {self.fps}.")
        if self.min_frames < 1 or (self.max_frames is not None and self.max_frames < self.min_frames):
            raise ValueError(f"Need 1 <= `min_frames` <= `max_frames`, got {self.min_frames} and {self.max_frames}.")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError(f"`end` must not come before `start`, got {self.start} and {self.end} seconds.")

    def choose(self, times: np.ndarray, duration: float) -> np.ndarray:
        """Choose frames.

        Args:
            times (`np.ndarray` of shape `(N,)`):
                Presentation times of all frames of the source in seconds, strictly increasing.
            duration (`float`):
                Time for which one frame is shown, in seconds: a stretch lasts until its last frame goes.

        Returns:
            `np.ndarray` of shape `(T,)`: Increasing positions in `times`; empty if the stretch holds no frame.
        """
        # Decimal seconds and clock ticks of 1/15360 s differ by rounding; a microsecond is far below any frame time.
        low = 0 if self.start is None else int(np.searchsorted(times, self.start - 1e-6))
        high = len(times) if self.end is None else int(np.searchsorted(times, self.end + 1e-6))
        times = times[low:high]
        if len(times) == 0:
            return np.empty(0, dtype=np.int64)
        return low + nearest_frames(times, self._count(times[-1] - times[0] + duration, len(times)))

    def _count(self, seconds: float, available: int) -> int:
        """Number of frames to take from `seconds` of video with `available` frames."""
        if self.num_frames is not None:
            return min(self.num_frames, available)
        wanted = max(int(seconds * (self.fps or 2.0) + 1e-6), self.min_frames)
        return min(wanted, available, self.max_frames or available)


def nearest_frames(times: np.ndarray, count: int) -> np.ndarray:
    """`count` different frames, each the nearest that is free to one of `count` equally spaced instants.

    Args:
        times (`np.ndarray` of shape `(N,)`): Strictly increasing presentation times, `N >= count >= 1`.
        count (`int`): Number of frames.

    Returns:
        `np.ndarray` of shape `(count,)`: Strictly increasing positions in `times`. A tie goes to the even position,
        as `numpy.round` decides it in Qwen3-VL's sampler.
    """
    if len(times) == 1:
        return np.zeros(1, dtype=np.int64)
    instants = np.linspace(times[0], times[-1], count)
    after = np.clip(np.searchsorted(times, instants), 1, len(times) - 1)
    before = after - 1
    lead = (instants - times[before]) - (times[after] - instants)
    nearest = np.where(np.isclose(lead, 0, atol=1e-9), after - after % 2, np.where(lead > 0, after, before))
    # Where frames are sparse two instants may share a nearest frame: push the later on, then back from the end.
    order = np.arange(count)
    pushed = np.maximum.accumulate(nearest - order) + order
    return np.minimum(pushed, len(times) - count + order)
