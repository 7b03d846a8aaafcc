"""PEFT for GeoVR: adapters on the backbone, the geometric parts trained and saved in full."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.parameter_groups import GEOMETRY_MODULES, frozen_part, is_geometry_parameter


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

# Expressions, not bare names: "q_proj" alone would also match layers of the vision tower or of a head.
_LANGUAGE_LAYERS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_MERGER_LAYERS = r".*visual\.merger\.linear_fc\d"


def geometry_module_names(model: nn.Module) -> list[str]:
    """Full names of the modules that GeoVR adds to its backbone, a list's members one by one.

    Args:
        model (`nn.Module`): A GeoVR model without adapters.

    Returns:
        `list[str]`: Such as `"model.geometry_tokens"`, `"camera_head"` and `"alignment_heads.0"`.
    """
    names = []
    for name, module in model.named_modules():
        if name.split(".")[-1] in GEOMETRY_MODULES:
            # PEFT cannot wrap a list, only its members.
            members = range(len(module)) if isinstance(module, nn.ModuleList) else None
            names += [name] if members is None else [f"{name}.{member}" for member in members]
    return names


def geovr_lora_config(
    model: PreTrainedModel,
    r: int = 64,
    lora_alpha: float = 128,
    lora_dropout: float = 0.05,
    train_merger: bool = True,
    **kwargs,
) -> "LoraConfig":
    r"""Configure LoRA for a GeoVR model: what the published recipe trains, the backbone through adapters.

    The heads and the geometry-token embedding start from scratch, so they are trained in full and saved with the
    adapter. [`~geovr_hf.trainers.adapter_files.load_peft_model`] loads it again.

    Args:
        model ([`GeoVRForConditionalGeneration`]): The model to adapt.
        r (`int`, *optional*, defaults to 64): Rank.
        lora_alpha (`float`, *optional*, defaults to 128): Scale, divided by the rank.
        lora_dropout (`float`, *optional*, defaults to 0.05): Dropout before the adapters.
        train_merger (`bool`, *optional*, defaults to `True`): Adapt the vision tower's final merger, too.
        **kwargs: Further arguments of [`~peft.LoraConfig`], such as `use_dora=True` (arXiv 2402.09353) or
            `use_rslora=True` (arXiv 2312.03732); `modules_to_save` are added to the geometric parts.

    Returns:
        [`~peft.LoraConfig`].
    """
    from peft import LoraConfig

    targets = f"{_LANGUAGE_LAYERS}|{_MERGER_LAYERS}" if train_merger else _LANGUAGE_LAYERS
    modules_to_save = [*geometry_module_names(model), *(kwargs.pop("modules_to_save", None) or [])]
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        **{"target_modules": targets, "modules_to_save": modules_to_save, **kwargs},
    )


def add_adapters(model: PreTrainedModel, peft_config: "PeftConfig", args: GeoVRTrainingArguments) -> "PeftModel":
    r"""Wrap a model in adapters, if they train what has to be trained.

    Args:
        model ([`GeoVRForConditionalGeneration`]): The model to adapt.
        peft_config ([`~peft.PeftConfig`]): The adapters, see [`geovr_lora_config`].
        args (`GeoVRTrainingArguments`): Tells what is frozen.

    Returns:
        [`~peft.PeftModel`].

    Raises:
        ValueError: The adapters leave geometric parts untrained and unsaved, or train what `args` freezes, or the
            geometric parts are quantized.
    """
    from peft import get_peft_model

    check_geometry_is_saved(model, peft_config)
    check_geometry_is_not_quantized(model)
    model = get_peft_model(model, peft_config)
    widen_saved_modules(model)
    check_frozen(model, args)
    return model


def widen_saved_modules(model: "PeftModel"):
    """Make the modules that an adapter trains in full float32, in place, as PEFT makes the adapters themselves.

    In 16 bits, small updates would not move them.

    Args:
        model ([`~peft.PeftModel`]): The wrapped model.
    """
    from peft.utils import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for copied in module.modules_to_save.values():
                copied.to(torch.float32)


def check_adapted(model: nn.Module, args: GeoVRTrainingArguments):
    """Check that a model that has adapters already can be trained on.

    Args:
        model ([`~peft.PeftModel`]): The model.
        args (`GeoVRTrainingArguments`): Tells what is frozen.

    Raises:
        ValueError: transformers put the adapters in instead of PEFT, they are not to be trained, leave geometric parts
            untrained and unsaved, or train what `args` freezes.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ValueError(
            "The model has adapters that transformers put in, which it does not save as PEFT does. Load it by "
            "`load_peft_model(adapter, is_trainable=True)`."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "The adapters were loaded for inference. To continue their training, load them with `is_trainable=True`."
        )
    check_geometry_is_saved(model, model.peft_config[model.active_adapter])
    check_frozen(model, args)


def check_geometry_is_saved(model: nn.Module, peft_config: "PeftConfig"):
    """Check that an adapter trains and saves every part that GeoVR adds to its backbone.

    Args:
        model (`nn.Module`): The model, with or without adapters.
        peft_config ([`~peft.PeftConfig`]): The adapters.

    Raises:
        ValueError: It leaves some out. The message names them.
    """
    # Prompt tuning and its kin have no such field: they save nothing of the model.
    saved = tuple(getattr(peft_config, "modules_to_save", None) or ())
    missing = [name for name in geometry_module_names(model) if not name.endswith(saved)]
    if missing:
        raise ValueError(
            f"The adapter would neither train nor save {missing}: they would stay as they are, random in a fresh "
            "model. Add them to its `modules_to_save`, or make the configuration by `geovr_lora_config(model)`."
        )


def check_geometry_is_not_quantized(model: nn.Module):
    """Check that the heads can be trained.

    Args:
        model (`nn.Module`): The model.

    Raises:
        ValueError: Some are quantized. The message names the cure.
    """
    quantized = [
        name
        for name, p in model.named_parameters()
        # bitsandbytes packs bytes, torchao makes a tensor class of its own.
        if is_geometry_parameter(name) and not (p.is_floating_point() and type(p.data) is torch.Tensor)
    ]
    if quantized:
        raise ValueError(
            f"{quantized[0]} and {len(quantized) - 1} more parameters of the geometric parts are quantized and cannot "
            "be trained. Load the model with `quantization_config=geovr_4bit_config()`, which leaves them out."
        )


def check_frozen(model: nn.Module, args: GeoVRTrainingArguments):
    """Check that no adapter trains a part that the arguments freeze.

    Args:
        model (`nn.Module`): The wrapped model.
        args (`GeoVRTrainingArguments`): The arguments.

    Raises:
        ValueError: One does. The message names the parameter and the argument.
    """
    for name, parameter in model.named_parameters():
        argument = frozen_part(name, args)
        if argument and parameter.requires_grad:
            raise ValueError(
                f"`peft_config` trains {name}, which `{argument}=True` freezes. Take it out of `target_modules`, or "
                f"set `{argument}=False`."
            )
