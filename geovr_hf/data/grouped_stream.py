"""A stream of rows in groups that share a clip, dealt out to processes and workers."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from geovr_hf.data.rows import name_row, row_media, row_words


if TYPE_CHECKING:
    from geovr_hf.data.datasets import StreamingVideoDataset

Stored = tuple[int, Mapping[str, Any]]
WINDOW = 1000


class GroupedVideoStream(IterableDataset):
    """The rows of a [`StreamingVideoDataset`] as lists of decoded rows about one clip.

    All consumers read all stored rows, which are only text, and form the same groups from windows of them: as many
    rows as the stream's shuffle buffer holds, at least 1000. Group `i` of an epoch belongs to process
    `i % world_size`, so each row is decoded once, in one process. Processes get equally many groups: where one would
    have none left, it gets its first row once more, marked as `filler`, which teaches nothing.

    Args:
        stream ([`StreamingVideoDataset`]): The rows. Its own `rank` and `world_size` are not used.
        max_questions (`int`): Most rows of a group.
        max_tokens (`int`, *optional*): Most tokens of the words of a group's rows.
        tokenizer (`Callable`, *optional*): Counts them.
        rank (`int`, *optional*, defaults to 0): Which share of the groups this process takes.
        world_size (`int`, *optional*, defaults to 1): Number of shares.

    Raises:
        ValueError: `max_tokens` without a tokenizer, or no row of the stream can be read.
    """

    def __init__(
        self,
        stream: "StreamingVideoDataset",
        max_questions: int,
        *,
        max_tokens: int | None = None,
        tokenizer: Callable | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__()
        if max_tokens is not None and tokenizer is None:
            raise ValueError("`max_tokens` needs a `tokenizer` to count with.")
        self.stream = stream
        self.max_questions = max_questions
        self.max_tokens = max_tokens
        self.tokenizer = tokenizer
        self.rank, self.world_size = rank, world_size
        self._passed_over = (-1, 0, 1)

    def pass_over(self, epoch: int, batches: int, batch_size: int) -> None:
        """Do not decode the first batches of an epoch, which a resumed run was trained on before it was stopped.

        Their groups are still given, empty: what counts batches can count them, in the order of the workers.

        Args:
            epoch (`int`): The epoch. All of any other is decoded.
            batches (`int`): Batches of this process.
            batch_size (`int`): Groups of a batch.
        """
        self._passed_over = (epoch, batches, batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from the next iteration on."""
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """This consumer's groups."""
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        first: list[dict[str, Any]] | None = None
        missing, number, given = 0, -1, 0
        epoch, batches, batch_size = self._passed_over
        # Workers give batches in turns, and have equally many but for the last turn.
        passed_over = -(-(batches - worker_id) // workers) * batch_size if epoch == int(self.stream._epoch) else 0
        for number, group in enumerate(self._groups()):
            turn, rank = divmod(number, self.world_size)
            if rank != self.rank or turn % workers != worker_id:
                continue
            given += 1
            if given <= passed_over and first is not None:  # but for one, that may stand in where a row is missing
                yield []
                continue
            rows = [row for stored in group if (row := self.stream.decode(*stored)) is not None]
            if not rows and first is None:
                missing, given = missing + 1, given - 1  # nothing was read yet that could stand in
                continue
            first = first or rows[:1]
            yield rows or self._filler(first)
        turn, groups_in_last = divmod(number + 1, self.world_size)
        if groups_in_last and self.rank >= groups_in_last and turn % workers == worker_id:
            missing += 1
        if missing:
            first = first or self._any_row()
            yield from (self._filler(first) for _ in range(missing))

    def _any_row(self) -> list[dict[str, Any]]:
        for stored in self.stream.stored():
            if (row := self.stream.decode(*stored)) is not None:
                return [row]
        raise ValueError("No row of the stream can be read, so there is nothing to train on.")

    @staticmethod
    def _filler(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**rows[0], "filler": True}]

    def _groups(self) -> Iterator[list[Stored]]:
        """Groups of stored rows, the same in all consumers."""
        window: list[Stored] = []
        size = max(self.stream.shuffle_buffer, WINDOW)
        generator = torch.Generator().manual_seed(self.stream.seed * 1_000_003 + int(self.stream._epoch))
        for stored in self.stream.stored():
            window.append(stored)
            if len(window) == size:
                yield from self._group(window, generator)
                window = []
        yield from self._group(window, generator)

    def _group(self, window: list[Stored], generator: torch.Generator) -> list[list[Stored]]:
        groups: list[list[Stored]] = []
        open_groups: dict[tuple[str, ...], tuple[list[Stored], int]] = {}
        for position, row in window:
            name = name_row(position, row)
            key = row_media(row, name)
            length = 0 if self.max_tokens is None else len(self.tokenizer(row_words(row, name))["input_ids"])
            group, tokens = open_groups.get(key, ([], 0)) if key is not None else ([], 0)
            over_budget = self.max_tokens is not None and tokens + length > self.max_tokens
            if not group or len(group) == self.max_questions or over_budget:
                group, tokens = [], 0
                groups.append(group)
            group.append((position, row))
            if key is not None:
                open_groups[key] = (group, tokens + length)
        if self.stream.shuffle_buffer < 2:
            return groups
        return [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]
