"""Packing: questions about one clip share its tokens, rows lie one behind the other, and nothing is padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geovr_hf.modeling.clip_layout_geovr import geometry_token_rows, locate_clips, predecessors
from geovr_hf.modeling.packed_attention_geovr import BLOCK
from geovr_hf.modeling.packed_layout_geovr import KeyBlocks, PackedLayout, causal_lengths


@dataclass
class PackedRow:
    r"""Token ids of questions that share a prefix.

    Args:
        prefix (`torch.LongTensor` of shape `(P,)`): The prefix, which holds all clips and pictures; may be empty.
        token_types (`torch.LongTensor` of shape `(P,)`): 1 at patches of pictures, 2 at patches of clips, else 0.
        questions (`list[torch.LongTensor]`): Each question with its answer, without the prefix. If there are none, the
            prefix is a row by itself.
        learnt (`list[torch.BoolTensor]`): For each question, which tokens of prefix and question are supervised.
    """

    prefix: torch.Tensor
    token_types: torch.Tensor
    questions: list[torch.Tensor]
    learnt: list[torch.Tensor]

    def joined(self) -> "PackedRow":
        """The same with the only question as part of the prefix."""
        question = self.questions[0]
        return PackedRow(
            prefix=torch.cat([self.prefix, question]),
            token_types=torch.cat([self.token_types, torch.zeros_like(question)]),
            questions=[],
            learnt=self.learnt,
        )


def pack_rows(
    rows: Sequence[PackedRow],
    image_grid: Sequence[Sequence[int]],
    video_grid: Sequence[Sequence[int]],
    *,
    geometry_token_ids: tuple[int, int, int],
    image_token_id: int,
    video_token_id: int,
    merge_size: int,
) -> dict[str, Any]:
    r"""Lay packed rows out in one sequence.

    Args:
        rows (`Sequence[PackedRow]`): The rows.
        image_grid (`Sequence` of three `int`): `image_grid_thw` of all rows' pictures.
        video_grid (`Sequence` of three `int`): `video_grid_thw` of all rows' clips.
        geometry_token_ids (`tuple[int, int, int]`): Ids of `<|camera_first|>`, `<|camera|>` and `<|scale|>`.
        image_token_id (`int`): Id of a patch of a picture.
        video_token_id (`int`): Id of a patch of a clip.
        merge_size (`int`): Patches per visual token along each axis.

    Returns:
        `dict`: `input_ids` of shape `(1, N)` and `layout`, the [`PackedLayout`]. In it, a row with a single question
        is a prefix alone: there is nobody to share with, and causal attention is the fastest.
    """
    rows = [row if len(row.questions) > 1 else row.joined() for row in rows]
    image_grid, video_grid = ([tuple(map(int, grid)) for grid in grids] for grids in (image_grid, video_grid))
    prefixes = torch.cat([row.prefix for row in rows])
    input_ids = torch.cat([prefixes, *(question for row in rows for question in row.questions)])
    token_ids = (geometry_token_ids, video_token_id)
    geometry_rows = geometry_token_rows(prefixes[None], *token_ids)[0]
    geometry_tokens = (geometry_rows >= 0).nonzero().squeeze(1)
    prefix_lengths = tuple(len(row.prefix) for row in rows)
    question_lengths = tuple(tuple(len(question) for question in row.questions) for row in rows)
    visible = visible_tokens(prefix_lengths, question_lengths)
    num_causal = sum(causal_lengths(prefix_lengths))
    supervised, next_tokens = _supervised_tokens(rows)
    layout = PackedLayout(
        prefix_lengths=prefix_lengths,
        question_lengths=question_lengths,
        image_grid=tuple(image_grid),
        video_grid=tuple(video_grid),
        position_ids=_positions(rows, image_grid, video_grid, geometry_rows, merge_size)[:, None],
        visible=visible,
        image_tokens=(prefixes == image_token_id).nonzero().squeeze(1),
        video_tokens=(prefixes == video_token_id).nonzero().squeeze(1),
        geometry_tokens=geometry_tokens,
        geometry_rows=geometry_rows[geometry_tokens],
        supervised=supervised,
        next_tokens=next_tokens,
        clips=locate_clips(prefixes[None], torch.tensor(video_grid), *token_ids, merge_size) if video_grid else [],
        blocks=key_blocks(visible, num_causal) if len(input_ids) > num_causal else None,
    )
    return {"input_ids": input_ids[None], "layout": layout}


def rotary_positions(
    token_types: torch.Tensor,
    image_grid: Sequence[Sequence[int]],
    video_grid: Sequence[Sequence[int]],
    merge_size: int,
) -> torch.Tensor:
    r"""Rotary positions of one row, as `Qwen3VLModel.get_rope_index` gives them, without a device to wait for.

    Text advances by one. The patches of a frame or picture stand at one time and at the rows and columns of its grid,
    and text goes on after the longer side of it.

    Args:
        token_types (`torch.LongTensor` of shape `(length,)`): 1 at patches of pictures, 2 at patches of clips, else 0.
        image_grid (`Sequence` of three `int`): Of the row's pictures.
        video_grid (`Sequence` of three `int`): Of the row's clips.
        merge_size (`int`): Patches per visual token along each axis.

    Returns:
        `torch.LongTensor` of shape `(3, length)`.
    """
    frames = {
        1: list(image_grid),
        2: [(1, height, width) for count, height, width in video_grid for _ in range(count)],
    }
    remaining = {kind: iter(grids) for kind, grids in frames.items()}
    kinds, lengths = torch.unique_consecutive(token_types, return_counts=True)
    parts, position = [], 0
    for kind, length in zip(kinds.tolist(), lengths.tolist(), strict=True):
        if kind == 0:
            parts.append((torch.arange(length) + position).expand(3, -1))
            position += length
            continue
        count, height, width = next(remaining[kind])
        height, width = height // merge_size, width // merge_size
        axes = (torch.arange(count), torch.arange(height), torch.arange(width))
        parts.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + position)
        position += max(height, width)
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.long)


def visible_tokens(prefix_lengths: Sequence[int], question_lengths: Sequence[Sequence[int]]) -> torch.Tensor:
    """`visible` of [`PackedLayout`] for rows of these lengths."""
    prefix_ends = np.cumsum(prefix_lengths)
    begins = prefix_ends - prefix_lengths
    lengths = [(row, length) for row, questions in enumerate(question_lengths) for length in questions]
    question_begins = prefix_ends[-1] + np.cumsum([0, *(length for _, length in lengths)])
    spans = [(begin, begin, begin, length) for begin, length in zip(begins, prefix_lengths, strict=True)]
    spans += [
        (begins[row], prefix_ends[row], begin, length)
        for (row, length), begin in zip(lengths, question_begins, strict=False)
    ]
    table = np.array(spans)
    return torch.from_numpy(np.repeat(table[:, :3].T, table[:, 3], axis=1).astype(np.int32))


def key_blocks(visible: torch.Tensor, start: int, block: int = BLOCK) -> KeyBlocks:
    r"""Find the blocks of keys that each block of tokens sees in part, and in full.

    Args:
        visible (`torch.IntTensor` of shape `(3, N)`): As of [`PackedLayout`].
        start (`int`): The first token asked about.
        block (`int`, *optional*): Side of a block.

    Returns:
        [`KeyBlocks`].
    """
    num_tokens = visible.shape[1]
    shared_begin, shared_end, own_begin = visible[:, start:, None].numpy()
    own_end = np.arange(start, num_tokens, dtype=np.int32)[:, None] + 1
    low = np.arange(0, num_tokens, block, dtype=np.int32)
    high = low + block

    def overlap(begin, end):
        return (np.minimum(end, high) - np.maximum(begin, low)).clip(min=0)

    seen = overlap(shared_begin, shared_end) + overlap(own_begin, own_end)
    firsts = np.arange(0, len(seen), block)
    some = np.maximum.reduceat(seen, firsts) > 0
    full = np.minimum.reduceat(seen, firsts) == block
    return KeyBlocks(*_ordered(some & ~full), *_ordered(full))


def _ordered(seen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """How many are seen in each row of a matrix, and their columns, the seen first."""
    counts = seen.sum(1, dtype=np.int32)
    columns = np.argsort(~seen, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(counts)[None, None], torch.from_numpy(columns)[None, None]


def _positions(rows, image_grid, video_grid, geometry_rows, merge_size) -> torch.Tensor:
    """Rotary positions of all rows, `(3, N)`: each question goes on where its prefix ended."""
    images, clips = iter(image_grid), iter(video_grid)
    prefixes, questions, start = [], [], 0
    for row in rows:
        own_rows = geometry_rows[start : start + len(row.prefix)]
        start += len(row.prefix)
        others = own_rows < 0
        # A geometry token takes no position of its own: it shares its predecessor's.
        types = row.token_types[others]
        num_patches = {kind: int((types == kind).sum()) for kind in (1, 2)}
        own_grids = [_take_grids(grids, num_patches[kind], merge_size) for kind, grids in ((1, images), (2, clips))]
        positions = torch.zeros(3, len(own_rows), dtype=torch.long)
        positions[:, others] = rotary_positions(types, *own_grids, merge_size)
        prefixes.append(positions[:, predecessors(own_rows[None])[0]])
        following = int(positions.max()) + 1 if len(own_rows) else 0
        questions += [(torch.arange(len(question)) + following).expand(3, -1) for question in row.questions]
    return torch.cat([*prefixes, *questions], dim=1)


def _take_grids(grids, num_tokens: int, merge_size: int) -> list[tuple[int, int, int]]:
    """The next grids that together have `num_tokens` visual tokens."""
    taken = []
    while num_tokens > 0:
        count, height, width = next(grids)
        taken.append((count, height, width))
        num_tokens -= count * height * width // merge_size**2
    return taken


def _supervised_tokens(rows: Sequence[PackedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that predict a supervised token, and those tokens, as often as separate rows would have them."""
    positions, next_tokens = [], []
    prefix_begin, begin = 0, sum(len(row.prefix) for row in rows)
    for row in rows:
        prefix_length = len(row.prefix)
        for question, learnt in zip(row.questions or [row.prefix[:0]], row.learnt, strict=True):
            ids = torch.cat([row.prefix, question])
            places = torch.cat([torch.arange(prefix_length) + prefix_begin, torch.arange(len(question)) + begin])
            chosen = learnt[1:].nonzero().squeeze(1)  # the first token of a row is predicted from nothing
            positions.append(places[chosen])
            next_tokens.append(ids[chosen + 1])
            begin += len(question)
        prefix_begin += prefix_length
    return torch.cat(positions), torch.cat(next_tokens)
