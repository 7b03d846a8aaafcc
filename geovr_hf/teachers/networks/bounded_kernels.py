"""Triton kernels of [`bounded_attention`]. Import this file only where Triton is installed."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


# Queries and keys per tile, warps and pipeline stages. The best of a sweep on an H200 for 32,416 and 1,013 tokens.
QUERY_TILE, KEY_TILE, NUM_WARPS, NUM_STAGES = 128, 64, 4, 4


@triton.jit
def _normalize_rotate(
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
    """Normalise one token's queries or keys over each head, rotate them, and multiply queries by `scale`.

    `qkv` is `(tokens of all clips, 3, HEADS, DIM)`, `out` the same with 2. Channels are held as two halves that the
    rotation pairs: runs of PAIRED channels, each with the run behind it.
    """
    token, is_key = tl.program_id(0), tl.program_id(1)
    head = tl.arange(0, HEADS_TILE)
    index = tl.arange(0, DIM // 2)
    first = (index // PAIRED) * (2 * PAIRED) + index % PAIRED
    second = first + PAIRED
    inside = (head < HEADS)[:, None]
    rows = (is_key * HEADS + head)[:, None] * DIM
    source = qkv + token.to(tl.int64) * (3 * HEADS * DIM) + rows
    a = tl.load(source + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + second, mask=inside, other=0.0).to(tl.float32)
    mean = (tl.sum(a, 1) + tl.sum(b, 1)) / DIM
    a -= mean[:, None]
    b -= mean[:, None]
    length = tl.math.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / DIM + eps)
    # `weights` holds the norms' weight and bias: of queries, then of keys.
    affine = weights + is_key * (2 * DIM)
    a = a * length[:, None] * tl.load(affine + first) + tl.load(affine + DIM + first)
    b = b * length[:, None] * tl.load(affine + second) + tl.load(affine + DIM + second)
    if ROTARY:
        table = (token % num_tokens) * DIM
        turned = a * tl.load(cos + table + first) - b * tl.load(sin + table + first)
        b = b * tl.load(cos + table + second) + a * tl.load(sin + table + second)
        a = turned
    if is_key == 0:
        a *= scale
        b *= scale
    target = out + token.to(tl.int64) * (2 * HEADS * DIM) + rows
    tl.store(target + first, a.to(out.dtype.element_ty), mask=inside)
    tl.store(target + second, b.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _attend(
    queries,
    keys,
    values,
    out,
    num_tokens,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Softmax attention in base 2 of logits that cannot overflow: no maximum to track, nothing to rescale."""
    first_query, head, clip = tl.program_id(0) * QUERY_TILE, tl.program_id(1), tl.program_id(2)
    first_token = clip * num_tokens
    column = head * DIM
    query = queries.load([first_token + first_query, column])
    total = tl.zeros((QUERY_TILE,), tl.float32)
    mixed = tl.zeros((QUERY_TILE, DIM), tl.float32)
    whole = (num_tokens // KEY_TILE) * KEY_TILE
    for start in tl.range(0, whole, KEY_TILE, num_stages=NUM_STAGES):
        key = keys.load([first_token + start, HEADS * DIM + column])
        weight = tl.math.exp2(tl.dot(query, key.T))
        total += tl.sum(weight, 1)
        value = values.load([first_token + start, 2 * HEADS * DIM + column])
        mixed = tl.dot(weight.to(value.dtype), value, mixed)
    if whole < num_tokens:
        # The last tile reaches into the next clip, or past the end, where loads give zeros.
        key = keys.load([first_token + whole, HEADS * DIM + column])
        inside = whole + tl.arange(0, KEY_TILE) < num_tokens
        weight = tl.where(inside[None, :], tl.math.exp2(tl.dot(query, key.T)), 0.0)
        total += tl.sum(weight, 1)
        value = values.load([first_token + whole, 2 * HEADS * DIM + column])
        mixed = tl.dot(weight.to(value.dtype), value, mixed)
    row = first_query + tl.arange(0, QUERY_TILE)
    place = (first_token + row).to(tl.int64) * (HEADS * DIM) + column
    result = (mixed / total[:, None]).to(out.dtype.element_ty)
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
    normed = qkv.new_empty(clips * tokens, 2 * num_heads * dim)
    _normalize_rotate[(clips * tokens, 2)](
        qkv,
        normed,
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
        num_warps=2,
    )
    out = qkv.new_empty(clips, tokens, num_heads * dim)
    flat = qkv.view(clips * tokens, width)
    _attend[(triton.cdiv(tokens, QUERY_TILE), num_heads, clips)](
        TensorDescriptor.from_tensor(normed, [QUERY_TILE, dim]),
        TensorDescriptor.from_tensor(normed, [KEY_TILE, dim]),
        TensorDescriptor.from_tensor(flat, [KEY_TILE, dim]),
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
