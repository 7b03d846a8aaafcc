"""Where everything lies in a batch of packed rows, in which the questions about a clip share one copy of it."""

from dataclasses import dataclass

import torch

from .clip_layout_geovr import ClipLayout
from .map_tensors_geovr import map_tensors


MAX_CAUSAL_CALLS = 4  # of PyTorch's causal kernel for a layer; each takes neighbours of one length


@dataclass
class KeyBlocks:
    r"""Which blocks of keys the blocks of tokens look at that FlexAttention takes, as it wants to know.

    Args:
        partial_counts (`torch.IntTensor` of shape `(1, 1, query_blocks)`): Blocks of keys seen in part, their number.
        partial_blocks (`torch.IntTensor` of shape `(1, 1, query_blocks, key_blocks)`): Their indices, the seen first.
        full_counts (`torch.IntTensor` of shape `(1, 1, query_blocks)`): Blocks of keys seen in full, their number.
        full_blocks (`torch.IntTensor` of shape `(1, 1, query_blocks, key_blocks)`): Their indices, the seen first.
    """

    partial_counts: torch.Tensor
    partial_blocks: torch.Tensor
    full_counts: torch.Tensor
    full_blocks: torch.Tensor


@dataclass
class PackedLayout:
    r"""What a forward of packed rows must know beside `input_ids`, found on the host, so that no step waits for it.

    A packed row is a prefix, which ends with the row's last clip or picture, and questions with their answers. Every
    question sees the prefix and itself, no other question, and starts at the rotary position after the prefix. All
    rows of a batch lie in one sequence of `N` tokens without padding: first the prefixes of all rows, then the
    questions of the first row, of the second, and so on. A row with a single question is a prefix and nothing else.

    A few prefixes of many tokens attend fastest in PyTorch's causal kernel. Many of different lengths would call it so
    often that the calls take longer than the work, and go with the questions.

    [`~geovr_hf.trainers.packing.pack_rows`] makes it.

    Args:
        prefix_lengths (`tuple[int, ...]`): Tokens of each row's prefix.
        question_lengths (`tuple[tuple[int, ...], ...]`): Tokens of each row's questions with their answers.
        image_grid (`tuple[tuple[int, int, int], ...]`): `image_grid_thw` of Qwen3-VL, kept on the host.
        video_grid (`tuple[tuple[int, int, int], ...]`): `video_grid_thw` of Qwen3-VL, kept on the host.
        position_ids (`torch.LongTensor` of shape `(3, 1, N)`): Rotary positions along time, height and width.
        visible (`torch.IntTensor` of shape `(3, N)`): What a token sees: from the first of these to before the second,
            which is its row's prefix (nothing for the prefix itself), and from the third to itself.
        image_tokens (`torch.LongTensor` of shape `(num_image_tokens,)`): Where the patches of pictures lie.
        video_tokens (`torch.LongTensor` of shape `(num_video_tokens,)`): Where the patches of clips lie.
        geometry_tokens (`torch.LongTensor` of shape `(num_geometry_tokens,)`): Where geometry tokens lie.
        geometry_rows (`torch.LongTensor` of the same shape): Their rows in the geometry-token embedding.
        supervised (`torch.LongTensor` of shape `(num_supervised,)`): Tokens that predict a supervised one.
        next_tokens (`torch.LongTensor` of the same shape): The ids to predict.
        clips (`list[ClipLayout]`): The clips, in the order of `video_grid`.
        blocks ([`KeyBlocks`], *optional*): What tokens look at that are not in `causal_runs`, if there are any.
    """

    prefix_lengths: tuple[int, ...]
    question_lengths: tuple[tuple[int, ...], ...]
    image_grid: tuple[tuple[int, int, int], ...]
    video_grid: tuple[tuple[int, int, int], ...]
    position_ids: torch.Tensor
    visible: torch.Tensor
    image_tokens: torch.Tensor
    video_tokens: torch.Tensor
    geometry_tokens: torch.Tensor
    geometry_rows: torch.Tensor
    supervised: torch.Tensor
    next_tokens: torch.Tensor
    clips: list[ClipLayout]
    blocks: KeyBlocks | None

    @property
    def num_tokens(self) -> int:
        """Number of tokens, `N`."""
        return self.visible.shape[1]

    @property
    def causal_runs(self) -> tuple[tuple[int, int, int], ...]:
        """Prefixes that the causal kernel takes, all or none: number, length and padded length of equal neighbours.

        The padded length is found here and not in the layers: there, compiled code would be for that length alone.
        """
        runs = equal_runs(causal_lengths(self.prefix_lengths))
        if not self.visible.is_cuda:
            return tuple((count, length, length) for count, length in runs)
        return tuple((count, length, rounded_length(length)) for count, length in runs)

    def to(self, *args, **kwargs) -> "PackedLayout":
        """Move every tensor, like [`torch.Tensor.to`]. With this method, accelerate moves the layout itself."""
        return map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> "PackedLayout":
        """Copy every tensor to pinned memory. A `DataLoader` with `pin_memory=True` calls it."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


def causal_lengths(prefix_lengths: tuple[int, ...]) -> tuple[int, ...]:
    """`prefix_lengths` if the causal kernel takes them in a few calls, else nothing."""
    return prefix_lengths if len(equal_runs(prefix_lengths)) <= MAX_CAUSAL_CALLS else ()


def equal_runs(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbours of one length, as their number and length. Nothing is to be done for those of length 0."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        elif length:
            runs.append((1, length))
    return runs


def rounded_length(length: int) -> int:
    """A length rounded up by a thirty-second at most, or to 64.

    cuDNN's attention plans for every length that it has not seen, for a tenth of a second and more, and clips are of
    many lengths. What is padded stands behind all tokens, where causal attention does not look.
    """
    step = max(64, 1 << max((length - 1).bit_length() - 6, 0))
    return -(-length // step) * step
