"""Questions about pictures as such: what is where in a frame, in which frame, how large in it. Nothing about space.

A pretrained model can answer such questions; a student from random weights learns to in the warm-up, and with it to
find a thing by its name, to tell frames apart, to compare, and to answer with an option's letter. Questions about one
frame alone come first in difficulty: there is no other frame to look for the thing in.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from geovr_hf.data.rooms import Question
from geovr_hf.data.rooms.furniture import CATEGORIES
from geovr_hf.data.rooms.questions import draw, multiple_choice
from geovr_hf.data.rooms.render import View
from geovr_hf.data.rooms.scene import VISIBLE_SHARE, Room


SECONDS_APART = 0.5  # between frames, in every clip
_BESIDE = 0.1  # of a frame's width, the least between two things of which one is to the left
_LARGER = 1.5  # times the area, the least by which one of two things is the larger
_AT_ONCE = 3  # things whose places are asked for: an answer of five tokens
_TRIES = 6  # draws of one kind before it counts as used up in a clip


class Sight(NamedTuple):
    """A thing that a frame shows.

    Args:
        category: What it is.
        column: Mean column of its pixels, from 0 (left) to 1 (right).
        share: Share of the frame's pixels that it covers.
    """

    category: str
    column: float
    share: float


def tenth(column: float) -> int:
    """The tenth of a frame's width that a column lies in, from 0 (left) to 9 (right)."""
    return int(10 * column)


Sights = list[list[Sight]]  # of each frame


def sights_of(view: View, room: Room) -> Sights:
    """What each frame shows well enough."""
    width, sights = view.instances.shape[2], []
    for labels in view.instances:
        columns = {label: np.nonzero(labels == label)[1] for label in np.unique(labels[labels > 0])}
        sights.append(
            [
                Sight(room.furniture[label - 1].category, x.mean() / width, len(x) / labels.size)
                for label, x in columns.items()
                if len(x) >= VISIBLE_SHARE * labels.size
            ]
        )
    return sights


def names_in(frame: list[Sight], rng: np.random.Generator) -> str:
    """What a frame shows: `sofa7 chair2`, a name with the tenth of the frame's width it stands at.

    In no order: so the name alone tells which place is to follow, and has to be looked up.
    """
    names = [f"{sight.category}{tenth(sight.column)}" for sight in frame]
    return " ".join(str(name) for name in rng.permutation(names)) or "nothing"


def ask_flat_questions(sights: Sights, rng: np.random.Generator, count: int) -> list[Question] | None:
    """Draw `count` different questions about a clip or a frame, of all kinds in turns.

    Args:
        sights (`list[list[Sight]]`): What each frame shows; one frame is asked about without saying when.
        rng (`np.random.Generator`): Source of all draws.
        count (`int`): Number of questions.

    Returns:
        The questions, or `None` if there is too little to see.
    """
    asked: dict[tuple, Question] = {}
    kinds = [_KINDS[place] for place in rng.permutation(len(_KINDS))]
    while kinds and len(asked) < count:
        ask = kinds.pop(0)
        for _ in range(_TRIES):
            question = ask(sights, rng)
            if question is not None and (words := (question.text, question.options)) not in asked:
                asked[words] = question
                kinds.append(ask)
                break
    return list(asked.values()) if len(asked) == count else None


def _picture(sights: Sights, number: int) -> str:
    return "the picture" if len(sights) == 1 else f"the picture at {SECONDS_APART * number:.1f} seconds"


def _singles(sights: Sights) -> Sights:
    """What each frame shows one of."""
    counts = [Counter(sight.category for sight in frame) for frame in sights]
    return [
        [sight for sight in frame if count[sight.category] == 1] for frame, count in zip(sights, counts, strict=True)
    ]


def _draw_frame(sights: Sights, rng: np.random.Generator, least: int = 1) -> int | None:
    """Number of a frame with as many things, or `None`."""
    frames = [number for number, frame in enumerate(sights) if len(frame) >= least]
    return int(draw(rng, frames)) if frames else None


