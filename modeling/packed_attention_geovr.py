"""Attention of packed rows, in which questions share the prefix that holds their clip, without a dense mask.

Two functions in transformers' attention interface:

- `"shared_prefix"`, for the language model. Prefixes go through PyTorch's causal kernel; questions, and prefixes of
  many different lengths, through FlexAttention with a block mask. Where FlexAttention has no kernels, on the CPU,
  SDPA says the same, row by row.
- `"flash_per_frame"`, for the vision tower: frames of one size attend as one batch. The word "flash" in its name is
  what makes Qwen3-VL's vision tower hand over all frames at once.

Both are SDPA for everything else: evaluation, generation, ordinary batches.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import compile_friendly_flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .packed_layout_geovr import PackedLayout, causal_lengths, equal_runs


SHARED_PREFIX = "shared_prefix"
PER_FRAME = "flash_per_frame"
BLOCK = 128  # tokens of a side of a block of FlexAttention's mask


class RowMasks(NamedTuple):
    r"""What the tokens of each row see of each other, for the attention on a CPU.

    Args:
        tokens (`list[torch.LongTensor]` of shape `(L,)`): The tokens of each row.
        sees (`list[torch.BoolTensor]` of shape `(L, L)`): Which of its row's tokens each token sees.
        order (`torch.LongTensor` of shape `(N,)`): Where each token of the batch lies in the rows, one behind another.
    """

    tokens: list[torch.Tensor]
    sees: list[torch.Tensor]
    order: torch.Tensor


def packed_attention_mask(layout: PackedLayout) -> RowMasks | BlockMask | None:
    r"""What tokens see of each other, in the form that the attention on the layout's device takes.

    Args:
        layout ([`PackedLayout`]): The packed rows, on their device.

    Returns:
        [`RowMasks`] on the CPU, and on a GPU a `BlockMask` of the tokens that are not in `causal_runs`; `None` if all
        tokens are.
    """
    if layout.blocks is None:
        return None
    return _block_mask(layout) if layout.visible.device.type == "cuda" else _row_masks(layout)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | RowMasks | BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    causal_runs: tuple[tuple[int, int, int], ...] | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    r"""Causal attention of packed rows; SDPA where `causal_runs` is `None`.

    Args:
        module (`nn.Module`): The attention layer.
        query (`torch.FloatTensor` of shape `(1, heads, N, head_dim)`): Queries.
        key (`torch.FloatTensor` of shape `(1, key_heads, N, head_dim)`): Keys.
        value (`torch.FloatTensor` of shape `(1, key_heads, N, head_dim)`): Values.
        attention_mask ([`RowMasks`] or `BlockMask`, *optional*): As of [`packed_attention_mask`]; SDPA's for SDPA.
        scaling (`float`, *optional*): Factor of the logits.
        dropout (`float`, *optional*, defaults to 0): Must be 0 for packed rows.
        causal_runs (`tuple[tuple[int, int, int], ...]`, *optional*):
            Those of [`PackedLayout`]; the other tokens are in the mask.
        **kwargs: Passed on to SDPA.

    Returns:
        `tuple[torch.FloatTensor, None]`: Output `(1, N, heads, head_dim)`, and no weights.

    Raises:
        ValueError: Dropout for packed rows.
    """
    if causal_runs is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout:
        raise ValueError(f"Packed rows have no attention dropout, got {dropout}. Set `attention_dropout` to 0.")
    if isinstance(attention_mask, RowMasks):
        outputs = []
        for tokens, sees in zip(attention_mask.tokens, attention_mask.sees, strict=True):
            row = [states[:, :, tokens] for states in (query, key, value)]
            outputs.append(F.scaled_dot_product_attention(*row, attn_mask=sees, scale=scaling, enable_gqa=True))
        return torch.cat(outputs, dim=2)[:, :, attention_mask.order].transpose(1, 2), None

    parts, start = [], 0
    for count, length, padded in causal_runs:
        rows = [_batch_of(states, start, count, length) for states in (query, key, value)]
        if padded > length:
            rows = [F.pad(states, (0, 0, 0, padded - length)) for states in rows]
        output = F.scaled_dot_product_attention(*rows, is_causal=True, scale=scaling, enable_gqa=True)[:, :, :length]
        parts.append(output.transpose(1, 2).flatten(0, 1).unsqueeze(0))
        start += count * length
    if attention_mask is not None:
        output = compile_friendly_flex_attention(
            query[:, :, start:],
            key,
            value,
            training=module.training,
            block_mask=attention_mask,
            scale=scaling,
            enable_gqa=True,
            # Few questions would get the kernel for decoding, which cannot be compiled for all lengths.
            kernel_options={"BACKEND": "TRITON"} if query.is_cuda else None,
        )
        parts.append(output.transpose(1, 2))
    return torch.cat(parts, dim=1), None


def per_frame_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None = None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    r"""Attention within each frame, all frames of one size at once.

    Args:
        module (`nn.Module`): The attention layer.
        query (`torch.FloatTensor` of shape `(1, heads, patches, head_dim)`): Queries.
        key (`torch.FloatTensor` of shape `(1, heads, patches, head_dim)`): Keys.
        value (`torch.FloatTensor` of shape `(1, heads, patches, head_dim)`): Values.
        attention_mask (`None`): Nothing is masked.
        scaling (`float`, *optional*): Factor of the logits.
        cu_seq_lens_q (`torch.IntTensor` of shape `(frames + 1,)`): Where frames begin and end.
        max_length_q (`int`): Patches of the largest frame.
        **kwargs: Ignored; there is no dropout in vision towers.

    Returns:
        `tuple[torch.FloatTensor, None]`: Output `(1, patches, heads, head_dim)`, and no weights.
    """
    num_frames, num_patches = len(cu_seq_lens_q) - 1, query.shape[2]
    # No frame is larger than the largest, so this many patches mean frames of one size: told without a look at values.
    if num_frames * max_length_q == num_patches:
        runs = [(num_frames, num_patches // num_frames)]
    else:
        runs = equal_runs(tuple(cu_seq_lens_q.diff().tolist()))
    outputs, start = [], 0
    for count, length in runs:
        frames = [_batch_of(states, start, count, length) for states in (query, key, value)]
        output = F.scaled_dot_product_attention(*frames, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1).unsqueeze(0))
        start += count * length
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None


def _batch_of(states: torch.Tensor, start: int, count: int, length: int) -> torch.Tensor:
    """Neighbours of one length as a batch: `(1, heads, N, head_dim)` becomes `(count, heads, length, head_dim)`."""
    return states[:, :, start : start + count * length].unflatten(2, (count, length)).squeeze(0).transpose(0, 1)


def _row_masks(layout: PackedLayout) -> RowMasks:
    # The prefixes of all rows lie before the questions of all rows.
    lengths = [*layout.prefix_lengths, *map(sum, layout.question_lengths)]
    parts = torch.arange(layout.num_tokens, device=layout.visible.device).split(lengths)
    rows = len(layout.prefix_lengths)
    tokens, sees = [torch.cat(both) for both in zip(parts[:rows], parts[rows:], strict=True)], []
    for key in tokens:
        query = key[:, None]
        shared_begin, shared_end, own_begin = layout.visible[:, key, None]
        sees.append(((shared_begin <= key) & (key < shared_end)) | ((own_begin <= key) & (key <= query)))
    return RowMasks(tokens, sees, torch.cat(tokens).argsort())


def _block_mask(layout: PackedLayout) -> BlockMask:
    start, num_tokens = sum(causal_lengths(layout.prefix_lengths)), layout.num_tokens
    shared_begin, shared_end, own_begin = layout.visible[:, start:]
    # A number here would be compiled in, and another batch would compile again.
    itself = torch.arange(start, num_tokens, device=own_begin.device)

    def sees(batch, head, query, key):
        shared = (shared_begin[query] <= key) & (key < shared_end[query])
        return shared | ((own_begin[query] <= key) & (key <= itself[query]))

    blocks = layout.blocks
    return BlockMask.from_kv_blocks(
        blocks.partial_counts,
        blocks.partial_blocks,
        blocks.full_counts,
        blocks.full_blocks,
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(num_tokens - start, num_tokens),
    )


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
AttentionInterface.register(PER_FRAME, per_frame_attention)
AttentionMaskInterface.register(PER_FRAME, sdpa_mask)
