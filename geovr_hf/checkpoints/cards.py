"""Cards of checkpoints that no training run has just written: exports, imports, and folders without a card."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import transformers
from huggingface_hub import ModelCard

import geovr_hf
from geovr_hf.hub_cards import EvaluationRecord, GeoVRExportCardData, GeoVRModelCardData, read_card_facts
from geovr_hf.hub_cards.card_file import CARD, FACTS
from geovr_hf.hub_cards.licence import known_teachers, licence_metadata, restricting
from geovr_hf.hub_cards.lineage import add_networks, checkpoint_networks
from geovr_hf.hub_cards.stubs import is_stub
from geovr_hf.modeling import GeoVRConfig
from geovr_hf.trainers.adapter_files import ADAPTED_CONFIG_NAME, hub_id

from .adapters import is_adapter


def objectives_of(config: GeoVRConfig) -> dict[str, float]:
    """Weights of the terms of the loss, by their names."""
    return {term: getattr(config, f"{term}_loss_weight") for term in ("lm", *config.objectives)}


def export_card(folder: Path, model_id: str, source: str) -> GeoVRExportCardData:
    """Facts of an export's card: those of its source's card, or what its source's configuration tells.

    Args:
        folder (`Path`): The source.
        model_id (`str`): Name of the export.
        source (`str`): Name of the source.
    """
    card = GeoVRExportCardData.of(card_facts(folder), model_id, source)
    if (written := written_card(folder, ignore_metadata_errors=True)) is not None:
        # What an author wrote by hand goes before what was recorded.
        for name, value in written.data.to_dict().items():
            if value and name in ("license", "license_name", "language", "datasets"):
                setattr(card, name, value)
    card.versions = {"geovr_hf": geovr_hf.__version__, "transformers": transformers.__version__}
    return card


def import_card(config: GeoVRConfig, model_id: str, source: str | None) -> GeoVRModelCardData:
    """Facts of the card of an imported checkpoint: what its configuration tells.

    Args:
        config ([`GeoVRConfig`]): Its configuration.
        model_id (`str`): Name of the import.
        source (`str`, *optional*): Name of the published checkpoint.
    """
    teacher, *others = known_teachers(config.teacher) or [None]
    objectives = objectives_of(config)
    return GeoVRModelCardData(model_id, source=source, teacher=teacher, other_teachers=others, objectives=objectives)


def written_card(folder: Path, **options) -> ModelCard | None:
    """The card of a checkpoint if its author wrote or edited it, and neither we nor a library made it.

    Args:
        folder (`Path`): The checkpoint.
        **options: Arguments of [`~huggingface_hub.ModelCard`].
    """
    if not (folder / CARD).is_file():
        return None
    found = read_card_facts(folder)
    card = ModelCard.load(folder / CARD, **options)
    return None if is_stub(card) or (found is not None and not found[1]) else card


def card_facts(folder: Path) -> GeoVRModelCardData | GeoVRExportCardData:
    """Facts of the card of a checkpoint, with all who taught it: those recorded, and those it tells without a card."""
    found, bare = read_card_facts(folder), new_card(folder)
    facts = bare if found is None else found[0]
    add_networks(facts, bare.networks)
    return facts


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
    facts = card_facts(folder)
    if (card := written_card(folder)) is not None:
        if isinstance(card.data.base_model, str):  # PEFT writes the folder that it was trained on
            card.data.base_model = hub_id(card.data.base_model)
        changes = {"license": license, "base_model": base_model}
        if restricting(facts.networks):
            changes |= licence_metadata(facts.networks, license or card.data.license)
        for name, value in changes.items():
            if value is not None:
                setattr(card.data, name, value)
        return {CARD: str(card).encode()}
    facts.model_id = repo_id
    facts.license = license or facts.license
    facts.base_model = base_model or hub_id(facts.base_model)
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

        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        card.is_adapter, card.base_model = True, hub_id(base)
        add_networks(card, checkpoint_networks(base or ""))
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
    if written_card(folder) is not None:
        raise ValueError(
            f"{folder / CARD} was written or edited by hand, which adding results would undo. Add them by hand, too, "
            "or move it away to have it made anew."
        )
    facts = card_facts(folder)

    def key(record: EvaluationRecord) -> str:
        return json.dumps(asdict(replace(record, value=0.0, ci=None, num_examples=None)), default=str)

    facts.results = list(({key(old): old for old in facts.results} | {key(new): new for new in records}).values())
    facts.save(folder)
