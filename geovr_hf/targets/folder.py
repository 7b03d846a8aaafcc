"""A folder of targets: read in training as a teacher that has seen every clip before, and written clip by clip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.teachers.teacher import TeacherSpec

from .digests import clip_key, content_digest
from .encoding import encode_targets
from .files import (
    SUFFIX,
    TargetFileError,
    TargetRecord,
    read_record,
    read_target_file,
    target_path,
    verify_target_file,
    write_target_file,
)
from .index import UNREADABLE, missing_of_index, read_unreadable
from .manifest import MANIFEST, Manifest, MetricTerms, sampling_text
from .whole_files import unfinished_files


logger = logging.get_logger(__name__)


class MissingTargetsError(ValueError):
    """A folder has no targets of a clip. The message names the clip, how it was sampled, and the cure."""


class LeftOutClipError(MissingTargetsError, UnreadableClipError):
    """`geovr precompute` could not read a clip or show it to the teacher: computing again will not help."""


class TargetFolder:
    """Targets that a teacher computed once, read back clip by clip. It is a teacher itself.

    Give it to the data set, so that the `DataLoader`'s workers read: `VideoDataset(rows, root, teacher=folder)`. It
    holds no open files and may be copied to any process. A clip is known by the content of its source, so media may
    be moved or renamed; a changed video, another sampling or another frame size never gets a stranger's targets.

    Args:
        path (`str` or `Path`):
            The folder.
        missing (`str`, *optional*, defaults to `"raise"`):
            What a clip without targets does: `"raise"` an error, or `"none"`: it gets no targets, which is logged for
            the first such clip of each process and counted in `num_missing`.

    Attributes:
        manifest ([`Manifest`]): What all its files have in common.
        spec ([`TeacherSpec`]): Layout and terms of the teacher that computed the targets.
        fingerprint (`str`): That teacher's fingerprint.

    Raises:
        ValueError: The folder is none of targets, or `missing` is unknown.

    Example:
    ```python
    >>> from geovr_hf.data import VideoDataset
    >>> from geovr_hf.targets import TargetFolder

    >>> folder = TargetFolder("targets/vggt")
    >>> dataset = VideoDataset(rows, "media", num_frames=32, teacher=folder)
    ```
    """

    def __init__(self, path: str | Path, missing: Literal["raise", "none"] = "raise") -> None:
        if missing not in ("raise", "none"):
            raise ValueError(f'`missing` must be "raise" or "none", got {missing!r}.')
        self.path = Path(path)
        self.missing = missing
        self.manifest = Manifest.read(path)
        self._missing_keys: set[str] = set()
        self._unreadable = {Path(source).parts: reason for source, reason in read_unreadable(path).items()}

    @property
    def spec(self) -> TeacherSpec:
        """Layout and terms of the teacher that computed the targets."""
        return self.manifest.spec

    @property
    def metric(self) -> MetricTerms | None:
        """Name and terms of the network that gave metric scale."""
        return self.manifest.metric

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the teacher that computed the targets."""
        return self.manifest.fingerprint

    @property
    def num_missing(self) -> int:
        """Number of different clips that this process asked for in vain."""
        return len(self._missing_keys)

    def targets(self, clip: Clip | torch.Tensor) -> GeometryTargets | None:
        """Targets of a clip, as they were computed for the same frames of the same source.

        Half-precision tensors are memory-mapped: they cost nothing until they are used. Do not write into them.

        Returns:
            [`GeometryTargets`] or `None`: `None` if the folder has none of this clip and `missing="none"`.

        Raises:
            MissingTargetsError: The folder has none of this clip; [`LeftOutClipError`] if `unreadable.json` lists it.
            TargetFileError: Their file is damaged.
        """
        key = self.key(clip)
        try:
            return read_target_file(target_path(self.path, key), key)[0]
        except FileNotFoundError:
            error = self._left_out_error(clip) or self._missing_error(clip)
        if self.missing == "raise":
            raise error
        if not self._missing_keys:
            logger.warning(f"{error}. Clips like this one get no targets.")
        self._missing_keys.add(key)
        return None

    def check_readable(self, clip: Clip) -> None:
        """Check, unless clips without targets are welcome, that a clip was not left out when targets were computed.

        Raises:
            LeftOutClipError: `unreadable.json` lists the clip, and the folder has no targets of it.
        """
        error = self._left_out_error(clip) if self.missing == "raise" else None
        if error is not None and not target_path(self.path, self.key(clip)).exists():
            raise error

    def key(self, clip: Clip | torch.Tensor) -> str:
        """Name under which the folder keeps a clip's targets."""
        return teacher_key(self.manifest, clip)

    def records(self) -> Iterator[TargetRecord]:
        """What the header of each file says, in the order of the keys.

        Raises:
            TargetFileError: A header is damaged.
        """
        return (read_record(path) for path in self.files())

    def files(self) -> list[Path]:
        """The target files, in the order of the keys."""
        return sorted((self.path / "clips").glob(f"*/*{SUFFIX}"))

    def verify(self, progress: bool = False) -> list[str]:
        """Read every file in full and compare it with its checksum, its name and the manifest; miss none of the index.

        Args:
            progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

        Returns:
            `list[str]`: What is wrong, one line for each bad or missing file, with its path. Empty if all is well.
        """
        problems = missing_of_index(self.path)
        for path in tqdm(self.files(), desc="Verifying", unit="clip", disable=not progress):
            try:
                verify_target_file(path, self.fingerprint)
            except (TargetFileError, OSError) as error:
                problems.append(str(error))
        return problems

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.files())

    def __iter__(self) -> Iterator[TargetRecord]:
        return self.records()

    def __repr__(self) -> str:
        return f"TargetFolder({str(self.path)!r}, fingerprint={self.fingerprint!r})"

    def _left_out_error(self, clip: Clip | torch.Tensor) -> LeftOutClipError | None:
        """The error for a clip that `unreadable.json` lists, by its path below the media root."""
        parts = () if isinstance(clip, torch.Tensor) else Path(clip.source).parts
        listed = [self._unreadable[end] for i in range(len(parts)) if (end := parts[i:]) in self._unreadable]
        if not listed:
            return None
        return LeftOutClipError(
            f"{self.path} has no targets of {clip.source}; {UNREADABLE} there says why: {listed[0].rstrip('.')}. "
            "Leave its rows out (`data: {on_bad_sample: skip}`), or train on them without targets (`teacher: "
            "{options: {missing: none}}`)."
        )

    def _missing_error(self, clip: Clip | torch.Tensor) -> MissingTargetsError:
        sampling = sampling_text(self.manifest.sampling)
        if isinstance(clip, torch.Tensor):
            return MissingTargetsError(
                f"{self.path} has no targets of these {len(clip)} bare frames. It knows clips by their source: give "
                "the folder to the data set (`VideoDataset(..., teacher=folder)`), not to the trainer."
            )
        indices = ", ".join(map(str, clip.frame_indices[:4])) + (", …" if len(clip) > 4 else "")
        return MissingTargetsError(
            f"{self.path} has no targets of {clip.source}, {len(clip)} frames ({indices}) of {clip.image_size[0]} x "
            f"{clip.image_size[1]} pixels. The folder is of {self.spec.name}, sampled by {sampling}. Sample the clip "
            f"so, or compute what is missing: geovr precompute --data … --teacher {self.spec.name} --out {self.path}"
        )


