"""Questions answered by a number: how many, how far, how large."""

import numpy as np

from .furniture import CATEGORIES
from .questions import Observed, Question


_CLOSEST = 0.5  # metres: nearer pairs are not asked about, one decimal is too coarse for them
_FARTHEST = 6.0


def ask_count(seen: Observed, rng: np.random.Generator) -> Question | None:
    """How many there are of the category that occurs more than once. All of them must have been seen."""
    category, count = seen.counts.most_common(1)[0]
    if count < 2 or sum(item.category == category for item in seen.seen) < count:
        return None
    text = f"How many {CATEGORIES[category].plural} does this room contain?"
    return Question("object_counting", text, str(count), None, (category,))


def ask_absolute_distance(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Metres between the closest points of two unique objects, to one decimal.

    A distance is drawn log-uniformly and the pair that comes nearest to it is asked about, which flattens the
    distribution of the answers.
    """
    pairs = [(pair, between) for pair, between in seen.distances.items() if between >= _CLOSEST]
    if not pairs:
        return None
    wanted = rng.uniform(np.log(_CLOSEST), np.log(_FARTHEST))
    (a, b), between = min(pairs, key=lambda entry: abs(np.log(entry[1]) - wanted))
    if rng.random() < 0.5:
        a, b = b, a
    text = f"What is the distance in meters between the {a} and the {b}, taken from the closest point of each?"
    return Question("object_abs_distance", text, f"{between:.1f}", None, (a, b))


def ask_size(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Centimetres along the longest side of a unique object's bounding box."""
    if not seen.unique:
        return None
    item = seen.unique[rng.integers(len(seen.unique))]
    text = (
        f"How long is the longest dimension (width, depth or height) of the {item.category}, measured in centimeters?"
    )
    return Question("object_size_estimation", text, str(round(100 * item.longest)), None, (item.category,))


def ask_room_size(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Square metres of floor, to one decimal."""
    text = "What is the floor area of this room in square meters?"
    return Question("room_size_estimation", text, f"{seen.room.plan.area:.1f}", None, ())
