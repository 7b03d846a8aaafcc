"""Small numbers for large tensors: groups of features with a scale each, and confidence in sixteen levels."""

import numpy as np
import torch
import torch.nn.functional as F


# Channels that share a scale. Outlier channels spoil the precision of their own group only; four bits, which cannot
# afford to be spoilt, get the smaller groups.
GROUP_SIZES = {"int8": 128, "float8": 128, "int4": 32}
LARGEST_CODES = {"int8": 127, "float8": 448, "int4": 7}

CONFIDENCE_LEVELS = 15  # code 0 is taken: exactly zero, no measurement
_LEVEL_SAMPLES = 2**18  # so many values tell the quantiles of any clip


def quantize(values: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise the last axis in groups of [`GROUP_SIZES`], each with a scale of its own.

    Args:
        values (`torch.FloatTensor` of shape `(..., C)`): Finite values; any `C`, the last group may be smaller.
        kind (`str`): `"int8"`, `"float8"` or `"int4"`.

    Returns:
        `tuple[torch.Tensor, torch.BFloat16Tensor]`: Codes of shape `(..., C)`: int8, float8_e4m3fn or, for `"int4"`,
        uint8 of shape `(..., ceil(C / 2))` with the first half of the channels in the low bits. And scales of shape
        `(..., groups)`. An integer code times its scale is off by at most half the scale, a float8 one by at most a
        sixteenth of the value, or 2^-10 of the scale.
    """
    channels = values.shape[-1]
    groups = _grouped(values.float(), GROUP_SIZES[kind])
    largest = groups.abs().amax(-1)
    # Rounding to bfloat16 takes away 2^-9 at most, so no code exceeds the largest. Below that floor a group is zero.
    scales = (largest * (1 + 2**-8) / LARGEST_CODES[kind]).bfloat16()
    codes = groups / torch.where(largest > 1e-30, scales.float(), torch.inf)[..., None]
    codes = codes.flatten(-2)[..., :channels]
    if kind == "float8":
        return codes.to(torch.float8_e4m3fn), scales
    codes = codes.round().to(torch.int8)
    return (_pack_halves(codes) if kind == "int4" else codes), scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor, kind: str, channels: int) -> torch.Tensor:
    """Widen what [`quantize`] made, with one rounding to bfloat16.

    Args:
        codes (`torch.Tensor`): Codes of `kind`.
        scales (`torch.BFloat16Tensor` of shape `(..., groups)`): Their scales.
        kind (`str`): `"int8"`, `"float8"` or `"int4"`.
        channels (`int`): `C`, the number of channels.

    Returns:
        `torch.BFloat16Tensor` of shape `(..., C)`: The values.
    """
    values = _unpack_halves(codes, channels) if kind == "int4" else codes.to(torch.bfloat16)
    groups = _grouped(values, GROUP_SIZES[kind])
    return groups.mul_(scales[..., None]).flatten(-2)[..., :channels].contiguous()


def _grouped(values: torch.Tensor, size: int) -> torch.Tensor:
    """The last axis as `(groups, size)`, a narrow one as one group, an incomplete group filled up with zeros."""
    size = min(size, values.shape[-1])
    if rest := values.shape[-1] % size:
        values = F.pad(values, (0, size - rest))
    return values.unflatten(-1, (-1, size))


def _pack_halves(codes: torch.Tensor) -> torch.Tensor:
    """Two signed 4-bit codes to a byte. Halves, not neighbours: unpacking then moves whole rows."""
    codes = F.pad(codes, (0, codes.shape[-1] % 2)) + 8
    low, high = codes.to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


def _unpack_halves(packed: torch.Tensor, channels: int) -> torch.Tensor:
    codes = torch.cat([packed & 15, packed >> 4], dim=-1)[..., :channels]
    return codes.to(torch.bfloat16).sub_(8)


def quantize_confidence(confidence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidence in 4 bits: the nearest of fifteen levels, or exactly 0.

    The levels are quantiles of the clip's own positive values, or these themselves if they are not more. Losses ask
    whether confidence is 0 and, at most, in which order pixels stand.

    Args:
        confidence (`torch.FloatTensor` of shape `(T, H, W)`): Confidence, >= 0.

    Returns:
        `tuple[torch.ByteTensor, torch.FloatTensor]`: Codes of shape `(T, H, ceil(W / 2))`, the left of two neighbours
        in the low bits; and float32 levels of shape `(16,)`, the first of which is 0.
    """
    confidence = confidence.float()
    positive = confidence > 0
    levels = _levels(confidence[positive])
    codes = torch.bucketize(confidence, (levels[1:] + levels[:-1]) / 2, out_int32=True) + 1
    codes = F.pad(torch.where(positive, codes, 0).to(torch.uint8), (0, confidence.shape[-1] % 2))
    return codes[..., ::2] | (codes[..., 1::2] << 4), F.pad(levels, (1, 0))


def _levels(positive: torch.Tensor) -> torch.Tensor:
    """Fifteen ascending levels; the last is repeated where fewer values exist."""
    if len(positive) == 0:
        return positive.new_ones(CONFIDENCE_LEVELS)
    ordered = positive[:: -(-len(positive) // _LEVEL_SAMPLES)].sort().values
    distinct = ordered.unique_consecutive()
    if len(distinct) <= CONFIDENCE_LEVELS:
        return F.pad(distinct[None], (0, CONFIDENCE_LEVELS - len(distinct)), mode="replicate")[0]
    ranks = (torch.arange(CONFIDENCE_LEVELS, device=ordered.device) + 0.5) / CONFIDENCE_LEVELS
    return ordered[(ranks * len(ordered)).long()]


def dequantize_confidence(packed: torch.Tensor, levels: torch.Tensor, width: int) -> torch.Tensor:
    """Widen what [`quantize_confidence`] made.

    Args:
        packed (`torch.ByteTensor` of shape `(T, H, ceil(W / 2))`): Two codes to a byte.
        levels (`torch.FloatTensor` of shape `(16,)`): The level of each code.
        width (`int`): `W`.

    Returns:
        `torch.HalfTensor` of shape `(T, H, W)`: Confidence.
    """
    half = as_half(levels).numpy()
    # Each byte stands for two float16 numbers, that is for one 32-bit pattern: one look-up for two pixels.
    pairs = np.stack(np.broadcast_arrays(half[None, :], half[:, None]), axis=-1)  # [high code, low code, place]
    pixels = np.take(pairs.reshape(256, 2).view(np.int32)[:, 0], packed.numpy())
    confidence = torch.from_numpy(pixels.view(np.float16))
    return confidence if confidence.shape[-1] == width else confidence[..., :width].contiguous()


def as_half(values: torch.Tensor) -> torch.Tensor:
    """Non-negative values as float16: zero stays zero, all others are bounded to its normal range."""
    bounds = torch.finfo(torch.float16)
    return torch.where(values > 0, values.clamp(bounds.tiny, bounds.max), 0).half()
