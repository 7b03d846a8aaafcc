"""Clips from video files, read with PyAV: exact frames, real timestamps, no needless decoding."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.images import read_image_folder
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.extras import import_extra


if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


def read_clip(
    path: str | Path,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    min_frames: int = 4,
    max_frames: int | None = 32,
    start: float | None = None,
    end: float | None = None,
    image_rate: float = 1.0,
) -> Clip:
    """Read frames of a video file, or of a folder of images, as a clip.

    Frames are chosen by presentation time ([`FrameSampling`]) before anything is decoded; then only the groups of
    pictures that hold a chosen frame are decoded, with the same result as decoding the whole file. A rotation stored
    in the container is applied, so frames are upright. (ARKitScenes' videos are stored as the device was held, some
    sideways, with no such mark: nothing in the file tells, so they are returned as they are.)

    Args:
        path (`str` or `Path`):
            Video file, or folder of images ([`list_frames`]).
        num_frames (`int`, *optional*):
            Number of equally spaced frames. A shorter source gives all it has.
        fps (`float`, *optional*):
            Frames per second instead of `num_frames`. With neither, 2.
        min_frames (`int`, *optional*, defaults to 4):
            Fewest frames when sampling by `fps`.
        max_frames (`int`, *optional*, defaults to 32):
            Most frames when sampling by `fps`; `None` for no limit.
        start (`float`, *optional*):
            Seconds from the first frame of the source at which to begin.
        end (`float`, *optional*):
            Seconds from the first frame of the source at which to end, inclusive.
        image_rate (`float`, *optional*, defaults to 1.0):
            Images per second of a folder, which has no clock. Videos keep their own.

    Returns:
        [`Clip`]: One frame is a legal clip.

    Raises:
        UnreadableClipError: The file is missing, empty, truncated, damaged, not a video, or has no frame between
            `start` and `end`. The message names the file and the reason.
        ValueError: Contradictory sampling, or a rate that is not positive, of a folder.
        ImportError: PyAV is not installed (and `path` is no folder).
    """
    sampling = FrameSampling(num_frames, fps, min_frames, max_frames, start, end)
    return read_sampled_clip(path, sampling, image_rate)


def read_sampled_clip(path: str | Path, sampling: FrameSampling, image_rate: float = 1.0) -> Clip:
    """[`read_clip`] with the sampling as one object."""
    if Path(path).is_dir():
        return read_image_folder(path, sampling, image_rate)
    return read_video(path, sampling)


def read_video(path: str | Path, sampling: FrameSampling) -> Clip:
    """[`read_sampled_clip`] of a video file."""
    av = import_av()
    try:
        with _open(path) as container:
            stream = _video_stream(container, path)
            index = _PacketIndex.of(container, stream, path)
        chosen = sampling.choose(index.seconds, index.frame_seconds)
        if len(chosen) == 0:
            raise UnreadableClipError(
                f"{path}: no frame between {sampling.start} and {sampling.end} seconds; "
                f"its {len(index.pts)} frames end at {index.seconds[-1]:.3f} s."
            )
        wanted = [index.pts[position] for position in chosen]
        pictures = {}
        # Most formats seek by presentation time, transport streams by decoding time. A seek by the wrong clock, or in
        # a file whose index lies, may land too late. Then give up the short cut, not the frames.
        for clock in ("pts", "dts", None):
            if missing := [pts for pts in wanted if pts not in pictures]:
                pictures |= _decode_groups(path, index, missing, clock)
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableClipError(f"{path}: cannot decode this file: {error}") from error
    if missing := [pts for pts in wanted if pts not in pictures]:
        raise UnreadableClipError(
            f"{path}: {len(missing)} of {len(wanted)} frames cannot be decoded, "
            f"the first at {index.seconds[index.pts.index(missing[0])]:.3f} s."
        )
    frames = [pictures[pts] for pts in wanted]
    if len({frame.shape for frame in frames}) > 1:
        raise UnreadableClipError(f"{path}: the picture size changes within the clip.")
    return Clip(
        frames=torch.stack([torch.from_numpy(frame) for frame in frames]),
        timestamps=torch.from_numpy(index.seconds[chosen]),
        source=str(path),
        frame_indices=tuple(chosen.tolist()),
    )


class _Keyframe(NamedTuple):
    """When a keyframe is shown and when it is decoded, in ticks."""

    pts: int
    dts: int


@dataclass(frozen=True)
class _PacketIndex:
    """What the packets of a video stream tell before any is decoded.

    `pts` are the presentation times of the frames that will be shown, sorted, in ticks; `seconds` the same, from the
    first frame on. `keyframes` are the places where decoding may begin, sorted by `pts`.
    """

    pts: list[int]
    seconds: np.ndarray
    frame_seconds: float
    keyframes: list[_Keyframe]

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream, path: str | Path) -> _PacketIndex:
        """Read all packets; cheap, since none is decoded."""
        shown, keyframes, span, end = set(), [], 0, 0.0
        for packet in container.demux():
            if packet.size == 0:  # PyAV's request to flush the decoder
                continue
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if packet.is_corrupt:
                raise UnreadableClipError(f"{path}: the file is truncated or damaged after {len(shown)} frames.")
            if packet.pts is None:
                raise UnreadableClipError(
                    f"{path}: the container stores no presentation times. Put the video into one that does: "
                    "ffmpeg -fflags +genpts -i INPUT -c copy OUTPUT.mkv"
                )
            if packet.is_keyframe:
                keyframes.append(_Keyframe(packet.pts, packet.pts if packet.dts is None else packet.dts))
            if not packet.is_discard:  # an edit list may decode frames only to throw them away
                shown.add(packet.pts)
                span = packet.duration or span
        _check_whole(container, end, path)
        if not shown or not keyframes:
            raise UnreadableClipError(f"{path}: the video stream has no frame.")
        keyframes.sort()
        # Frames shown before the first keyframe refer to pictures that are not in the file.
        pts = sorted(tick for tick in shown if tick >= keyframes[0].pts)
        if not pts:
            raise UnreadableClipError(f"{path}: the video stream has no frame that can be decoded.")
        ticks = np.array(pts, dtype=np.float64) - pts[0]
        return cls(pts, ticks * float(stream.time_base), span * float(stream.time_base), keyframes)

    def keyframe_before(self, pts: int) -> _Keyframe:
        """The last keyframe shown no later than `pts`: from there on every frame up to `pts` can be decoded.

        By presentation, not by position in the file: with open groups of pictures some frames stored after a
        keyframe are shown before it and need the group before.
        """
        return self.keyframes[bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts) - 1]


def _check_whole(container: InputContainer, end: float, path: str | Path) -> None:
    """Compare the time at which the last packet of any stream ends with the duration that the header promises."""
    if container.duration is None:
        return
    promised = container.duration / 1e6  # both in microseconds
    found = end - (container.start_time or 0) / 1e6
    if promised - found > max(1.0, 0.02 * promised):  # muxers round, and sound may end a little before or after
        raise UnreadableClipError(
            f"{path}: the file is truncated: its header promises {promised:.1f} s, its data end at {found:.1f} s."
        )


def _decode_groups(
    path: str | Path, index: _PacketIndex, wanted: list[int], clock: Literal["pts", "dts"] | None
) -> dict[int, np.ndarray]:
    """Decode the frames at the sorted ticks `wanted`: RGB arrays of shape `(H, W, 3)` by tick.

    `clock` is the one to seek the keyframes by; with `None` everything is decoded from the start. Frames that a seek
    failed to reach are left out.
    """
    pictures = {}
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = torch.get_num_threads()  # 1 in the workers of a DataLoader
        for keyframe, ticks in groupby(wanted, key=index.keyframe_before) if clock else [(None, wanted)]:
            ticks = set(ticks)
            last = max(ticks)
            if clock:
                container.seek(getattr(keyframe, clock), stream=stream, backward=True)
            for frame in container.decode(stream):
                if clock and frame.pts < keyframe.pts:  # an open group's, without the group before it: not sound
                    continue
                if frame.is_corrupt:
                    raise UnreadableClipError(f"{path}: the picture data are damaged at tick {frame.pts}.")
                if frame.pts in ticks and frame.pts not in pictures:
                    pictures[frame.pts] = _upright_rgb(frame)
                if frame.pts >= last:
                    break
    return pictures


def _upright_rgb(frame) -> np.ndarray:
    """A decoded frame as RGB, turned by the container's display rotation (counter-clockwise, multiples of 90)."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4).copy()


def _open(path: str | Path) -> InputContainer:
    # Titles and tags are not needed, and may be in any encoding.
    return import_av().open(str(path), metadata_errors="ignore")


def _video_stream(container: InputContainer, path: str | Path) -> VideoStream:
    stream = container.streams.best("video")  # not a cover picture
    if stream is None:
        raise UnreadableClipError(f"{path}: the file has no video stream.")
    if stream.codec_context is None:
        raise UnreadableClipError(f"{path}: FFmpeg, as PyAV brings it, cannot decode its video stream. Convert it.")
    return stream


def import_av() -> ModuleType:
    """The module `av`.

    Raises:
        ImportError: PyAV is not installed. The message names the extra that brings it.
    """
    return import_extra("av", "video", "Reading video files needs PyAV")
