"""Questions about a room in the eight types of VSI-Bench, each with its exact answer.

Definitions follow VSI-Bench (arXiv 2412.14171): objects are oriented bounding boxes, distances are between closest
points, directions between the middles of boxes on the floor, near-ties are not asked, and only a category with a
single instance may stand for an object. The wording is our own. Only what the clip shows is asked about: every object
of a question covers at least `VISIBLE_SHARE` of some frame.

Nothing should be learnt from the words alone. Where the answer is one of few options, a room must be able to make
every option the right one: then the right one is drawn, and after it a question that has it. Where the answer is a
number, rooms are drawn so that its distribution is flat on a logarithmic scale. `blind` measures what is left.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .boxes import rectangle_distance
from .furniture import Furniture
from .scene import VISIBLE_SHARE, Room


LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Args:
        question_type: Name of its type in VSI-Bench.
        text: The question itself.
        answer: A number, or the letter of the right option.
        options: `"A. ..."`, `"B. ..."`, ... of a multiple-choice question, `None` for a number.
        subjects: Names of the categories it is about, in the order of the text.
    """

    question_type: str
    text: str
    answer: str
    options: tuple[str, ...] | None
    subjects: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The question with its options and how to answer."""
        head = f"These are frames of a video.\n{self.text}"
        if self.options is None:
            return f"{head}\nAnswer with a number."
        return "\n".join([head, "Options:", *self.options, "Answer with the option's letter."])


@dataclass(frozen=True)
class Observed:
    """What a clip shows of a room: the ground truth that questions are asked about."""

    room: Room

    @cached_property
    def seen(self) -> list[Furniture]:
        """Objects that some frame shows well enough."""
        return [item for item in self.room.furniture if self.first_frame([item]) is not None]

    @cached_property
    def counts(self) -> Counter:
        """Number of objects of each category in the room, seen or not."""
        return Counter(item.category for item in self.room.furniture)

    @cached_property
    def unique(self) -> list[Furniture]:
        """Seen objects that are the only one of their category."""
        return [item for item in self.seen if self.counts[item.category] == 1]

    @cached_property
    def distances(self) -> dict[tuple[str, str], float]:
        """Distance in metres between each ordered pair of unique objects, by their categories."""
        table = {}
        for i, a in enumerate(self.unique):
            for b in self.unique[:i]:
                between = rectangle_distance(a.footprint, b.footprint)
                table[a.category, b.category] = table[b.category, a.category] = between
        return table

    def shares(self, items: Sequence[Furniture]) -> np.ndarray:
        """Largest share of each frame's pixels that one of the objects covers, shape `(T,)`."""
        return self.room.views[:, [item.label for item in items]].max(axis=1)

    def first_frame(self, items: Sequence[Furniture]) -> int | None:
        """First frame that shows one of the objects well enough, or `None`."""
        frames = np.flatnonzero(self.shares(items) >= VISIBLE_SHARE)
        return int(frames[0]) if len(frames) else None


Asker = Callable[[Observed, np.random.Generator], Question | None]


def multiple_choice(
    rng: np.random.Generator,
    question_type: str,
    text: str,
    right: str,
    wrong: Sequence[str],
    subjects: Sequence[str],
) -> Question:
    """Put the right option at a random letter among the wrong ones, whose order is drawn too."""
    options = [str(option) for option in rng.permutation(list(wrong))]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, right)
    lettered = tuple(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return Question(question_type, text, LETTERS[place], lettered, tuple(subjects))


def draw(rng: np.random.Generator, items: Sequence):
    """Draw one of the items."""
    return items[rng.integers(len(items))]
