"""Configuration, tokenizer and processor of a checkpoint, as plain Qwen3-VL's.

The files are those that transformers 5 writes, with what readers built on transformers 4 (vLLM, SGLang, lmms-eval,
llama.cpp's converter) look for beside it: docs/export.md says who reads what.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLProcessor

from geovr_hf.modeling import GeoVRConfig, GeoVRProcessor
from geovr_hf.modeling.processing_geovr import CAMERA_FIRST_TOKEN, CAMERA_TOKEN, SCALE_TOKEN


_GEOMETRY_TOKENS = (CAMERA_FIRST_TOKEN, CAMERA_TOKEN, SCALE_TOKEN)


def plain_config(config: GeoVRConfig) -> Qwen3VLConfig:
    """The backbone's configuration: every field that is Qwen3-VL's own, and none of ours."""
    ours = {field.name for field in fields(GeoVRConfig)} - {field.name for field in fields(Qwen3VLConfig)}
    kept = {name: value for name, value in config.to_dict().items() if name not in ours}
    for name in ("model_type", "auto_map", "architectures"):
        kept.pop(name, None)
    return Qwen3VLConfig(**kept, architectures=["Qwen3VLForConditionalGeneration"])


def write_plain_config(config: GeoVRConfig, source: Path, folder: Path) -> None:
    """Write the configuration, and that of generation if the source has one.

    Args:
        config ([`GeoVRConfig`]): The checkpoint's.
        source (`Path`): Its folder.
        folder (`Path`): Where to write to.
    """
    plain_config(config).save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    text = content["text_config"]
    # transformers 5 has one `rope_parameters`; before, its parts had these names. It reads either.
    rope = dict(text["rope_parameters"])
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = rope
    text["tie_word_embeddings"] = content["tie_word_embeddings"]
    _write_json(path, content)
    write_generation_config(source, folder)


def write_generation_config(source: Path, folder: Path) -> None:
    """Take over how a checkpoint generates, if it says so."""
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)


def load_processor(source: Path | str, config: GeoVRConfig) -> GeoVRProcessor:
    """The processor of a checkpoint.

    Args:
        source (`Path` or `str`): Its folder, or a Hub id.
        config ([`GeoVRConfig`]): Of the model that it shall serve.

    Raises:
        ValueError: There is no processor, or its tokens are not the model's.
    """
    cure = (
        "Save it there by `processor.save_pretrained`, or name one that fits, such as "
        "`--processor Qwen/Qwen3-VL-2B-Instruct`."
    )
    try:
        processor = GeoVRProcessor.from_pretrained(source)
    except (OSError, TypeError) as error:
        raise ValueError(f"{source} has no processor: {error}\n{cure}") from error
    # A missing tokenizer is no error to transformers: it makes an empty one.
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if getattr(processor, name) != getattr(config, name):
            raise ValueError(
                f"{source} has no processor of this model: its `{name}` is {getattr(processor, name)}, the model's "
                f"{getattr(config, name)}. {cure}"
            )
    return processor


def write_plain_processor(processor: GeoVRProcessor, folder: Path) -> list[str]:
    """Write the processor, its tokenizer without geometry tokens.

    Args:
        processor ([`GeoVRProcessor`]): The processor.
        folder (`Path`): Where to write to.

    Returns:
        `list[str]`: Geometry tokens that had to stay, because tokens were added after them: without them, those would
        move to other ids.
    """
    parts = processor.image_processor, processor.tokenizer, processor.video_processor
    Qwen3VLProcessor(*parts, chat_template=processor.chat_template).save_pretrained(folder)
    # transformers 4 looks for each of the two in a file of its own.
    processor.image_processor.save_pretrained(folder)
    processor.video_processor.save_pretrained(folder)
    kept = _remove_geometry_tokens(folder)
    for path in folder.glob("*config.json"):
        if path.name != "config.json":
            _write_json(path, _without(json.loads(path.read_text(encoding="utf-8")), "auto_map"))
    return kept


def _remove_geometry_tokens(folder: Path) -> list[str]:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    ours = {token["id"] for token in tokenizer["added_tokens"] if token["content"] in _GEOMETRY_TOKENS}
    later = [token for token in tokenizer["added_tokens"] if ours and token["id"] > max(ours)]
    removed = () if later else _GEOMETRY_TOKENS
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] not in removed]
    _write_json(path, tokenizer, indent=None)

    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    # A list under this name is a mapping to transformers 4, which knows the list by another.
    special = content.pop("extra_special_tokens", [])
    if isinstance(special, dict):
        content["extra_special_tokens"] = special
    else:
        content["additional_special_tokens"] = [token for token in special if _content(token) not in removed]
    decoder = content.get("added_tokens_decoder", {})
    for token_id in [token_id for token_id, token in decoder.items() if _content(token) in removed]:
        del decoder[token_id]
    for trace in ("is_local", "local_files_only"):  # of where this tokenizer was loaded from
        content.pop(trace, None)
    _write_json(path, content)
    return [token["content"] for token in tokenizer["added_tokens"] if token["content"] in _GEOMETRY_TOKENS]


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _without(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, name) for key, item in value.items() if key != name}
    return value


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
