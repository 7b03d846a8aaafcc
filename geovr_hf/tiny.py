"""Tiny models of the real architecture, made on the spot: for the demo, for tests, for trying things on a laptop."""

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen3VLVideoProcessor

from geovr_hf.modeling import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor


_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# ChatML as Qwen3-VL's processor expects it; a video or image is a wrapped placeholder.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""


def make_tiny_processor(texts: Iterable[str] = (), vocab_size: int = 512) -> GeoVRProcessor:
    r"""Make a processor with a byte-level tokenizer trained on a few texts.

    Any text round-trips; words of `texts` become one token each as far as `vocab_size` allows. Frames are not resized
    beyond rounding their sides to multiples of 32 pixels.

    Args:
        texts (`Iterable[str]`, *optional*): What the tokenizer is trained on.
        vocab_size (`int`, *optional*, defaults to 512): Tokens at most, special tokens included. At least 290.

    Returns:
        [`GeoVRProcessor`]

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    num_reserved = len(_SPECIAL_TOKENS) + 3
    if vocab_size < 256 + num_reserved:
        raise ValueError(f"`vocab_size` must be at least {256 + num_reserved}, got {vocab_size}.")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - num_reserved, initial_alphabet=alphabet, show_progress=False, min_frequency=2
        ),
    )
    vocab = bpe.get_vocab()
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL_TOKENS),
        model_max_length=32768,
    )
    limits = {"shortest_edge": 32 * 32, "longest_edge": 2**28}
    return GeoVRProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, temporal_patch_size=2, size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=limits, cap_pixels_per_frame=False),
        chat_template=_CHAT_TEMPLATE,
    )


def make_tiny_config(
    processor: GeoVRProcessor,
    hidden_size: int = 64,
    num_layers: int = 4,
    num_heads: int = 4,
    vision_hidden_size: int = 32,
    vision_depth: int = 3,
    **geometry,
) -> GeoVRConfig:
    r"""Describe a tiny model for a tiny processor.

    Args:
        processor (`GeoVRProcessor`): Gives the vocabulary and all token ids.
        hidden_size (`int`, *optional*, defaults to 64): Width of the language model.
        num_layers (`int`, *optional*, defaults to 4): Layers of the language model.
        num_heads (`int`, *optional*, defaults to 4): Attention heads of the language model.
        vision_hidden_size (`int`, *optional*, defaults to 32): Width of the vision tower.
        vision_depth (`int`, *optional*, defaults to 3): Layers of the vision tower, each of which feeds DeepStack.
        **geometry: Fields of [`GeoVRConfig`], over small defaults.

    Returns:
        [`GeoVRConfig`]
    """
    tokenizer = processor.tokenizer
    camera_first, camera, scale = processor.geometry_token_ids
    head_dim = hidden_size // num_heads
    # Qwen3-VL's 0.02 suits widths of thousands; a narrow model would take most of a short training to wake up.
    text_range, vision_range = (0.7 * width**-0.5 for width in (hidden_size, vision_hidden_size))
    # The interleaved rotary sections cover half a head: time takes what height and width leave.
    side = head_dim // 2 // 3
    defaults = {
        "camera_hidden_size": 64,
        "scale_hidden_size": 32,
        "depth_hidden_sizes": [16, 16, 32, 32],
        "depth_fusion_size": 16,
        "teacher": None,
        "teacher_hidden_size": 32,
        "teacher_patch_size": 16,
    }
    return GeoVRConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": max(num_heads // 2, 1),
            "head_dim": head_dim,
            "initializer_range": text_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_dim // 2 - 2 * side, side, side],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_hidden_size,
            "intermediate_size": 2 * vision_hidden_size,
            "num_heads": 2,
            "initializer_range": vision_range,
            "out_hidden_size": hidden_size,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(range(vision_depth))[:3],
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        camera_first_token_id=camera_first,
        camera_token_id=camera,
        scale_token_id=scale,
        tie_word_embeddings=True,
        **{**defaults, **geometry},
    )


def make_tiny_model(config: GeoVRConfig, processor: GeoVRProcessor, seed: int = 0) -> GeoVRForConditionalGeneration:
    r"""Make a model with random weights whose generation stops where the processor's turns end.

    Args:
        config (`GeoVRConfig`): Its structure.
        processor (`GeoVRProcessor`): Its processor.
        seed (`int`, *optional*, defaults to 0): Seed of the weights. The global random state is left alone.

    Returns:
        [`GeoVRForConditionalGeneration`]: In float32, in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GeoVRForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model
