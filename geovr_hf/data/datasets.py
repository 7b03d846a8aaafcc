"""Torch datasets of decoded rows: by index over a table, or streaming over anything that can be iterated.

An unreadable clip is an error that names row and file. With `on_bad_sample="skip"` its row is left out, listed in
`skipped` with the reason, and never replaced by another.
"""

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers.utils import logging

from geovr_hf.data.clip import UnreadableClipError
from geovr_hf.data.images import read_image
from geovr_hf.data.rows import (
    RowDecoder,
    iterate_parts,
    name_row,
    normalize_row,
    resolve_media,
    row_media,
    row_words,
)
from geovr_hf.data.sampling import FrameSampling


if TYPE_CHECKING:
    from geovr_hf.data.grouped_stream import GroupedVideoStream
    from geovr_hf.teachers import ImageRule

logger = logging.get_logger(__name__)

BadSample = Literal["raise", "skip"]


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out: its position in the rows, its id if it has one, and why."""

    row: int
    id: str | None
    reason: str


class VideoDataset(Dataset):
    """Decoded rows by index.

    With `on_bad_sample="skip"` every clip is read once on construction (a progress bar shows it; rows that share a
    clip share the reading), and rows that cannot be read are dropped before anyone counts on them: the length is
    right, and every process that builds the dataset has the same rows. A file that breaks later is an error.

    Args:
        rows (`Sequence` of `dict`, or `datasets.Dataset`):
            Stored rows, see `geovr_hf.data.rows`.
        media_root (`str` or `Path`):
            Folder under which all media of the rows lie. A path that leaves it is an error.
        num_frames (`int`, *optional*):
            Frames per clip. See [`FrameSampling`] for this and the next three.
        fps (`float`, *optional*):
            Frames per second of clip, instead of `num_frames`. With neither, 2.
        min_frames (`int`, *optional*, defaults to 4):
            Fewest frames when sampling by `fps`.
        max_frames (`int`, *optional*, defaults to 32):
            Most frames when sampling by `fps`; `None` for no limit.
        image_rate (`float`, *optional*, defaults to 1.0):
            Images per second of clips that are folders of images.
        teacher (*optional*):
            Object whose `targets(clip)` gives [`GeometryTargets`]. A teacher on an accelerator does not belong here,
            where `DataLoader` workers would call it: give that one to the trainer.
        image_rule ([`ImageRule`], *optional*):
            `teacher.spec.image_rule` of a trainer's teacher: clips that it could not be shown are unreadable.
        on_bad_sample (`str`, *optional*, defaults to `"raise"`):
            `"raise"` or `"skip"`.
        num_check_threads (`int`, *optional*, defaults to 1):
            Threads that read clips for `"skip"`.

    Attributes:
        skipped (`list[SkippedRow]`): Rows left out, in order.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        media_root: str | Path,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        min_frames: int = 4,
        max_frames: int | None = 32,
        image_rate: float = 1.0,
        teacher: Any = None,
        image_rule: "ImageRule | None" = None,
        on_bad_sample: BadSample = "raise",
        num_check_threads: int = 1,
    ) -> None:
        _check_on_bad_sample(on_bad_sample)
        self.rows = rows
        sampling = FrameSampling(num_frames, fps, min_frames, max_frames)
        self.decoder = RowDecoder(media_root, sampling, teacher, image_rate, image_rule)
        self.positions = list(range(len(rows)))
        self.skipped: list[SkippedRow] = []
        if on_bad_sample == "skip":
            self.skipped = self.check(num_check_threads)
            bad = {skipped.row for skipped in self.skipped}
            self.positions = [position for position in self.positions if position not in bad]
            if bad:
                logger.warning(
                    f"Left out {len(bad)} of {len(rows)} rows that cannot be read, the first: {self.skipped[0]}"
                )

    def __len__(self) -> int:
        """Number of rows, without those left out."""
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The decoded row at `index`, counted without the rows left out."""
        position = self.positions[index]
        row = self.rows[position]
        return self.decoder.decode(row, name_row(position, row))

    def clip_key(self, index: int) -> tuple[str, ...] | None:
        """What names the clips of the row at `index`: rows with equal keys share them. `None` without clips."""
        position = self.positions[index]
        return row_media(self.rows[position], name_row(position, self.rows[position]))

    def words(self, index: int) -> str:
        """All words of the row at `index`, in turns as ChatML writes them."""
        position = self.positions[index]
        return row_words(self.rows[position], name_row(position, self.rows[position]))

    def check(self, num_threads: int = 1) -> list[SkippedRow]:
        """Read every clip and picture once, as training would, and list the rows that cannot be read.

        Args:
            num_threads (`int`, *optional*, defaults to 1): Threads that read.

        Returns:
            `list[SkippedRow]`: In order of the rows.

        Raises:
            ValueError: A row is malformed or leaves the media root: no clip to skip, but a dataset to mend.
        """
        users: dict[tuple[str, Path], list[int]] = {}
        ids: dict[int, str | None] = {}
        for position in self.positions:
            row = self.rows[position]
            name = name_row(position, row)
            ids[position] = row.get("id")
            for part in iterate_parts(normalize_row(row, name)):
                kind = part["type"]
                if kind != "text" and isinstance(part[kind], str):
                    users.setdefault((kind, resolve_media(part[kind], self.decoder.media_root, name)), []).append(
                        position
                    )
        with ThreadPoolExecutor(num_threads) as pool:
            reasons = list(tqdm(pool.map(self._why_unreadable, users), total=len(users), desc="Reading clips"))
        found = {
            position: reason
            for positions, reason in zip(users.values(), reasons, strict=True)
            for position in positions
            if reason is not None
        }
        return [SkippedRow(position, ids[position], found[position]) for position in sorted(found)]

    def _why_unreadable(self, medium: tuple[str, Path]) -> str | None:
        kind, path = medium
        try:
            if kind == "image":
                read_image(path)
                return None
            clip = self.decoder.read_clip(path)
            if hasattr(self.decoder.teacher, "check_readable"):  # a folder of targets
                self.decoder.teacher.check_readable(clip)
        except UnreadableClipError as error:
            return str(error)
        return None


class StreamingVideoDataset(IterableDataset):
    """Decoded rows in passing, for rows too many or too remote to count.

    Every worker of every rank goes through all stored rows, which are only text, and decodes its share of them: row
    `i` of the (shuffled) stream belongs to consumer `i % (world_size * num_workers)`. So each row is decoded exactly
    once per epoch, however few files the rows come from.

    `transformers.Trainer` (through accelerate) already deals an iterable dataset out to the ranks. Leave `rank` and
    `world_size` alone there; set them in a training loop of your own.

    With `on_bad_sample="skip"` rows are left out while streaming. Workers write what they skip to one report file,
    which `skipped` reads: it is complete in the main process too, whatever the number of workers. Each rank has its
    own report.

    Args:
        rows (`Iterable` of `dict`, or `datasets.IterableDataset`):
            Stored rows, see `geovr_hf.data.rows`. It must give the same rows every time it is iterated.
        media_root, num_frames, fps, min_frames, max_frames, image_rate, teacher, image_rule, on_bad_sample:
            As in [`VideoDataset`].
        shuffle_buffer (`int`, *optional*, defaults to 0):
            Stored rows to hold back and draw from at random. 0 keeps the order.
        seed (`int`, *optional*, defaults to 0):
            Seed of the shuffling, together with the epoch (`set_epoch`).
        rank (`int`, *optional*, defaults to 0):
            Which share of the rows this process takes.
        world_size (`int`, *optional*, defaults to 1):
            Number of shares.
        skipped_path (`str` or `Path`, *optional*):
            Report file to append skipped rows to, JSON Lines. Defaults to a temporary file that goes with the dataset.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        media_root: str | Path,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        min_frames: int = 4,
        max_frames: int | None = 32,
        image_rate: float = 1.0,
        teacher: Any = None,
        image_rule: "ImageRule | None" = None,
        on_bad_sample: BadSample = "raise",
        shuffle_buffer: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        skipped_path: str | Path | None = None,
    ) -> None:
        super().__init__()
        _check_on_bad_sample(on_bad_sample)
        if not 0 <= rank < world_size:
            raise ValueError(f"Need 0 <= `rank` < `world_size`, got {rank} and {world_size}.")
        self.rows = rows
        sampling = FrameSampling(num_frames, fps, min_frames, max_frames)
        self.decoder = RowDecoder(media_root, sampling, teacher, image_rate, image_rule)
        self.on_bad_sample = on_bad_sample
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        self.rank, self.world_size = rank, world_size
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by persistent workers
        self.skipped_path = str(skipped_path) if skipped_path is not None else self._temporary_report()

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from the next iteration on. The `Trainer` calls this."""
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> list[SkippedRow]:
        """Rows left out so far by this process and its workers, each once, in order."""
        if not Path(self.skipped_path).exists():
            return []
        lines = Path(self.skipped_path).read_text(encoding="utf-8").splitlines()
        return sorted({SkippedRow(**json.loads(line)) for line in lines}, key=lambda skipped: skipped.row)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Decode this consumer's share of the rows."""
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        consumers, consumer = self.world_size * workers, self.rank * workers + worker_id
        for turn, (position, row) in enumerate(self._shuffled(self.stored())):
            if turn % consumers == consumer and (decoded := self.decode(position, row)) is not None:
                yield decoded

    def stored(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Positions and rows as stored, all of them, in order."""
        return enumerate(_iterate_unsharded(self.rows))

    def decode(self, position: int, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Decode a stored row; `None` if it cannot be read and is skipped, which is reported."""
        try:
            return self.decoder.decode(row, name_row(position, row))
        except UnreadableClipError as error:
            if self.on_bad_sample == "raise":
                raise
            self._report(SkippedRow(position, row.get("id"), str(error)))
            return None

    def grouped(self, max_questions: int, **options: Any) -> "GroupedVideoStream":
        """The same rows in groups that share a clip; see [`~geovr_hf.data.grouped_stream.GroupedVideoStream`]."""
        from geovr_hf.data.grouped_stream import GroupedVideoStream

        return GroupedVideoStream(self, max_questions, **options)

    def _shuffled(self, rows: Iterator) -> Iterator:
        """Draw from a buffer, alike in all consumers: the generator depends on seed and epoch alone."""
        if self.shuffle_buffer < 2:
            yield from rows
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self._epoch))
        buffer = []
        for row in rows:
            if len(buffer) < self.shuffle_buffer:
                buffer.append(row)
                continue
            drawn = int(torch.randint(len(buffer), (), generator=generator))
            buffer[drawn], row = row, buffer[drawn]
            yield row
        for drawn in torch.randperm(len(buffer), generator=generator).tolist():
            yield buffer[drawn]

    def _report(self, skipped: SkippedRow) -> None:
        logger.warning(f"Left out a row that cannot be read: {skipped}")
        with open(self.skipped_path, "ab", buffering=0) as report:  # one unbuffered append: workers do not interleave
            report.write((json.dumps(asdict(skipped)) + "\n").encode())

    def _temporary_report(self) -> str:
        handle, path = tempfile.mkstemp(prefix="geovr-skipped-", suffix=".jsonl")
        os.close(handle)
        weakref.finalize(self, _remove_own, path, os.getpid())
        return path


def _remove_own(path: str, owner: int) -> None:
    """Remove the report in the process that made it; a worker's copy of the dataset goes earlier."""
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


def _iterate_unsharded(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All rows, also inside a worker, where `datasets` would deal out files: one file would keep one worker busy."""
    batches = getattr(rows, "iter", None)
    if batches is None:
        yield from rows
        return
    for batch in batches(batch_size=64):
        columns = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _check_on_bad_sample(value: str) -> None:
    if value not in ("raise", "skip"):
        raise ValueError(f'`on_bad_sample` must be "raise" or "skip", got {value!r}.')
