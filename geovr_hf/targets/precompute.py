"""Filling a folder of targets: clips are decoded ahead and targets written behind, so that the teacher never waits."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from geovr_hf.data.clip import Clip, UnreadableClipError
from geovr_hf.data.images import choose_images
from geovr_hf.data.sampling import FrameSampling
from geovr_hf.data.video import read_sampled_clip
from geovr_hf.modeling.targets_geovr import GeometryTargets
from geovr_hf.teachers import NetworkTeacher, Teacher
from geovr_hf.teachers.images import ImageRule, teacher_images

from .digests import source_digest
from .files import TargetFileError, read_record, target_path
from .folder import TargetFolder, TargetWriter


logger = logging.get_logger(__name__)

# Clips whose targets wait to be written, on the teacher's device. More would only fill its memory.
_WRITES_IN_FLIGHT = 2


@dataclass(frozen=True)
class ClipSource:
    """A video file or folder of images to compute targets of.

    Args:
        path (`Path`): Where it lies.
        name (`str`): What the index calls it: its path relative to the media root.
    """

    path: Path
    name: str


@dataclass
class Outcome:
    """What a process did with its clips.

    Args:
        computed (`int`): Clips whose targets it wrote.
        present (`int`): Clips whose targets were there already.
        unreadable (`dict[str, str]`): Why the others could not be read, by name.
    """

    computed: int = 0
    present: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    """What a worker found out about a source: its frames, or why they cannot be read, or that they are not needed.

    The clip's frames are those that the teacher is shown; `frame_size` is what they were read at.
    """

    source: ClipSource
    clip: Clip | None = None
    content: str | None = None
    frame_size: tuple[int, int] | None = None
    problem: str | None = None


def precompute(
    sources: Sequence[ClipSource],
    teacher: Teacher,
    writer: TargetWriter,
    sampling: FrameSampling,
    *,
    image_rate: float = 1.0,
    num_workers: int = 4,
    progress: bool = True,
    num_processes: int = 1,
) -> Outcome:
    """Compute the targets of clips that a folder does not have yet.

    A file is written whole or not at all, and what is there is known by the digest of its source, so that this may be
    killed at any point and started again.

    Args:
        sources (`Sequence[ClipSource]`):
            This process's share of the clips.
        teacher ([`Teacher`]):
            Who computes.
        writer ([`TargetWriter`]):
            The folder, whose manifest has this teacher and this sampling.
        sampling ([`FrameSampling`]):
            Frames of a clip.
        image_rate (`float`, *optional*, defaults to 1.0):
            Images per second of folders of images.
        num_workers (`int`, *optional*, defaults to 4):
            Processes that decode ahead; with 0, this one decodes.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.
        num_processes (`int`, *optional*, defaults to 1):
            Processes that share the clips. The bar tells the progress of all from this one's.

    Returns:
        [`Outcome`]: Clips that cannot be read are listed there, not raised. Whatever the teacher raises is raised.
    """
    # A network is shown pictures of its own size and nothing else of a clip: the workers can resize them, too.
    image_rule = teacher.spec.image_rule if isinstance(teacher, NetworkTeacher) else None
    dataset = _Sources(list(sources), sampling, image_rate, image_rule, _present(writer))
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers, prefetch_factor=2 if num_workers else None)
    outcome = Outcome()
    written: set[str] = set()
    with (
        tqdm(
            total=len(sources),
            desc="Computing targets" if num_processes == 1 else f"Computing targets, {num_processes} processes",
            unit="clip",
            unit_scale=num_processes if num_processes > 1 else False,
            smoothing=0,
            disable=not progress,
        ) as bar,
        _BehindWriter(writer) as behind,
    ):
        for loaded in loader:
            if loaded.problem is not None:
                outcome.unreadable[loaded.source.name] = loaded.problem
                logger.warning(f"Left out a clip that cannot be read: {loaded.problem}")
            elif loaded.clip is None or (key := _key(writer, loaded)) in written or _is_there(writer, key):
                outcome.present += 1
            else:
                behind.write(loaded, teacher.targets(loaded.clip))
                written.add(key)
                outcome.computed += 1
                bar.update()
                continue
            if progress:  # a bar that is not shown has no counts
                # Costs no time to speak of: it moves the bar, but not the rate that the remaining time is told from.
                bar.initial += 1
                bar.n += 1
                bar.last_print_n += 1
                bar.refresh()
    return outcome


def _key(writer: TargetWriter, loaded: _Loaded) -> str:
    return writer.key(loaded.clip, loaded.content, loaded.frame_size)


def _is_there(writer: TargetWriter, key: str) -> bool:
    """Whether another process has computed the same clip under another name meanwhile."""
    try:
        read_record(target_path(writer.path, key))
    except (FileNotFoundError, TargetFileError):
        return False
    return True


def _present(writer: TargetWriter) -> set[tuple[str, tuple[int, ...]]]:
    """Content and frames of the clips whose targets a folder has."""
    present = set()
    for path in TargetFolder(writer.path).files():
        try:
            record = read_record(path)
        except TargetFileError as error:
            logger.warning(f"{error} It is computed again now, if its clip is among the data.")
            continue
        if (record.fingerprint, record.sampling) == (writer.manifest.fingerprint, writer.manifest.sampling):
            present.add((record.content, record.frame_indices))
    return present


class _Sources(Dataset):
    """Reads clips, in the workers of a loader, unless their targets are there."""

    def __init__(
        self,
        sources: list[ClipSource],
        sampling: FrameSampling,
        image_rate: float,
        image_rule: ImageRule | None,
        present: set[tuple[str, tuple[int, ...]]],
    ) -> None:
        self.sources, self.sampling, self.image_rate, self.image_rule = sources, sampling, image_rate, image_rule
        self.present = present
        self.present_contents = {content for content, _ in present}

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> _Loaded:
        source = self.sources[index]
        try:
            if self._is_present(source):
                return _Loaded(source)
            clip = read_sampled_clip(source.path, self.sampling, self.image_rate)
            content = source_digest(source.path, clip.frame_indices)
            shown = self._as_shown(clip)
        except UnreadableClipError as error:
            # The list of bad clips goes to the Hub with the folder: it names clips as the rows do.
            return _Loaded(source, problem=str(error).replace(str(source.path), source.name))
        return _Loaded(source, shown, content, clip.image_size)

    def _as_shown(self, clip: Clip) -> Clip:
        """The clip with frames resized as the teacher would; once they have its size, it leaves them as they are."""
        if self.image_rule is None:
            return clip
        try:
            images = teacher_images(clip.frames, self.image_rule)
        except ValueError as error:
            raise UnreadableClipError(f"{clip.source}: {error}") from error
        return replace(clip, frames=(images * 255).round().byte().permute(0, 2, 3, 1).contiguous())

    def _is_present(self, source: ClipSource) -> bool:
        if not self.present:
            return False
        if not source.path.is_dir():
            # The whole file and the sampling, which is the folder's, tell the frames without decoding.
            return source_digest(source.path, ()) in self.present_contents
        chosen = tuple(choose_images(source.path, self.sampling, self.image_rate)[2].tolist())
        return (source_digest(source.path, chosen), chosen) in self.present


class _BehindWriter:
    """Encodes and writes targets in a thread of its own, a few at most at a time. Its errors are raised, if late."""

    def __init__(self, writer: TargetWriter) -> None:
        self.writer = writer
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="write-targets")
        self.pending: deque[Future] = deque()

    def write(self, loaded: _Loaded, targets: GeometryTargets) -> None:
        """Hand targets over. Waits if too many are waiting."""
        if len(self.pending) == _WRITES_IN_FLIGHT:
            self.pending.popleft().result()
        self.pending.append(self.pool.submit(self._write, loaded, targets))

    @torch.no_grad()
    def _write(self, loaded: _Loaded, targets: GeometryTargets) -> None:
        self.writer.write(
            loaded.clip, targets, source=loaded.source.name, content=loaded.content, frame_size=loaded.frame_size
        )

    def __enter__(self) -> "_BehindWriter":
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(wait=True)
        if error[0] is None:
            for future in self.pending:
                future.result()
