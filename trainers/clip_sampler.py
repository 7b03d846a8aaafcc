"""Batches in which the questions about a clip stand together, so that packing can share it."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Sampler, Subset
from transformers.utils import logging

from geovr_hf.trainers.conversation import placed_messages


logger = logging.get_logger(__name__)


class PackedIndex(int):
    """Index of a row, with the number of the packed row of its batch that it belongs to."""

    packed_row: int | None

    def __new__(cls, index: int, packed_row: int | None = None):
        """An index like any other."""
        made = super().__new__(cls, index)
        made.packed_row = packed_row
        return made


class Filler(PackedIndex):
    """Index of a row that only fills up the last batches, so that all processes have as many: it teaches nothing."""


class MarkedRows(Dataset):
    """A data set whose rows come marked as their indices are: which share a packed row, and which are fillers."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[int(index)]
        if (packed_row := getattr(index, "packed_row", None)) is not None:
            row = {**row, "packed_row": packed_row}
        return {**row, "filler": True} if isinstance(index, Filler) else row


class ClipBatchSampler(Sampler[list[int]]):
    r"""Batches of packed rows: of questions about one clip, at most `max_questions` and `max_tokens` of them.

    Every row of the data set comes exactly once per epoch, in one process. Which questions share a packed row is drawn
    once, by the seed; each epoch draws the order of the packed rows. The batches of all processes are listed one after
    the other, a multiple of their number: process `p` of `n` takes batch `p`, `p + n`, and so on, as accelerate deals
    them out. If the last round has too few rows and is not left out, packed rows are parted, and if there are not even
    enough questions, a [`Filler`] stands in.

    Args:
        keys (`Sequence[Hashable | None]`): For each row, what names its clips; `None` for a row that shares nothing.
        clips_per_batch (`int`): Packed rows per batch.
        max_questions (`int`, *optional*, defaults to 1): Most questions that share a packed row.
        lengths (`Sequence[int]`, *optional*): Tokens of each question and its answer, for `max_tokens`.
        max_tokens (`int`, *optional*): Most tokens of the questions of a packed row. A longer question stays alone.
        num_processes (`int`, *optional*, defaults to 1): Processes that share the batches.
        drop_last (`bool`, *optional*, defaults to `False`): Leave out a last round that has too few packed rows.
        shuffle (`bool`, *optional*, defaults to `True`): Whether to draw at all; else everything stays in order.
        seed (`int`, *optional*, defaults to 0): The seed.

    Raises:
        ValueError: There are no rows, or `drop_last` leaves none, a number is below 1, or `max_tokens` comes without
            `lengths`.
    """

    # What accelerate reads: batches have no fixed size.
    batch_size = None

    def __init__(
        self,
        keys: Sequence[Hashable | None],
        clips_per_batch: int,
        max_questions: int = 1,
        *,
        lengths: Sequence[int] | None = None,
        max_tokens: int | None = None,
        num_processes: int = 1,
        drop_last: bool = False,
        shuffle: bool = True,
        seed: int = 0,
    ):
        if not len(keys):
            raise ValueError("The training set has no rows.")
        if min(clips_per_batch, max_questions, num_processes) < 1:
            raise ValueError(
                "`clips_per_batch`, `max_questions` and `num_processes` must be at least 1, got "
                f"{clips_per_batch}, {max_questions} and {num_processes}."
            )
        if max_tokens is not None and lengths is None:
            raise ValueError("`max_tokens` needs the `lengths` of the questions.")
        self.clips_per_batch = clips_per_batch
        self.num_processes = num_processes
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.rows = self._pack(keys, max_questions, lengths, max_tokens)
        if not len(self):
            raise ValueError(
                f"`dataloader_drop_last=True` leaves nothing: {len(self.rows)} packed rows fill no round of "
                f"{num_processes} x {clips_per_batch}."
            )

    def _pack(self, keys, max_questions, lengths, max_tokens) -> list[list[int]]:
        by_clip: dict[Hashable, list[int]] = {}
        for index, key in enumerate(keys):
            by_clip.setdefault(("alone", index) if key is None else ("clip", key), []).append(index)
        generator = torch.Generator().manual_seed(self.seed)
        packed = []
        for indices in by_clip.values():
            order = torch.randperm(len(indices), generator=generator).tolist() if self.shuffle else range(len(indices))
            row: list[int] = []
            tokens = 0
            for index in (indices[place] for place in order):
                length = 0 if max_tokens is None else lengths[index]
                if row and (len(row) == max_questions or (max_tokens is not None and tokens + length > max_tokens)):
                    packed.append(row)
                    row, tokens = [], 0
                row.append(index)
                tokens += length
            packed.append(row)
        return packed

    def set_epoch(self, epoch: int):
        """Draw another order from the next iteration on. The `Trainer` calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches of all processes, a multiple of the number of processes."""
        return len(self._round_starts()) * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        """The batches: lists of [`PackedIndex`], those that share a clip behind each other."""
        rows = self.rows
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            rows = [rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()]
        for start in self._round_starts():
            yield from self._deal(rows[start : start + self.clips_per_batch * self.num_processes])

    def _round_starts(self) -> range:
        per_round = self.clips_per_batch * self.num_processes
        return range(0, len(self.rows) - (per_round - 1 if self.drop_last else 0), per_round)

    def _deal(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Batches for each process from the packed rows of a round, which may be too few."""
        rows = list(rows)
        while len(rows) < self.num_processes:
            longest = max(range(len(rows)), key=lambda place: len(rows[place]))
            row = rows[longest]
            if len(row) == 1:
                rows.append([Filler(rows[0][0])])
            else:
                rows[longest : longest + 1] = [row[: len(row) // 2], row[len(row) // 2 :]]
        size, larger = divmod(len(rows), self.num_processes)
        start = 0
        for process in range(self.num_processes):
            stop = start + size + (process < larger)
            yield [
                (Filler if isinstance(index, Filler) else PackedIndex)(index, number)
                for number, row in enumerate(rows[start:stop])
                for index in row
            ]
            start = stop


def clip_keys(dataset: Dataset | Sequence[dict[str, Any]]) -> list[Hashable | None]:
    """What names the clips of each row of a data set, without decoding any.

    A data set says it by a method `clip_key(index)`; rows with equal keys are about the same clips. Joined data sets
    and subsets are asked part by part, rows in a list are compared by the frames they hold.

    Args:
        dataset (`Dataset` or list of decoded rows): The data set.

    Returns:
        `list`: A key per row, `None` for a row that shares its clips with no other.

    Raises:
        ValueError: A row of a list has no messages, or columns of media that do not match them.
    """
    if isinstance(dataset, ConcatDataset):
        parts = [clip_keys(part) for part in dataset.datasets]
        return [None if key is None else (part, key) for part, keys in enumerate(parts) for key in keys]
    if isinstance(dataset, Subset):
        keys = clip_keys(dataset.dataset)
        return [keys[index] for index in dataset.indices]
    if hasattr(dataset, "clip_key"):
        return [dataset.clip_key(index) for index in range(len(dataset))]
    if isinstance(dataset, (list, tuple)):
        return [_media(row, index) for index, row in enumerate(dataset)]
    logger.warning(
        f"{type(dataset).__name__} does not say which rows are about one clip, so no clip is shared. Give it a method "
        "`clip_key(index)` that does."
    )
    return [None] * len(dataset)


def _media(row: dict[str, Any], index: int) -> tuple[int, ...] | None:
    """The identity of a decoded row's frames and pictures, also of those in its columns."""
    messages, _ = placed_messages(row, f"row {index}", needs_answer=False)
    parts = [part for message in messages for part in message["content"]]
    return tuple(id(part[part["type"]]) for part in parts if part.get("type") in ("video", "image")) or None
