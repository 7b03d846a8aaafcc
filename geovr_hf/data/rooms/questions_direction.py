"""Multiple-choice questions about directions: where something is as seen from somewhere, and how to get there."""

from itertools import product

import numpy as np

from .questions import Asker, Observed, Question, draw, multiple_choice


_MARGIN = 10.0  # degrees kept to the border between two answers
_APART = 0.8  # metres at least between the middles of the objects that span an angle
_ROBOT = 0.2  # metres kept between a straight leg of a route and all other furniture
_POINTS = 60  # places at which a leg is checked

# For each difficulty the borders between answers, in degrees to the left of straight ahead.
_SECTORS = {
    "easy": {"left": (0, 180), "right": (180, 360)},
    "medium": {"left": (45, 135), "right": (225, 315), "back": (135, 225)},
    "hard": {"front-left": (0, 90), "back-left": (90, 180), "back-right": (180, 270), "front-right": (270, 360)},
}
_TURNS = {"turn left": (45, 135), "turn right": (225, 315), "turn back": (135, 225)}

_RULES = {
    "easy": "is the {} to your left or to your right?",
    "medium": (
        "is the {} to your left, to your right, or behind you? Something is behind you if you would have to turn by "
        "at least 135 degrees to face it."
    ),
    "hard": (
        "in which quadrant is the {}: front-left, front-right, back-left or back-right? You stand at the origin of a "
        "plane and look along its positive y-axis."
    ),
}


def relative_direction(difficulty: str) -> Asker:
    """The asker for `"easy"`, `"medium"` or `"hard"`: stand by one unique object, face another, where is a third?"""
    sectors = _SECTORS[difficulty]

    def ask(seen: Observed, rng: np.random.Generator) -> Question | None:
        if len(seen.unique) < 3:
            return None
        middles = _middles(seen)
        angles = _turns_at(middles)
        candidates = {answer: np.argwhere(_within(angles, *sector)) for answer, sector in sectors.items()}
        if not all(map(len, candidates.values())):
            return None
        answer = draw(rng, list(sectors))
        a, b, c = (seen.unique[i].category for i in draw(rng, candidates[answer]))
        text = f"You are standing by the {a} and facing the {b}: {_RULES[difficulty].format(c)}"
        wrong = [other for other in sectors if other != answer]
        return multiple_choice(rng, f"object_rel_direction_{difficulty}", text, answer, wrong, (a, b, c))

    return ask


def ask_route(seen: Observed, rng: np.random.Generator) -> Question | None:
    """Fill in the one or two turns of a robot's way from object to object, straight legs clear of other furniture.

    All options are turns that are the right ones of some way through this room.
    """
    num_turns = int(rng.integers(1, 3))
    if len(seen.unique) < num_turns + 2:
        return None
    middles = _middles(seen)
    free = _free_legs(seen, middles)
    # Arriving from `a` at `b` the robot faces away from `a`; entry [a, b, c] is its turn towards `c`.
    angles = (_turns_at(middles).transpose(1, 0, 2) + 180) % 360
    passable = free[:, :, None] & free[None, :, :]
    turns = {answer: passable & _within(angles, *sector) for answer, sector in _TURNS.items()}
    ways = {answer: _chains([turns[turn] for turn in answer]) for answer in product(_TURNS, repeat=num_turns)}
    possible = [answer for answer, found in ways.items() if found]
    num_options = min(4, len(ways))
    if len(possible) < num_options:
        return None
    right, *wrong = [possible[i] for i in rng.permutation(len(possible))[:num_options]]
    stops = tuple(seen.unique[i].category for i in draw(rng, ways[right]))
    options = [", ".join(turns) for turns in wrong]
    return multiple_choice(rng, "route_planning", _route_text(stops), ", ".join(right), options, stops)


def turn_angle(at: np.ndarray, ahead: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Degrees to turn left, standing at `at` and facing `ahead`, until facing `target`, in [0, 360)."""
    (ax, ay), (bx, by) = np.moveaxis(ahead - at, -1, 0), np.moveaxis(target - at, -1, 0)
    return np.degrees(np.arctan2(ax * by - ay * bx, ax * bx + ay * by)) % 360


def _middles(seen: Observed) -> np.ndarray:
    """Middles of the unique objects on the floor, shape `(N, 2)`."""
    return np.array([item.position for item in seen.unique])


def _turns_at(middles: np.ndarray) -> np.ndarray:
    """`turn_angle` at `a`, facing `b`, to `c` for all triples, NaN where the angle says little, shape `(N, N, N)`."""
    angles = turn_angle(middles[:, None, None], middles[None, :, None], middles[None, None, :])
    near = np.linalg.norm(middles[:, None] - middles, axis=-1) < _APART
    angles[near[:, :, None] | near[:, None, :] | np.eye(len(middles), dtype=bool)] = np.nan
    return angles


def _within(angles: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether angles lie in a sector, clear of its borders."""
    return (angles >= low + _MARGIN) & (angles <= high - _MARGIN)


def _free_legs(seen: Observed, middles: np.ndarray) -> np.ndarray:
    """Whether the straight way between two unique objects is inside the room and clear of others, shape `(N, N)`."""
    count = len(middles)
    steps = np.linspace(0, 1, _POINTS)[:, None]
    points = middles[:, None, None] + steps * (middles[None, :, None] - middles[:, None, None])
    distances = seen.room.obstacles.distances(points).min(axis=2)
    own = [item.label - 1 for item in seen.unique]  # columns of `distances`: furniture in the order of labels
    row = np.arange(count)
    distances[row, :, own] = np.inf
    distances[:, row, own] = np.inf
    free = (distances.min(axis=-1) >= _ROBOT) & (seen.room.plan.clearance(points).min(axis=-1) > 0)
    return free & ~np.eye(count, dtype=bool)


def _chains(turns: list[np.ndarray]) -> list[tuple[int, ...]]:
    """Stops `(a, b, c)`, or `(a, b, c, d)` for two turns, all different, where the given turns have to be made."""
    if len(turns) == 1:
        return [tuple(stops) for stops in np.argwhere(turns[0])]
    both = np.argwhere(turns[0][:, :, :, None] & turns[1][None, :, :, :])
    return [tuple(stops) for stops in both if stops[0] != stops[3]]


def _route_text(stops: tuple[str, ...]) -> str:
    start, first, *rest = stops
    steps = [f"Go forward until you reach the {first}."]
    for stop in rest:
        steps += ["[fill in]", f"Go forward until you reach the {stop}."]
    plan = " ".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return (
        f"You are a robot that starts at the {start} and faces the {first}. You have to get to the {stops[-1]}. "
        f"Complete your plan, choosing for each [fill in] one of 'turn left', 'turn right' and 'turn back': {plan}"
    )
