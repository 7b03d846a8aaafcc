"""What the weights of a published GeoVR checkpoint tell of its heads, and of the teacher they were made for."""

from collections.abc import Mapping
from dataclasses import fields
from math import isqrt
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, Qwen3VLConfig

from geovr_hf.modeling import GeoVRConfig


# The teachers of the published checkpoints (arXiv 2606.05833), by their names in our catalogue.
PUBLISHED_TEACHERS = ("facebook/VGGT-1B", "facebook/VGGT-Omega", "depth-anything/DA3-GIANT-1.1")
_HEADS = {"camera": "camera_head.", "depth": "depth_head.", "scale": "scale_head.", "alignment": "alignment_heads."}


def published_config(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    teacher: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[GeoVRConfig, list[str]]:
    """The configuration of a published checkpoint.

    Its own file tells the backbone alone: the heads were built from command-line flags. Their sizes are read off the
    weights; the teacher's layers, which no weight shows, are those of the one teacher of the paper with such sizes.

    Args:
        folder (`Path`): The checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes of its weights, by our names.
        teacher (`str`, *optional*): The teacher, if it is another or the sizes leave it open.
        config (`Mapping[str, Any]`, *optional*): Fields of [`GeoVRConfig`], over what was found.

    Returns:
        `tuple[GeoVRConfig, list[str]]`: The configuration, and fields of the file that are none of Qwen3-VL's.

    Raises:
        ValueError: The file is not Qwen3-VL's, or the teacher stays unknown.
    """
    saved, _ = PreTrainedConfig.get_config_dict(folder)
    if saved.get("model_type") != "qwen3_vl":
        ours = " It is one of ours already." if saved.get("model_type") == GeoVRConfig.model_type else ""
        raise ValueError(f"{folder} is a `{saved.get('model_type')}` checkpoint, not a published GeoVR one.{ours}")
    if not any(name.startswith(tuple(_HEADS.values())) for name in shapes):
        raise ValueError(
            f"{folder} has no geometric heads: it is plain Qwen3-VL. It needs no import; "
            "`GeoVRForConditionalGeneration.from_pretrained` gives it fresh heads."
        )
    known = {field.name for field in fields(Qwen3VLConfig)} | {"dtype", "torch_dtype", "tie_word_embeddings"}
    backbone = {name: value for name, value in saved.items() if name in known}
    ignored = sorted(saved.keys() - known - {"architectures", "model_type", "transformers_version", "auto_map"})
    heads = _head_sizes(shapes)
    if "teacher_num_layers" in (config or {}):
        heads["teacher"] = teacher
    else:
        heads |= _teacher_layout(teacher, heads)
    heads.pop("depth_tile", None)
    made = GeoVRConfig(**{**backbone, **heads, **(config or {})})
    made.architectures = ["GeoVRForConditionalGeneration"]
    return made, ignored


def _head_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    objectives = [name for name, prefix in _HEADS.items() if any(key.startswith(prefix) for key in shapes)]
    sizes: dict[str, Any] = {"objectives": objectives}
    if "camera" in objectives:
        sizes["camera_hidden_size"] = _rows(shapes, "camera_head.fc1.weight")
    if "scale" in objectives:
        sizes["scale_hidden_size"] = _rows(shapes, "scale_head.fc1.weight")
    if "depth" in objectives:
        sizes["depth_hidden_sizes"] = [_rows(shapes, f"depth_head.projects.{stage}.weight") for stage in range(4)]
        sizes["depth_fusion_size"] = _rows(shapes, "depth_head.laterals.0.weight")
        # The last layer emits a quarter of a tile along each axis.
        sizes["depth_tile"] = 4 * isqrt(_rows(shapes, "depth_head.projection.weight"))
    if "alignment" in objectives:
        sizes["teacher_hidden_size"] = _rows(shapes, "alignment_heads.0.fc2.weight")
    return sizes


def _rows(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    if name not in shapes:
        raise ValueError(f"The checkpoint is not whole: of its heads it lacks {name} (our name).")
    return shapes[name][0]


def _teacher_layout(teacher: str | None, heads: Mapping[str, Any]) -> dict[str, Any]:
    from geovr_hf.teachers.catalogue import find_published
    from geovr_hf.teachers.layout import teacher_layout
    from geovr_hf.teachers.loading import teacher_spec

    entries = {name: find_published(name) for name in ([teacher] if teacher else PUBLISHED_TEACHERS)}
    if None in entries.values():
        raise ValueError(f"Unknown teacher {teacher!r}. Those of the paper: {', '.join(PUBLISHED_TEACHERS)}.")
    layouts = {name: teacher_layout(teacher_spec(entry, entry.config())) for name, entry in entries.items()}
    sizes = {
        "features": heads.get("teacher_hidden_size"),
        "pixels of depth to a token": heads.get("depth_tile"),
    }
    fitting = [
        layout
        for layout in layouts.values()
        if sizes["features"] in (None, layout["teacher_hidden_size"])
        and sizes["pixels of depth to a token"] in (None, layout["teacher_patch_size"] * layout["teacher_pool_size"])
    ]
    if len(fitting) != 1:
        found = ", ".join(f"{size} {what}" for what, size in sizes.items() if size)
        raise ValueError(
            f"Heads of {found or 'these sizes'} fit {len(fitting)} of {', '.join(layouts)}. Name the teacher "
            "(--teacher), or its layout (--config teacher_num_layers=… teacher_depth_layers=… and so on)."
        )
    return fitting[0]
