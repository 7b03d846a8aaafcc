"""Adapters that `geovr train` or `GeoVRTrainer` saved: opened, and merged into their base."""

from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from geovr_hf.modeling import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRProcessor


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, and not a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def load_merged(folder: str | Path, dtype: str = "auto") -> GeoVRForConditionalGeneration:
    """A model from an adapter's folder and the base that the adapter names, merged.

    transformers' own way, `AutoModel` on the folder, would load the plain base and drop the heads without a word.

    Args:
        folder (`str` or `Path`): Folder of the adapter. A `config.json` in it tells the structure of the heads, else
            the base's configuration must.
        dtype (`str`, *optional*, defaults to `"auto"`): Name of a torch dtype, or `"auto"` for the base's own.

    Returns:
        [`GeoVRForConditionalGeneration`]: With no adapter left in it.

    Raises:
        ValueError: The base cannot be had, or it and the adapter do not fit.
    """
    from peft import PeftConfig, PeftModel

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    has_config = (Path(folder) / "config.json").is_file()
    try:
        config = GeoVRConfig.from_pretrained(folder if has_config else base)
        model = GeoVRForConditionalGeneration.from_pretrained(base, config=config, dtype=dtype)
    except (OSError, HfHubHTTPError) as error:
        raise ValueError(
            f"The adapter in {folder} belongs to {base!r}, which cannot be opened: {error}\nPut it there, or correct "
            "`base_model_name_or_path` in adapter_config.json."
        ) from error
    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        cure = "" if has_config else " The folder has no config.json, which would tell the structure of its heads."
        raise ValueError(f"The adapter in {folder} does not fit its base {base!r}.{cure}\n{error}") from error


def merge_adapter(folder: Path, merged: Path) -> Path:
    """Merge an adapter into its base, and save the whole checkpoint.

    Args:
        folder (`Path`): Folder of the adapter.
        merged (`Path`): Where to save to.

    Returns:
        `Path`: `merged`, with the processor from beside the adapter, or else from the base.
    """
    from peft import PeftConfig

    load_merged(folder).save_pretrained(merged)
    has_processor = (folder / "processor_config.json").is_file()
    source = folder if has_processor else PeftConfig.from_pretrained(folder).base_model_name_or_path
    GeoVRProcessor.from_pretrained(source).save_pretrained(merged)
    return merged
