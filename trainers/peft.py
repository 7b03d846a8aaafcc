"""PEFT for GeoVR: adapters on the backbone, the geometric parts trained and saved in full."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from geovr_hf.modeling.configuration_geovr import GeoVRConfig
from geovr_hf.modeling.modeling_geovr import GeoVRForConditionalGeneration
from geovr_hf.trainers.geovr_training_args import GeoVRTrainingArguments
from geovr_hf.trainers.parameter_groups import GEOMETRY_MODULES, frozen_part, is_geometry_parameter


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

# The structure of the heads, beside an adapter. Not `config.json`: transformers takes a folder that has one for a
# complete model and looks for the base's weights in it.
ADAPTED_CONFIG_NAME = "geovr_config.json"

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
    adapter. [`load_peft_model`] loads it again.

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
    check_frozen(model, args)
    return model


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


def save_adapted_config(model: nn.Module, folder: str | Path):
    """Write the structure of an adapted model's heads beside its adapter. Other models need no such file.

    Args:
        model (`nn.Module`): The model.
        folder (`str` or `Path`): Where its adapter was saved.
    """
    if hasattr(model, "peft_config"):
        config = copy.deepcopy(model.config)
        # Of the base as it was loaded for training; another load may want it otherwise.
        vars(config).pop("quantization_config", None)
        config.to_json_file(Path(folder) / ADAPTED_CONFIG_NAME)


def load_peft_model(
    adapter: str | Path,
    is_trainable: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    **kwargs,
) -> "PeftModel":
    r"""Load a trained adapter onto the base that it names: what `AutoPeftModel` does, with the heads as trained.

    The base may be a GeoVR or a plain Qwen3-VL checkpoint. The heads have the structure that the trainer wrote beside
    the adapter; an adapter saved by PEFT alone gets that of the base.

    Args:
        adapter (`str` or `Path`): Folder or Hub id of the adapter.
        is_trainable (`bool`, *optional*, defaults to `False`): Load it to continue its training.
        revision (`str`, *optional*): Revision of the adapter on the Hub. The base's is in the adapter's configuration.
        token (`str` or `bool`, *optional*): Hub token.
        **kwargs: Arguments of the base's `from_pretrained`, such as `dtype` and `quantization_config`.

    Returns:
        [`~peft.PeftModel`]: In evaluation mode unless trainable. `merge_and_unload()` makes it a plain model.

    Raises:
        ValueError: The adapter and its base do not fit: weights of the adapter have no place in the model, or
            parts of the model would stay random.

    Examples:
        >>> model = load_peft_model("runs/lora", dtype="bfloat16")  # doctest: +SKIP
        >>> model.merge_and_unload().save_pretrained("runs/merged")  # doctest: +SKIP
    """
    from peft import PeftConfig, PeftModel

    adapter = str(adapter)
    hub = {"revision": revision, "token": token}
    peft_config = PeftConfig.from_pretrained(adapter, **hub)
    peft_config.inference_mode = not is_trainable
    base = peft_config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"{adapter} does not name its base: set `base_model_name_or_path` of its adapter_config.json."
        )
    base_hub = {"revision": peft_config.revision or "main", "token": token}
    written = cached_file(adapter, ADAPTED_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub)
    model, loading = GeoVRForConditionalGeneration.from_pretrained(
        base,
        config=None if written is None else _adapted_config(written, base, **base_hub),
        **base_hub,
        output_loading_info=True,
        **kwargs,
    )
    untrained = {name for name in loading["missing_keys"] if is_geometry_parameter(name)}
    saved = tuple(getattr(peft_config, "modules_to_save", None) or ())
    random = [
        name
        for name in geometry_module_names(model)
        if not name.endswith(saved) and any(key.startswith(f"{name}.") for key in untrained)
    ]
    if random:
        raise ValueError(
            f"{random} would stay random: neither the adapter {adapter} nor its base {base} has them. Name a GeoVR "
            "checkpoint as base, or train an adapter of `geovr_lora_config(model)`."
        )
    # PEFT's float32 copies of 16-bit weights are for training.
    options = {"autocast_adapter_dtype": is_trainable}
    adapted = PeftModel(model, peft_config, **options)
    loaded = adapted.load_adapter(adapter, "default", is_trainable=is_trainable, **options, **hub)
    if loaded.unexpected_keys:
        raise ValueError(
            f"{len(loaded.unexpected_keys)} weights of the adapter {adapter} have no place in its base {base}, among "
            f"them {loaded.unexpected_keys[0]}. Is `{ADAPTED_CONFIG_NAME}` of this adapter beside it?"
        )
    return adapted


def _adapted_config(file: str, base: str, **hub) -> GeoVRConfig:
    """The configuration beside an adapter, with the quantization of a base that is stored quantized."""
    fields, _ = GeoVRConfig.get_config_dict(base, **hub)
    stored = {name: fields[name] for name in ("quantization_config",) if name in fields}
    return GeoVRConfig.from_dict({**json.loads(Path(file).read_text(encoding="utf-8")), **stored})
