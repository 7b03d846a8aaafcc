"""A checkpoint of the published GeoVR implementation becomes ours, and every key is accounted for."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from geovr_hf.conversion import join_rows, published_sources
from geovr_hf.modeling import GeoVRForConditionalGeneration

from .folder import fetch_checkpoint, new_folder, public_name
from .plain_files import load_processor, write_generation_config
from .published_layout import published_config
from .shards import ShardedWeights, check_fit, drop_tied_head, write_shards


REPORT = "import_report.json"


@dataclass(frozen=True)
class ImportedTensor:
    """What became of one published tensor.

    Args:
        published (`str`): Its published name.
        name (`str` or `None`): Our name; `None` for what was left out.
        shape (`tuple[int, ...]`): Its shape.
        action (`str`): `kept`, `renamed`, `joined` (rows of one table) or `left out` (teachers, a tied output layer).
    """

    published: str
    name: str | None
    shape: tuple[int, ...]
    action: str


@dataclass(frozen=True)
class ImportReport:
    """What an import did, key by key.

    Args:
        source (`str`): Name of the checkpoint.
        teacher (`str` or `None`): The teacher whose layout the heads have.
        tensors (`list[ImportedTensor]`): Every tensor of the source, by name.
        ignored_fields (`list[str]`): Fields of its configuration that were not taken over.
    """

    source: str
    teacher: str | None
    tensors: list[ImportedTensor]
    ignored_fields: list[str]

    def counts(self) -> dict[str, int]:
        """Tensors by what became of them."""
        actions = [tensor.action for tensor in self.tensors]
        return {action: actions.count(action) for action in sorted(set(actions))}


def import_published(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    processor: str | os.PathLike | None = None,
    teacher: str | None = None,
    config: Mapping[str, Any] | None = None,
    token: str | bool | None = None,
    progress: bool = False,
) -> ImportReport:
    """Write a published GeoVR checkpoint as one of ours. Values, dtypes and shards stay.

    Args:
        source (`str` or `PathLike`):
            The published checkpoint: a folder or a Hub id.
        output (`str` or `PathLike`):
            The folder to be made. It appears whole or not at all. `import_report.json` in it lists every key.
        subfolder (`str`, *optional*):
            Folder of the checkpoint inside `source`.
        revision (`str`, *optional*):
            Revision on the Hub.
        processor (`str` or `PathLike`, *optional*):
            Where the processor is, if not beside the weights; that of the backbone will do.
        teacher (`str`, *optional*):
            The teacher it was trained with. By default the one of the paper's that has its heads' sizes.
        config (`Mapping[str, Any]`, *optional*):
            Fields of [`GeoVRConfig`], over those read off the weights.
        token (`str` or `bool`, *optional*):
            Token of the Hub; by default the stored one.
        progress (`bool`, *optional*, defaults to `False`):
            Show a progress bar.

    Returns:
        [`ImportReport`]

    Raises:
        ValueError: The source is no published GeoVR checkpoint, is not whole, or holds tensors that nobody knows; or
            its teacher cannot be told.
    """
    from .cards import import_card  # cards import peft, which nothing else here needs

    folder = fetch_checkpoint(source, revision, subfolder, token)
    with new_folder(output) as staged:
        weights = ShardedWeights(folder)
        sources = published_sources(weights)
        shapes = {name: _joined_shape(weights, names) for name, names in sources.items()}
        made, ignored = published_config(folder, shapes, teacher, config)
        names = list(sources)
        drop_tied_head(names, weights, made, source)
        with torch.device("meta"):
            model = GeoVRForConditionalGeneration(made)
        check_fit(
            model,
            {name: shapes[name] for name in names},
            source,
            "Nothing was written. Is the checkpoint whole? Names are ours here; docs/export.md lists the published.",
        )
        loaded = load_processor(processor or folder, made)
        made.camera_first_token_id, made.camera_token_id, made.scale_token_id = loaded.geometry_token_ids
        tensors = {name: lambda name=name: join_rows(weights, sources[name]) for name in names}
        write_shards(staged, tensors, {name: weights.shards[sources[name][0]] for name in names}, progress)
        _write_config(model, made, staged)
        write_generation_config(folder, staged)
        loaded.save_pretrained(staged)
        name = public_name(source, subfolder)
        import_card(made, Path(output).absolute().name, name).save(staged)
        report = ImportReport(
            source=name,
            teacher=made.teacher,
            tensors=_account(weights, sources, names),
            ignored_fields=ignored,
        )
        text = json.dumps(asdict(report), indent=2) + "\n"
        (staged / REPORT).write_text(text, encoding="utf-8")
        return report


def _joined_shape(weights: ShardedWeights, names: tuple[str, ...]) -> tuple[int, ...]:
    first = weights.shapes[names[0]]
    return first if len(names) == 1 else (sum(weights.shapes[name][0] for name in names), *first[1:])


def _write_config(model, config, folder: Path) -> None:
    """Write the configuration and the code that travels with it, as `save_pretrained` of the model would."""
    from transformers.dynamic_module_utils import custom_object_save

    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)


def _account(weights: ShardedWeights, sources: Mapping[str, tuple[str, ...]], names: list[str]):
    ours = {published: name for name in names for published in sources[name]}
    joined = {
        published for published_names in sources.values() if len(published_names) > 1 for published in published_names
    }

    def action(published: str) -> str:
        if published not in ours:
            return "left out"
        if published in joined:
            return "joined"
        return "kept" if ours[published] == published else "renamed"

    return [
        ImportedTensor(published, ours.get(published), weights.shapes[published], action(published))
        for published in sorted(weights)
    ]
