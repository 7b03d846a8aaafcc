"""Who taught a checkpoint: the run's own teachers, and those of what it was trained from."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from transformers.utils.hub import cached_file

from geovr_hf.hub_cards.card_file import FACTS, read_facts
from geovr_hf.hub_cards.export_card import GeoVRExportCardData
from geovr_hf.hub_cards.licence import CardTeacher, TeacherFacts, known_teachers
from geovr_hf.hub_cards.model_card import GeoVRModelCardData


def read_card_facts(folder: str | os.PathLike) -> tuple[GeoVRModelCardData | GeoVRExportCardData, bool] | None:
    """The facts beside the card of a checkpoint, and whether the card was edited since; see [`read_facts`]."""
    kinds = (GeoVRModelCardData, GeoVRExportCardData)
    return read_facts(folder, {kind.__name__: kind for kind in kinds})


def checkpoint_networks(checkpoint: str) -> list[TeacherFacts]:
    """All that taught a checkpoint, as far as the facts of its card and its configuration tell.

    Args:
        checkpoint (`str`): Its folder, or its id on the Hub; nothing taught what has no name.

    Raises:
        ValueError: The facts are damaged, or from a later version.
    """
    card, config = (_find_file(checkpoint, name) for name in (FACTS, "config.json"))
    found = None if card is None else read_card_facts(card.parent)
    named = None if config is None else json.loads(config.read_text(encoding="utf-8")).get("teacher")
    return [*([] if found is None else found[0].networks), *known_teachers(named)]


def _find_file(checkpoint: str, name: str) -> Path | None:
    if not checkpoint:
        return None
    try:
        file = cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)
    except OSError:  # what is neither here nor there can tell nothing
        return None
    return None if file is None else Path(file)


def add_networks(card: GeoVRModelCardData | GeoVRExportCardData, networks: Iterable[TeacherFacts]) -> None:
    """Add to a card who else taught what it describes. Who is on it already, with terms no milder, stays as is."""
    for network in networks:
        same = [known for known in card.networks if known.name.lower() == network.name.lower()]
        if not same or (network.non_commercial and not any(known.non_commercial for known in same)):
            card.other_teachers.append(CardTeacher.of(network))