class TargetWriter:
    """Adds targets to a folder, which it makes if need be.

    Args:
        path (`str` or `Path`): The folder.
        manifest ([`Manifest`]): What its files have in common; see [`Manifest.of`].

    Raises:
        ValueError: The folder holds targets of another teacher, sampling or format.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        if (self.path / MANIFEST).exists():
            Manifest.read(path).check_same(manifest, path)
        elif self.path.exists() and not set(self.path.iterdir()) <= set(unfinished_files(path)):
            raise ValueError(f"{path} is not empty, and no folder of targets. Choose another one.")
        else:
            manifest.write(path)

    def key(
        self, clip: Clip | torch.Tensor, content: str | None = None, frame_size: tuple[int, int] | None = None
    ) -> str:
        """Name under which the folder keeps a clip's targets; arguments as of `write`."""
        return teacher_key(self.manifest, clip, content, frame_size)

    def write(
        self,
        clip: Clip | torch.Tensor,
        targets: GeometryTargets,
        *,
        source: str | None = None,
        content: str | None = None,
        frame_size: tuple[int, int] | None = None,
    ) -> Path:
        """Write the targets of a clip.

        Args:
            clip ([`Clip`] or `torch.ByteTensor` of shape `(T, H, W, 3)`): The clip that the teacher looked at.
            targets ([`GeometryTargets`]): What it said, on any device.
            source (`str`, *optional*): What to call the clip's source, by default its path.
            content (`str`, *optional*): [`content_digest`] of the clip, if it is known already.
            frame_size (`tuple[int, int]`, *optional*): Height and width of the frames as the data set reads them, if
                the clip's were resized since.

        Returns:
            `Path`: The file.

        Raises:
            ValueError: The targets are not sound, or not of the clip's number of frames.
        """
        bare = isinstance(clip, torch.Tensor)
        content = content_digest(clip) if content is None else content
        source = source or ("frames" if bare else clip.source)
        frames = clip if bare else clip.frames
        if targets.num_frames not in (None, len(frames)):
            raise ValueError(f"{source} has {len(frames)} frames, its targets have {targets.num_frames}.")
        tensors, facts = encode_targets(targets, self.manifest.format, self.manifest.spec, source)
        frame_size = tuple(frames.shape[1:3]) if frame_size is None else frame_size
        key = teacher_key(self.manifest, clip, content, frame_size)
        metadata = {
            "key": key,
            "fingerprint": self.manifest.fingerprint,
            "content": content,
            "source": source,
            "frame_indices": list(range(len(clip)) if bare else clip.frame_indices),
            "frame_size": list(frame_size),
            "timestamps": None if bare else clip.timestamps.tolist(),
            "sampling": self.manifest.sampling,
            "facts": facts,
        }
        path = target_path(self.path, key)
        write_target_file(path, tensors, metadata)
        return path


def teacher_key(
    manifest: Manifest,
    clip: Clip | torch.Tensor,
    content: str | None = None,
    frame_size: tuple[int, int] | None = None,
) -> str:
    """[`clip_key`] of a clip for the teacher of a manifest."""
    bare = isinstance(clip, torch.Tensor)
    return clip_key(
        content_digest(clip) if content is None else content,
        range(len(clip)) if bare else clip.frame_indices,
        frame_size or tuple((clip if bare else clip.frames).shape[1:3]),
        manifest.fingerprint,
        manifest.spec.image_rule,
    )
