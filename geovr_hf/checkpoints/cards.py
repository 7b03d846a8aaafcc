"""Cards of checkpoints that no training run has just written: exports, imports, and folders without a card."""

from pathlib import Path

import transformers
from huggingface_hub import ModelCard

import geovr_hf
from geovr_hf.hub_cards import CardTeacher, GeoVRExportCardData, GeoVRModelCardData, read_card_facts
from geovr_hf.modeling import GeoVRConfig
from geovr_hf.teachers.catalogue import find_published


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
    if edited and (folder / "README.md").is_file():
        # What an author wrote by hand goes before what was recorded.
        written = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
        for name in ("license", "license_name", "language", "datasets"):
            if written.get(name):
                setattr(card, name, written[name])
    card.versions = {"geovr_hf": geovr_hf.__version__, "transformers": transformers.__version__}
    return card


def import_card(config: GeoVRConfig, model_id: str, source: str) -> GeoVRModelCardData:
    """Facts of the card of an imported checkpoint: what its configuration tells.

    Args:
        config ([`GeoVRConfig`]): Its configuration.
        model_id (`str`): Name of the import.
        source (`str`): Name of the published checkpoint.
    """
    return GeoVRModelCardData(model_id, source=source, teacher=known_teacher(config), objectives=objectives_of(config))
