"""Triton kernels of [`bounded_attention`]. Import this file only where Triton is installed."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


# Queries and keys per tile, warps and pipeline stages: the best of sweeps on an H200 for 32,416 and 1,013 tokens.
QUERY_TILE, KEY_TILE, NUM_WARPS, NUM_STAGES = 128, 64, 4, 4


@triton.jit
def _lay_out(
    qkv,
    out,
    weights,
    cos,
    sin,
    num_tokens,
    scale,
    eps,
    HEADS: tl.constexpr,
    HEADS_TILE: tl.constexpr,
    DIM: tl.constexpr,
    PAIRED: tl.constexpr,
    ROTARY: tl.constexpr,
):
    """One token's queries, keys or values, head by head: normalised, rotated, and queries multiplied by `scale`.

    `qkv` is `(tokens of all clips, 3, HEADS, DIM)`, `out` `(clips, 3, HEADS, num_tokens, DIM)`: there the tiles of
    attention are contiguous. Channels are held as two halves that the rotation pairs: runs of PAIRED channels, each
    with the run behind it.
    """
    token, part = tl.program_id(0), tl.program_id(1)
    head = tl.arange(0, HEADS_TILE)
    index = tl.arange(0, DIM // 2)
    first = (index // PAIRED) * (2 * PAIRED) + index % PAIRED
    second = first + PAIRED
    inside = (head < HEADS)[:, None]
    source = qkv + (token.to(tl.int64) * 3 + part) * (HEADS * DIM) + head[:, None] * DIM
    a = tl.load(source + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + second, mask=inside, other=0.0).to(tl.float32)
    if part < 2:
        mean = (tl.sum(a, 1) + tl.sum(b, 1)) / DIM
        a -= mean[:, None]
        b -= mean[:, None]
        length = tl.math.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / DIM + eps)
        # `weights` holds the norms' weight and bias: of queries, then of keys.
        affine = weights + part * (2 * DIM)
        a = a * length[:, None] * tl.load(affine + first) + tl.load(affine + DIM + first)
        b = b * length[:, None] * tl.load(affine + second) + tl.load(affine + DIM + second)
        if ROTARY:
            table = (token % num_tokens) * DIM
            turned = a * tl.load(cos + table + first) - b * tl.load(sin + table + first)
            b = b * tl.load(cos + table + second) + a * tl.load(sin + table + second)
            a = turned
        factor = tl.where(part == 0, scale, 1.0)
        a *= factor
        b *= factor
    row = ((token // num_tokens).to(tl.int64) * 3 + part) * HEADS * num_tokens + token % num_tokens
    target = out + (row + head[:, None].to(tl.int64) * num_tokens) * DIM
    tl.store(target + first, a.to(out.dtype.element_ty), mask=inside)
    tl.store(target + second, b.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _attend(
    queries,
    keys,
    out,
    num_tokens,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Softmax attention in base 2 of logits that cannot overflow: no maximum to track, nothing to rescale.

    `queries` and `keys` are two descriptors of one tensor `(clips * 3 * HEADS * num_tokens, DIM)`, see `_lay_out`.
    """
    first_query, head, clip = tl.program_id(0) * QUERY_TILE, tl.program_id(1), tl.program_id(2)
    query_row = (clip * 3 * HEADS + head) * num_tokens
    key_row = query_row + HEADS * num_tokens
    value_row = key_row + HEADS * num_tokens
    query = queries.load([query_row + first_query, 0])
    mixed = tl.zeros((QUERY_TILE, DIM), tl.float32)
    # The tensor cores add the weights up, too: that spares the threads more than it costs.
    ones = tl.full((KEY_TILE, 8), 1.0, query.dtype)
    total = tl.zeros((QUERY_TILE, 8), tl.float32)
    whole = (num_tokens // KEY_TILE) * KEY_TILE
    for start in tl.range(0, whole, KEY_TILE, num_stages=NUM_STAGES):
        key = keys.load([key_row + start, 0])
        weight = tl.math.exp2(tl.dot(query, key.T))
        value = keys.load([value_row + start, 0])
        weight = weight.to(value.dtype)
        total = tl.dot(weight, ones, total)
        mixed = tl.dot(weight, value, mixed)
    if whole < num_tokens:
        # The last tile reaches into the next head, or past the end, where loads give zeros.
        key = keys.load([key_row + whole, 0])
        inside = whole + tl.arange(0, KEY_TILE) < num_tokens
        weight = tl.where(inside[None, :], tl.math.exp2(tl.dot(query, key.T)), 0.0)
        value = keys.load([value_row + whole, 0])
        weight = weight.to(value.dtype)
        total = tl.dot(weight, ones, total)
        mixed = tl.dot(weight, value, mixed)
    row = first_query + tl.arange(0, QUERY_TILE)
    place = ((clip * num_tokens + row).to(tl.int64) * HEADS + head) * DIM
    result = (mixed / tl.max(total, 1)[:, None]).to(out.dtype.element_ty)
    tl.store(out + place[:, None] + tl.arange(0, DIM), result, mask=(row < num_tokens)[:, None])


def launch(
    qkv: torch.Tensor,
    weights: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    num_heads: int,
    rotary_groups: int,
    scale: float,
    eps: float,
) -> torch.Tensor:
    """Run both kernels; arguments are those of [`bounded_attention`], with `scale` for logits in base 2."""
    clips, tokens, width = qkv.shape
    dim = width // (3 * num_heads)
    qkv = qkv.contiguous()
    laid_out = qkv.new_empty(clips * 3 * num_heads * tokens, dim)
    _lay_out[(clips * tokens, 3)](
        qkv,
        laid_out,
        weights,
        cos,
        sin,
        tokens,
        scale,
        eps,
        HEADS=num_heads,
        HEADS_TILE=triton.next_power_of_2(num_heads),
        DIM=dim,
        PAIRED=dim // (2 * rotary_groups),
        ROTARY=cos is not None,
        num_warps=1,
    )
    out = qkv.new_empty(clips, tokens, num_heads * dim)
    _attend[(triton.cdiv(tokens, QUERY_TILE), num_heads, clips)](
        TensorDescriptor.from_tensor(laid_out, [QUERY_TILE, dim]),
        TensorDescriptor.from_tensor(laid_out, [KEY_TILE, dim]),
        out,
        tokens,
        HEADS=num_heads,
        DIM=dim,
        QUERY_TILE=QUERY_TILE,
        KEY_TILE=KEY_TILE,
        NUM_STAGES=NUM_STAGES,
        num_warps=NUM_WARPS,
    )
    return out
