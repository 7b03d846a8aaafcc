"""Quantization of the language model: 4 bits for QLoRA, 8 bits for answering. All else keeps its precision."""

from typing import TYPE_CHECKING

import torch
from transformers import BitsAndBytesConfig

from geovr_hf.trainers.parameter_groups import GEOMETRY_MODULES


if TYPE_CHECKING:
    from transformers import TorchAoConfig

# Expressions that match full module names from their beginning. The heads are trained in full, which quantized weights
# cannot be. The vision tower is a small part of the weights and a large part of what the heads can tell.
UNQUANTIZED_MODULES = [*(rf"(.*\.)?{name}" for name in GEOMETRY_MODULES), r".*visual", "lm_head"]


def geovr_4bit_config(**kwargs) -> BitsAndBytesConfig:
    r"""Configure QLoRA's quantization (arXiv 2305.14314): the language model's layers in 4 bits, by bitsandbytes.

    For `GeoVRForConditionalGeneration.from_pretrained(base, quantization_config=geovr_4bit_config())` on a GPU, then
    [`geovr_lora_config`] and [`GeoVRTrainer`].

    Args:
        **kwargs: Arguments of [`~transformers.BitsAndBytesConfig`] over the defaults: NF4, double quantization,
            bfloat16 computation. `llm_int8_skip_modules` are added to the heads, the vision tower and `lm_head`.

    Returns:
        [`~transformers.BitsAndBytesConfig`].

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    defaults = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    skipped = [*UNQUANTIZED_MODULES, *(kwargs.pop("llm_int8_skip_modules", None) or [])]
    return BitsAndBytesConfig(**{**defaults, **kwargs}, llm_int8_skip_modules=skipped)


def geovr_int8_config(**kwargs) -> "TorchAoConfig":
    r"""Configure int8 weights for answering: the language model's layers in 8 bits per weight, by torchao.

    For `GeoVRForConditionalGeneration.from_pretrained(model, quantization_config=geovr_int8_config())`, on a GPU or
    the CPU. Computation stays in the activations' dtype.

    Args:
        **kwargs: Arguments of [`~transformers.TorchAoConfig`]. `modules_to_not_convert` are added to the heads, the
            vision tower and `lm_head`.

    Returns:
        [`~transformers.TorchAoConfig`].

    Raises:
        ImportError: torchao is not installed.
    """
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    skipped = [*UNQUANTIZED_MODULES, *(kwargs.pop("modules_to_not_convert", None) or [])]
    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skipped, **kwargs)
