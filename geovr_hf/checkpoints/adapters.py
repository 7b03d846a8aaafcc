"""Adapters that `geovr train` or `GeoVRTrainer` saved: opened, and merged into their base."""

from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from geovr_hf.modeling import GeoVRForConditionalGeneration, GeoVRProcessor


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, and not a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def load_merged(folder: str | Path, dtype: str = "auto") -> GeoVRForConditionalGeneration:
    """A model from an adapter's folder and the base that the adapter names, merged.

    Args:
        folder (`str` or `Path`): Folder of the adapter.
        dtype (`str`, *optional*, defaults to `"auto"`): Name of a torch dtype, or `"auto"` for the base's own.

    Returns:
        [`GeoVRForConditionalGeneration`]: With no adapter left in it.

    Raises:
        ValueError: The base cannot be had, or it and the adapter do not fit.
    """
    from peft import PeftConfig

    from geovr_hf.trainers import load_peft_model

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    try:
        return load_peft_model(folder, dtype=dtype).merge_and_unload()
    except (OSError, HfHubHTTPError) as error:
        raise ValueError(
            f"The adapter in {folder} belongs to {base!r}, which cannot be opened: {error}\nPut it there, or correct "
            "`base_model_name_or_path` in adapter_config.json."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"The adapter in {folder} does not fit its base {base!r}.\n{error}") from error


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
