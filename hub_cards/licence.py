"""The licence that a card states for what was made with the help of teachers.

What came from a non-commercial teacher's output is offered on the teacher's terms: the card says so at its top, takes
the teacher's licence, and refuses a licence that claims more. Otherwise the licence is the author's to choose, and is
left out until it is chosen. This is a convention of ours, not legal advice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


_HUB_NON_COMMERCIAL_LICENCE = re.compile(r"cc-by-nc(-(nd|sa))?-\d\.\d", re.IGNORECASE)


class TeacherFacts(Protocol):
    """What a card tells of a teacher. A teacher's `spec` has it all. `None` stands for what is not known."""

    name: str
    licence: str | None
    non_commercial: bool | None


@dataclass(frozen=True)
class CardTeacher:
    """A teacher as a card tells of it; for one whose `spec` is not at hand.

    Args:
        name (`str`): Hub id, or name of a ground truth.
        licence (`str`, *optional*): Licence of its weights, an id of the Hub's list where that has it.
        non_commercial (`bool`, *optional*): Whether that licence forbids commercial use.
        revision (`str`, *optional*): Revision of its weights on the Hub.
    """

    name: str
    licence: str | None = None
    non_commercial: bool | None = None
    revision: str | None = None

    @classmethod
    def of(cls, teacher: TeacherFacts) -> "CardTeacher":
        """The facts of a teacher, and no more."""
        return cls(teacher.name, teacher.licence, teacher.non_commercial, getattr(teacher, "revision", None))


# Terms of the weights of the published networks, for a card that knows a name alone: the licence, by the id of the Hub
# where that has one, and whether it forbids commercial use.
PUBLISHED_TERMS = {
    "facebook/VGGT-1B": ("cc-by-nc-4.0", True),
    "facebook/VGGT-1B-Commercial": ("vggt-aup-license", False),
    "facebook/VGGT-Omega": ("fair-noncommercial-research-license", True),
    "depth-anything/DA3-GIANT-1.1": ("cc-by-nc-4.0", True),
    "depth-anything/DA3-GIANT": ("cc-by-nc-4.0", True),
    # The Hub's tag of LARGE said Apache-2.0 for a while; its authors say CC BY-NC 4.0.
    "depth-anything/DA3-LARGE-1.1": ("cc-by-nc-4.0", True),
    "depth-anything/DA3-LARGE": ("cc-by-nc-4.0", True),
    "depth-anything/DA3-BASE": ("apache-2.0", False),
    "depth-anything/DA3-SMALL": ("apache-2.0", False),
    "depth-anything/DA3METRIC-LARGE": ("apache-2.0", False),
}


def known_teachers(named: str | Sequence[str] | None) -> list[CardTeacher]:
    """The teachers that a configuration names (`config.teacher`), with their terms if they are published ones.

    Args:
        named (`str` or `Sequence[str]`, *optional*): Their names: ids on the Hub, or the parts behind the owner.
    """
    known = {hub_id.lower(): CardTeacher(hub_id, *terms) for hub_id, terms in PUBLISHED_TERMS.items()}
    known |= {hub_id.split("/")[-1]: teacher for hub_id, teacher in known.items()}
    names = [named] if isinstance(named, str) else named or ()
    return [known.get(name.lower(), CardTeacher(name)) for name in names]


def restricting(teachers: Sequence[TeacherFacts]) -> list[TeacherFacts]:
    """Those that may not be used commercially."""
    return [teacher for teacher in teachers if teacher.non_commercial]


def licence_metadata(teachers: Sequence[TeacherFacts], chosen: str | None) -> dict[str, str | None]:
    """The licence as a card's front matter states it.

    Args:
        teachers (`Sequence[TeacherFacts]`): all whose output went into what the card describes.
        chosen (`str`, *optional*): the author's licence, an id of the Hub's list.

    Returns:
        `dict[str, str | None]`: `license`, and `license_name` where the Hub's list does not have it.

    Raises:
        ValueError: `chosen` is not the licence of the non-commercial teachers.
    """
    binding = restricting(teachers)
    if not binding:
        return {"license": chosen}
    # Two networks on different terms leave only what both allow, which is no licence of the Hub's list.
    licences = list(dict.fromkeys(teacher.licence or "non-commercial" for teacher in binding))
    name = " and ".join(licences)
    if _HUB_NON_COMMERCIAL_LICENCE.fullmatch(name):
        metadata = {"license": name.lower()}
    else:
        metadata = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")}
    if chosen not in (None, metadata["license"]):
        teacher, stated = binding[0], metadata["license"]
        raise ValueError(
            f"`license={chosen!r}` claims more than the teacher {teacher.name!r} allows, whose licence "
            f"({teacher.licence}) is non-commercial. Leave `license` unset: the card then says {stated!r}."
        )
    return metadata
