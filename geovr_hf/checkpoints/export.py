"""A GeoVR checkpoint becomes a plain Qwen3-VL one: what heads and geometry tokens taught is in the backbone."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedConfig, Qwen3VLForConditionalGeneration

from geovr_hf.modeling import GeoVRConfig

from .adapters import is_adapter, merge_adapter
from .folder import fetch_checkpoint, new_folder, public_name
from .plain_files import load_processor, plain_config, write_plain_config, write_plain_processor
from .shards import ShardedWeights, check_fit, drop_tied_head, write_shards


# What GeoVR adds to the backbone. All else has to be the backbone's.
_ADDED = ("camera_head.", "depth_head.", "scale_head.", "alignment_heads.", "model.geometry_tokens.")


@dataclass
class ExportReport:
    """What an export did.

    Args:
        kept (`list[str]`): Names of the tensors written, which are those of the source.
        removed (`list[str]`): Names of the tensors left out.
        num_bytes (`int`): Bytes of the tensors written.
        kept_tokens (`list[str]`): Geometry tokens that stay in the tokenizer because others were added after them.
        merged_adapter (`bool`): Whether an adapter was merged first.
    """

    kept: list[str]
    removed: list[str]
    num_bytes: int
    kept_tokens: list[str] = field(default_factory=list)
    merged_adapter: bool = False


def export_qwen3_vl(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    processor: str | os.PathLike | None = None,
    token: str | bool | None = None,
    progress: bool = False,
) -> ExportReport:
    """Write a checkpoint's backbone as a plain Qwen3-VL checkpoint, which opens wherever Qwen3-VL does.

    Tensors keep their values, dtypes and files, and are read one file at a time. An adapter is first merged into its
    base, in the base's dtype, which takes memory for the whole model.

    Args:
        source (`str` or `PathLike`):
            A GeoVR checkpoint or adapter: a folder or a Hub id.
        output (`str` or `PathLike`):
            The folder to be made. It appears whole or not at all.
        revision (`str`, *optional*):
            Revision on the Hub.
        subfolder (`str`, *optional*):
            Folder of the checkpoint inside `source`.
        processor (`str` or `PathLike`, *optional*):
            Where the processor is, if not beside the model.
        token (`str` or `bool`, *optional*):
            Token of the Hub; by default the stored one.
        progress (`bool`, *optional*, defaults to `False`):
            Show a progress bar.

    Returns:
        [`ExportReport`]

    Raises:
        ValueError: The source is no GeoVR checkpoint, is not whole, or holds tensors that nobody knows.
    """
    from .cards import export_card  # cards import peft, which nothing else here needs

    origin = folder = fetch_checkpoint(source, revision, subfolder, token)
    with new_folder(output) as staged, tempfile.TemporaryDirectory(dir=staged.parent) as temporary:
        merged = is_adapter(folder)
        if merged:
            folder = merge_adapter(folder, Path(temporary) / "merged")
        config = _geovr_config(folder)
        weights = ShardedWeights(folder)
        kept = _backbone_names(weights, config, source)
        loaded = load_processor(processor or folder, config)
        write_shards(staged, {name: lambda name=name: weights[name] for name in kept}, weights.shards, progress)
        write_plain_config(config, folder, staged)
        kept_tokens = write_plain_processor(loaded, staged)
        export_card(origin, Path(output).absolute().name, public_name(source, subfolder)).save(staged)
        return ExportReport(
            kept=kept,
            removed=sorted(weights.keys() - set(kept)),
            num_bytes=sum(weights[name].nbytes for name in kept),
            kept_tokens=kept_tokens,
            merged_adapter=merged,
        )


def _geovr_config(folder: Path) -> GeoVRConfig:
    model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    if model_type != GeoVRConfig.model_type:
        plain = " It is plain Qwen3-VL already." if model_type == "qwen3_vl" else ""
        raise ValueError(f"{folder} is a `{model_type}` checkpoint, not a GeoVR one.{plain}")
    return GeoVRConfig.from_pretrained(folder)


def _backbone_names(weights: ShardedWeights, config: GeoVRConfig, source: object) -> list[str]:
    """Names of the backbone's tensors: just those that Qwen3-VL has, or an error."""
    kept = [name for name in weights if not name.startswith(_ADDED)]
    plain = plain_config(config)
    drop_tied_head(kept, weights, plain, source)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(plain)
    check_fit(
        model,
        {name: weights.shapes[name] for name in kept},
        source,
        "Nothing was written. Is the checkpoint whole, and neither quantised nor wrapped?",
    )
    return sorted(kept)
