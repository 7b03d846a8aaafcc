"""Multiple-choice questions about distances and about the order in which things appear."""

from itertools import combinations, permutations

import numpy as np

from .furniture import CATEGORIES
from .questions import Observed, Question, draw, multiple_choice
from .scene import VISIBLE_SHARE


_MARGIN = 0.15  # metres by which the closest object must beat the next
_GLIMPSE = VISIBLE_SHARE / 4  # an object may cover no more than this of a frame before the one it appears in


def ask_relative_distance(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Which of four unique objects is closest to a fifth.

    Large things in the middle of a room are closest more often than small ones by a wall. So the right option's rank
    among the options, ordered by that prior, is drawn first, and every rank must be possible.
    """
    candidates: list[list] = [[], [], [], []]
    names = sorted((item.category for item in seen.unique), key=_prominence)
    for anchor in names:
        for four in combinations([name for name in names if name != anchor], 4):
            distances = [seen.distances[anchor, name] for name in four]
            closest, next_closest = sorted(distances)[:2]
            if next_closest - closest >= _MARGIN:
                candidates[distances.index(closest)].append((anchor, four))
    if not all(candidates):
        return None
    rank = int(rng.integers(4))
    anchor, four = draw(rng, candidates[rank])
    listed = [str(name) for name in rng.permutation(four)]
    text = (
        f"Which of these objects ({', '.join(listed)}) is closest to the {anchor}, "
        "taken from the closest point of each?"
    )
    wrong = [name for name in four if name != four[rank]]
    return multiple_choice(rng, "object_rel_distance", text, four[rank], wrong, (anchor, *listed))


def _prominence(name: str) -> float:
    """How much a category's name alone speaks for its being the closest: a metre of width outweighs a wall."""
    category = CATEGORIES[name]
    return category.typical_width - 1.0 * category.against_wall


def ask_appearance_order(seen: Observed, rng: np.random.Generator) -> Question | None:
    """In which order four categories come into view, each in a frame of its own."""
    first = _appearances(seen)
    candidates = [four for four in combinations(first, 4) if len({first[name] for name in four}) == 4]
    if not candidates:
        return None
    names = sorted(draw(rng, candidates), key=first.get)
    right, *others = [", ".join(order) for order in permutations(names)]
    wrong = [str(option) for option in rng.permutation(others)[:3]]
    listed = [str(name) for name in rng.permutation(names)]
    text = f"In which order do the following categories first come into view in the video: {', '.join(listed)}?"
    return multiple_choice(rng, "obj_appearance_order", text, right, wrong, listed)


def _appearances(seen: Observed) -> dict[str, int]:
    """First frame of each category that shows up clearly, without a glimpse of it in a frame before."""
    first = {}
    for category in seen.counts:
        items = [item for item in seen.room.furniture if item.category == category]
        frame = seen.first_frame(items)
        if frame is not None and (seen.shares(items)[:frame] <= _GLIMPSE).all():
            first[category] = frame
    return first
