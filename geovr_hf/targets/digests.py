"""What a clip's targets depend on, as one name: the content of its source, its frames, and who looks at them."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.images import list_frames
from geovr_hf.teachers.images import ImageRule


# Part of every key: to be raised when the same key would stand for other targets.
KEY_VERSION = 1


def content_digest(clip: Clip | torch.Tensor) -> str:
    """Digest of what a clip was read from.

    Args:
        clip ([`Clip`] or `torch.ByteTensor` of shape `(T, H, W, 3)`): A clip, or bare frames.

    Returns:
        `str`: 64 hexadecimal digits: of the whole file for a video, of the sampled files in their order for a folder
        of images, of the frames themselves for anything that is no file, such as a rendered room.

    Raises:
        UnreadableClipError: The source has gone or lacks the sampled frames.
    """
    if isinstance(clip, torch.Tensor):
        return frames_digest(clip)
    source = Path(clip.source)
    if source.is_dir() or source.is_file():
        return source_digest(source, clip.frame_indices)
    return frames_digest(clip.frames)


def source_digest(source: str | Path, frame_indices: Sequence[int]) -> str:
    """[`content_digest`] of a clip that was, or is to be, read from a video file or a folder of images.

    Args:
        source (`str` or `Path`): The file or folder.
        frame_indices (`Sequence[int]`): The sampled images of a folder; a video file counts as a whole.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        UnreadableClipError: The source cannot be read or lacks a sampled image.
    """
    source = Path(source)
    try:
        if not source.is_dir():
            return _combined("video", [file_digest(source)])
        images = list_frames(source)
        if max(frame_indices) >= len(images):
            raise UnreadableClipError(
                f"{source}: frame {max(frame_indices)} was sampled, but the folder has {len(images)} images."
            )
        return _combined("images", [file_digest(images[index]) for index in frame_indices])
    except OSError as error:
        raise UnreadableClipError(f"{source}: cannot read this file: {error}") from error


def frames_digest(frames: torch.Tensor) -> str:
    """[`content_digest`] of frames that come from no file: their bytes and shape."""
    pixels = hashlib.sha256(frames.cpu().contiguous().numpy())
    return _combined("frames", [str(tuple(frames.shape)), pixels.hexdigest()])


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file. Remembered within the process for as long as the file system says nothing was changed.

    Raises:
        OSError: The file cannot be read.
    """
    stat = os.stat(path)
    identity = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
    return _file_digest(os.path.abspath(path), identity)


@lru_cache(maxsize=2**16)
def _file_digest(path: str, identity: tuple[int, ...]) -> str:
    """`identity` is here for the cache: the same path with another one is another file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clip_key(
    content: str,
    frame_indices: Sequence[int],
    frame_size: tuple[int, int],
    fingerprint: str,
    image_rule: ImageRule | None,
) -> str:
    """Name of a clip's targets. It does not depend on the format in which they are stored.

    Args:
        content (`str`): [`content_digest`] of the clip.
        frame_indices (`Sequence[int]`): Number of each frame in the source.
        frame_size (`tuple[int, int]`): Height and width of the frames in pixels.
        fingerprint (`str`): The teacher's.
        image_rule ([`ImageRule`] or `None`): How large the teacher wants its images.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    rule = None if image_rule is None else asdict(image_rule)
    parts = [content, [int(index) for index in frame_indices], [int(side) for side in frame_size], fingerprint, rule]
    return _combined(f"geovr-targets-{KEY_VERSION}", parts)


def _combined(kind: str, parts: list) -> str:
    return hashlib.sha256(json.dumps([kind, *parts], sort_keys=True).encode()).hexdigest()
