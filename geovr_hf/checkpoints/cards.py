"""Cards of checkpoints that no training run has just written: exports, imports, and folders without a card."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import transformers
from huggingface_hub import ModelCard

import geovr_hf
from geovr_hf.hub_cards import (
    CardTeacher,
    EvaluationRecord,
    GeoVRExportCardData,
    GeoVRModelCardData,
    read_card_facts,
)
from geovr_hf.hub_cards.card_file import CARD, FACTS
from geovr_hf.modeling import GeoVRConfig
from geovr_hf.teachers.catalogue import find_published
from geovr_hf.trainers.adapter_files import ADAPTED_CONFIG_NAME

from .adapters import is_adapter


def known_teacher(config: GeoVRConfig) -> CardTeacher | None:
    """The teacher that a configuration names, with its terms if it is one of our catalogue."""
    if config.teacher is None:
        return None
    entry = find_published(config.teacher)
    return (
        CardTeacher(config.teacher)
        if entry is None
        else CardTeacher(entry.hub_id, entry.licence, entry.non_commercial)
    )


def objectives_of(config: GeoVRConfig) -> dict[str, float]:
    """Weights of the terms of the loss, by their names."""
    return {term: getattr(config, f"{term}_loss_weight") for term in ("lm", *config.objectives)}


def export_card(folder: Path, config: GeoVRConfig, model_id: str, source: str) -> GeoVRExportCardData:
    """Facts of an export's card: those of its source's card, as far as it has any.

    Args:
        folder (`Path`): The source.
        config ([`GeoVRConfig`]): Its configuration.
        model_id (`str`): Name of the export.
        source (`str`): Name of the source.
    """
    found = read_card_facts(folder)
    facts, edited = found if found is not None else (None, True)
    if isinstance(facts, GeoVRModelCardData):
        card = GeoVRExportCardData.of(facts, model_id, source)
    else:
        card = GeoVRExportCardData(model_id, source, teacher=known_teacher(config))
    if edited and (folder / CARD).is_file():
        # What an author wrote by hand goes before what was recorded.
        written = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.to_dict()
        for name in ("license", "license_name", "language", "datasets"):
            if written.get(name):
                setattr(card, name, written[name])
    card.versions = {"geovr_hf": geovr_hf.__version__, "transformers": transformers.__version__}
    return card


def import_card(config: GeoVRConfig, model_id: str, source: str | None) -> GeoVRModelCardData:
    """Facts of the card of an imported checkpoint: what its configuration tells.

    Args:
        config ([`GeoVRConfig`]): Its configuration.
        model_id (`str`): Name of the import.
        source (`str`, *optional*): Name of the published checkpoint.
    """
    return GeoVRModelCardData(model_id, source=source, teacher=known_teacher(config), objectives=objectives_of(config))


def pushed_card(
    folder: Path, repo_id: str, license: str | None, base_model: str | None, temporary: Path
) -> dict[str, bytes]:
    """The card of a checkpoint as it is pushed, and its facts.

    Args:
        folder (`Path`): The checkpoint.
        repo_id (`str`): Where it is pushed to.
        license (`str`, *optional*): Licence to state, in place of the one recorded.
        base_model (`str`, *optional*): Id of what was fine-tuned, in place of the one recorded.
        temporary (`Path`): An existing folder to write in.

    Returns:
        `dict[str, bytes]`: Contents by file name.

    Raises:
        ValueError: A `license` that the teacher does not allow.
    """
    found = read_card_facts(folder)
    readme = folder / CARD
    if readme.is_file() and (found is None or found[1]):
        card = ModelCard.load(readme)
        changes = {"license": license, "base_model": base_model}
        for name, value in changes.items():
            if value is not None:
                setattr(card.data, name, value)
        return {CARD: str(card).encode()}
    facts = new_card(folder) if found is None else found[0]
    facts.model_id = repo_id
    facts.license = license or facts.license
    facts.base_model = base_model or facts.base_model
    facts.save(temporary)
    return {name: (temporary / name).read_bytes() for name in (CARD, FACTS)}


def new_card(folder: Path) -> GeoVRModelCardData | GeoVRExportCardData:
    """Facts of the card of a checkpoint that has none: what its configuration tells."""
    name = folder.absolute().name
    path = folder / (ADAPTED_CONFIG_NAME if is_adapter(folder) else "config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.get("model_type") == GeoVRConfig.model_type:
        card = import_card(GeoVRConfig.from_dict(config), name, None)
    elif is_adapter(folder):
        card = GeoVRModelCardData(name)
    else:
        return GeoVRExportCardData(name)
    if is_adapter(folder):
        from peft import PeftConfig

        card.is_adapter, card.base_model = True, PeftConfig.from_pretrained(folder).base_model_name_or_path
    return card


def add_results(folder: Path, records: list[EvaluationRecord]) -> None:
    """Add results to the card of a checkpoint, and write it anew.

    Results that were measured alike, on the same questions, take the place of those that the card has.

    Args:
        folder (`Path`): The checkpoint.
        records (`list[EvaluationRecord]`): The results.

    Raises:
        ValueError: The card was edited by hand, and would lose that.
    """
    found = read_card_facts(folder)
    if (folder / CARD).is_file() and (found is None or found[1]):
        raise ValueError(
            f"{folder / CARD} was written or edited by hand, which adding results would undo. Add them by hand, too, "
            "or move it away to have it made anew."
        )
    facts = new_card(folder) if found is None else found[0]

    def key(record: EvaluationRecord) -> str:
        return json.dumps(asdict(replace(record, value=0.0, ci=None, num_examples=None)), default=str)

    facts.results = list(({key(old): old for old in facts.results} | {key(new): new for new in records}).values())
    facts.save(folder)
