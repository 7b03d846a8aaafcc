"""Adapters on disk and on the Hub: what lies beside one, and how it comes back onto its base with its heads."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers.utils.hub import cached_file

from geovr_hf.modeling.configuration_geovr import GeoVRConfig
from geovr_hf.modeling.modeling_geovr import GeoVRForConditionalGeneration
from geovr_hf.trainers.parameter_groups import is_geometry_parameter
from geovr_hf.trainers.peft import geometry_module_names, widen_saved_modules


if TYPE_CHECKING:
    from peft import PeftModel

# The structure of the heads, beside an adapter. Not `config.json`: transformers takes a folder that has one for a
# complete model and looks for the base's weights in it.
ADAPTED_CONFIG_NAME = "geovr_config.json"


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


def hub_id(name: str | None) -> str | None:
    """A name, if it can be an id on the Hub; `None` for a local folder, or for nothing."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if name and "/" in name and not Path(name).exists() else None


def check_base_is_published(base: str | None, adapter: str | Path):
    """Check that others have what an adapter belongs onto, before it goes to the Hub.

    Args:
        base (`str`, *optional*): What the adapter names as its base.
        adapter (`str` or `Path`): What the error calls the adapter.

    Raises:
        ValueError: It is no id on the Hub.
    """
    if hub_id(base) is None:
        raise ValueError(
            f"The adapter in {adapter} was trained on {base!r}, which is not on the Hub: nobody else could load it. "
            "Push that first, then the adapter by `geovr push`, which `--base-model` (`base_model`) tells its id."
        )


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
    if is_trainable:
        widen_saved_modules(adapted)
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