def _pair(sights: Sights, rng: np.random.Generator) -> tuple[int, Sight, Sight] | None:
    singles = _singles(sights)
    number = _draw_frame(singles, rng, least=2)
    if number is None:
        return None
    first, second = rng.permutation(len(singles[number]))[:2]
    return number, singles[number][first], singles[number][second]


def _first_seen(sights: Sights) -> dict[str, int]:
    first: dict[str, int] = {}
    for number, frame in enumerate(sights):
        for sight in frame:
            first.setdefault(sight.category, number)
    return first


def _ask_side(sights: Sights, rng: np.random.Generator) -> Question | None:
    pair = _pair(sights, rng)
    if pair is None or abs(pair[1].column - pair[2].column) < _BESIDE:
        return None
    number, a, b = pair
    answers = ("left", "right") if a.column < b.column else ("right", "left")
    text = f"In {_picture(sights, number)}, is the {a.category} to the left or to the right of the {b.category}?"
    return multiple_choice(rng, "picture_side", text, answers[0], answers[1:], (a.category, b.category))


def _ask_larger(sights: Sights, rng: np.random.Generator) -> Question | None:
    pair = _pair(sights, rng)
    if pair is None or max(pair[1].share / pair[2].share, pair[2].share / pair[1].share) < _LARGER:
        return None
    number, a, b = pair
    right, wrong = (a, b) if a.share > b.share else (b, a)
    text = f"Which covers more of {_picture(sights, number)}, the {a.category} or the {b.category}?"
    return multiple_choice(rng, "picture_larger", text, right.category, [wrong.category], (a.category, b.category))


def _ask_shown(sights: Sights, rng: np.random.Generator) -> Question | None:
    number = _draw_frame(sights, rng)
    if number is None:
        return None
    shown = {sight.category for sight in sights[number]}
    # Things of other frames before things of no frame: whoever looks at the wrong frame is wrong.
    others = [name for name in _first_seen(sights) if name not in shown]
    absent = [name for name in CATEGORIES if name not in shown and name not in others]
    wrong = [*rng.permutation(others), *rng.permutation(absent)][:3]
    right = str(draw(rng, sorted(shown)))
    text = f"Which of these does {_picture(sights, number)} show?"
    return multiple_choice(rng, "picture_shows", text, right, [str(name) for name in wrong], ())


def _ask_earlier(sights: Sights, rng: np.random.Generator) -> Question | None:
    first = _first_seen(sights)
    if len(set(first.values())) < 2:
        return None
    a, b = (str(name) for name in rng.permutation(list(first))[:2])
    if first[a] == first[b]:
        return None
    right, wrong = (a, b) if first[a] < first[b] else (b, a)
    text = f"Which comes into view first, the {a} or the {b}?"
    return multiple_choice(rng, "picture_earlier", text, right, [wrong], (a, b))


def _ask_when(sights: Sights, rng: np.random.Generator) -> Question | None:
    first = _first_seen(sights)
    if not first or len(sights) == 1:
        return None
    name = str(draw(rng, list(first)))
    text = f"At how many seconds does the {name} come into view first?"
    return Question("picture_when", text, f"{SECONDS_APART * first[name]:.1f}", None, (name,))


def _ask_columns(sights: Sights, rng: np.random.Generator) -> Question | None:
    singles = _singles(sights)
    number = _draw_frame(singles, rng)
    if number is None:
        return None
    chosen = [singles[number][place] for place in rng.permutation(len(singles[number]))[:_AT_ONCE]]
    names = ", ".join(sight.category for sight in chosen)
    text = f"Where in {_picture(sights, number)} are these, from 0 (left) to 9 (right): {names}?"
    answer = " ".join(str(tenth(sight.column)) for sight in chosen)
    return Question("picture_columns", text, answer, None, tuple(sight.category for sight in chosen))


_KINDS: tuple[Callable[[Sights, np.random.Generator], Question | None], ...] = (
    _ask_side,
    _ask_larger,
    _ask_shown,
    _ask_earlier,
    _ask_when,
    _ask_columns,
)
