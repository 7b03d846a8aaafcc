"""Operations that a training step needs, counted from its shapes: the numerator of model FLOP utilisation.

A product of m x k with k x n counts 2 m k n. What is trained counts three times, for the forward pass and the
gradients of inputs and weights; attention counts the tokens that are seen, not those that are masked. The frozen
vision tower counts once. Work that is done again to save memory, norms, activations and the optimizer count nothing.
"""

from geovr_hf import GeoVRConfig
from geovr_hf.modeling.packed_layout_geovr import PackedLayout


TRAINED = 3


def step_flops(config: GeoVRConfig, packed: PackedLayout, clips: tuple[int, int, int, int], losses: bool) -> float:
    """Operations of a step on packed rows with clips of `(number, frames, rows, columns)`.

    Args:
        config (`GeoVRConfig`): The model.
        packed ([`PackedLayout`]): The batch.
        clips (`tuple[int, int, int, int]`): Clips, frames of each, and rows and columns of visual tokens of a frame.
        losses (`bool`): Whether the geometric losses are computed.
    """
    count, frames, rows, columns = clips
    total = TRAINED * language_flops(config, packed) + vision_flops(config, count * frames, 4 * rows * columns)
    if losses:
        total += TRAINED * heads_flops(config, count * frames, rows, columns)
    return total


def language_flops(config: GeoVRConfig, packed: PackedLayout) -> float:
    """A forward pass of the language model."""
    text = config.text_config
    heads, key_heads, head_dim = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    projections = text.hidden_size * head_dim * (2 * heads + 2 * key_heads)
    feed_forward = 3 * text.hidden_size * text.intermediate_size
    seen = 0
    for prefix, questions in zip(packed.prefix_lengths, packed.question_lengths, strict=True):
        seen += prefix * (prefix + 1) // 2
        seen += sum(length * prefix + length * (length + 1) // 2 for length in questions)
    tokens = packed.num_tokens
    layer = 2 * tokens * (projections + feed_forward) + 4 * seen * heads * head_dim
    return text.num_hidden_layers * layer + 2 * len(packed.supervised) * text.hidden_size * text.vocab_size


def vision_flops(config: GeoVRConfig, frames: int, patches: int) -> float:
    """A forward pass of the vision tower on frames of so many patches; attention stays within a frame."""
    vision = config.vision_config
    layer = 2 * patches * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    layer += 4 * patches**2 * vision.hidden_size
    merged = 4 * vision.hidden_size
    merger = 2 * (patches // 4) * (merged**2 + merged * vision.out_hidden_size)
    return frames * (vision.depth * layer + (1 + len(vision.deepstack_visual_indexes)) * merger)


def heads_flops(config: GeoVRConfig, frames: int, rows: int, columns: int) -> float:
    """A forward pass of the dense and the alignment heads; the heads on single tokens are negligible."""
    hidden, cells = config.text_config.hidden_size, rows * columns
    widths, fused = config.depth_hidden_sizes, config.depth_fusion_size
    first, second, third, fourth = widths
    depth = 2 * cells * hidden * sum(widths)
    depth += 2 * cells * (first * first * 16 + second * second * 4 + fourth * fourth * 9 / 4)
    scales = (16, 4, 1, 1 / 4)
    depth += sum(2 * scale * cells * width * fused * 9 for scale, width in zip(scales, widths, strict=True))
    units = (4, 4, 4, 2)  # convolutions of the fusion blocks' residual units
    depth += sum(2 * scale * cells * (count * 9 + 1) * fused**2 for scale, count in zip(scales, units, strict=True))
    depth += 2 * 16 * cells * fused * (config.depth_tile // 4) ** 2
    width = config.teacher_hidden_size
    alignment = len(config.teacher_alignment_layers) * 2 * cells * (hidden * width + width * width)
    return frames * (depth + alignment)
