"""Where a card and its facts are kept."""

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import RepoCard

from geovr_hf.hub_cards.evaluations import CardEvaluation, EvaluationRecord
from geovr_hf.hub_cards.licence import CardTeacher


CARD = "README.md"
FACTS = "geovr_card.json"
_TEACHERS = ("teacher", "metric")


class CardFacts(Protocol):
    """A dataclass of facts that renders as a card."""

    def render(self) -> RepoCard:
        """Fill the template."""
        ...


def write_card(card: RepoCard, folder: str | os.PathLike) -> Path:
    """Write a card as `README.md`, in one step: a reader sees the old card or the new one, never half of it.

    Args:
        card ([`~huggingface_hub.RepoCard`]): The card.
        folder (`str` or `os.PathLike`): Folder that it describes; made if missing.

    Returns:
        `Path`: The file written.
    """
    path = Path(folder) / CARD
    unfinished = path.with_name(f".{CARD}.unfinished")
    card.save(unfinished)
    os.replace(unfinished, path)
    return path


def save_card(facts: CardFacts, folder: str | os.PathLike) -> Path:
    """Write a card, and the facts it was made from as `geovr_card.json`.

    From the facts the card is made anew when something changes: when the checkpoint is pushed under another name, is
    exported, or gets results. A card that was edited by hand stays as it is.

    Args:
        facts (`CardFacts`): The facts.
        folder (`str` or `os.PathLike`): Folder that the card describes; made if missing.

    Returns:
        `Path`: The card.
    """
    card = facts.render()
    content = {"kind": type(facts).__name__, "card_sha256": _digest(str(card)), "facts": _plain_facts(facts)}
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    path = write_card(card, folder)
    unfinished = path.with_name(f".{FACTS}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path.with_name(FACTS))
    return path


def read_facts(folder: str | os.PathLike, kinds: dict[str, type]) -> tuple[Any, bool] | None:
    """Read the facts beside a card.

    Args:
        folder (`str` or `os.PathLike`): Folder of the card.
        kinds (`dict[str, type]`): Classes of facts by name.

    Returns:
        `tuple[CardFacts, bool]`: The facts, and whether the card was edited since they were written. `None` if there
        are none.

    Raises:
        ValueError: The file is damaged, or from a later version.
    """
    path = Path(folder) / FACTS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = _revived(kinds[content["kind"]], content["facts"])
        written = content["card_sha256"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or from a later version ({error!r}). Remove it to do without.") from error
    card = Path(folder) / CARD
    return facts, not card.is_file() or _digest(RepoCard.load(card).content) != written


def _revived(kind: type, facts: dict[str, Any]) -> Any:
    made = {name: CardTeacher(**value) if name in _TEACHERS and value else value for name, value in facts.items()}
    listed = {"evaluations": CardEvaluation, "results": EvaluationRecord, "other_teachers": CardTeacher}
    made |= {name: [made_of(**entry) for entry in facts[name]] for name, made_of in listed.items() if name in facts}
    return kind(**made)


def _digest(card: str) -> str:
    return hashlib.sha256("\n".join(card.splitlines()).strip().encode()).hexdigest()


def _plain_facts(facts: Any) -> dict[str, Any]:
    """The facts as JSON can hold them. Of a teacher's `spec`, only what a card tells."""
    teachers = {name: fact and CardTeacher.of(fact) for name, fact in vars(facts).items() if name in _TEACHERS}
    others = [CardTeacher.of(teacher) for teacher in facts.other_teachers]
    return asdict(replace(facts, **teachers, other_teachers=others))
