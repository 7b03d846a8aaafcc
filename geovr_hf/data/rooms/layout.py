"""Furnishing: which objects a room holds and where they stand, none into another, with space left to walk."""

import numpy as np

from .boxes import Footprint, overlap
from .furniture import CATEGORIES, Furniture
from .plan import FloorPlan, Panel


_TRIES = 60  # places tried for one object
_GAP = 0.06  # metres kept free around an object
_DOORWAY = 0.8  # metres kept free before a door
_MAX_COVER = 0.42  # share of the floor that furniture may take


def sample_inventory(
    rng: np.random.Generator, num_objects: tuple[int, int], furniture: tuple[str, ...] | None = None
) -> list[str]:
    """Draw the categories of a room's objects, one entry for each object.

    One repeatable category occurs several times, so that there is something to count; all others occur once, so that
    distances and directions are unambiguous. The repeat count is uniform over `repeat_range(num_objects)` and
    independent of the category.
    """
    names = list(CATEGORIES) if furniture is None else list(furniture)
    total = int(rng.integers(num_objects[0], num_objects[1] + 1))
    low, high = repeat_range(num_objects)
    repeated = str(rng.choice([name for name in names if CATEGORIES[name].repeatable]))
    count = int(rng.integers(low, high + 1))
    singles = [name for name in names if name != repeated]
    chosen = rng.permutation(singles)[: total - count]
    return [repeated] * count + [str(name) for name in chosen]


def repeat_range(num_objects: tuple[int, int]) -> tuple[int, int]:
    """Least and greatest number of objects of the repeated category."""
    return 2, min(6, num_objects[0] - 1)


def furnish(
    rng: np.random.Generator, plan: FloorPlan, panels: list[Panel], inventory: list[str]
) -> list[Furniture] | None:
    """Place every object of the inventory.

    Objects are placed from the largest footprint to the smallest. If one does not fit, the whole
    room is given up: leaving it out would make the number of objects depend on their size.

    Args:
        rng: Source of all draws.
        plan: The empty room.
        panels: What hangs on its walls; space before doors stays free.
        inventory: Category of each object.

    Returns:
        The objects with labels from 1, in random order, or `None` if they do not fit.
    """
    sizes = [CATEGORIES[name].sample_size(rng) for name in inventory]
    if sum(w * d for w, d, _ in sizes) > _MAX_COVER * plan.area:
        return None
    doorways = [_doorway(plan, panel) for panel in panels if panel.bottom == 0.0]
    placed: dict[int, Footprint] = {}
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i][0] * sizes[i][1]):
        category = CATEGORIES[inventory[index]]
        draw = _beside_wall if category.against_wall else _anywhere
        place = _find_place(rng, plan, draw, sizes[index][:2], [*placed.values(), *doorways])
        if place is None:
            return None
        placed[index] = place
    labels = rng.permutation(len(sizes)) + 1
    objects = [
        Furniture(
            int(label), name, size, placed[index].center, placed[index].yaw, CATEGORIES[name].sample_palette(rng)
        )
        for index, (label, name, size) in enumerate(zip(labels, inventory, sizes, strict=True))
    ]
    return sorted(objects, key=lambda item: item.label)


def _find_place(rng, plan: FloorPlan, draw, size: tuple[float, float], taken: list[Footprint]) -> Footprint | None:
    for _ in range(_TRIES):
        place = draw(rng, plan, size)
        if plan.clearance(place.corners).min() < 0.02 or (plan.notch and overlap(place, plan.notch)):
            continue
        grown = Footprint(place.center, (size[0] + 2 * _GAP, size[1] + 2 * _GAP), place.yaw)
        if not any(overlap(grown, other) for other in taken):
            return place
    return None


def _anywhere(rng, plan: FloorPlan, size: tuple[float, float]) -> Footprint:
    center = (float(rng.uniform(0, plan.width)), float(rng.uniform(0, plan.depth)))
    return Footprint(center, size, float(rng.uniform(-np.pi, np.pi)))


def _beside_wall(rng, plan: FloorPlan, size: tuple[float, float]) -> Footprint:
    lengths = np.array([wall.length for wall in plan.walls])
    wall = plan.walls[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
    center = wall.start + rng.uniform(0, wall.length) * wall.along
    center = center + (size[1] / 2 + rng.uniform(0.03, 0.1)) * wall.inward
    return Footprint((float(center[0]), float(center[1])), size, wall.yaw)


def _doorway(plan: FloorPlan, door: Panel) -> Footprint:
    wall = plan.walls[door.wall]
    center = wall.start + door.offset * wall.along + _DOORWAY / 2 * wall.inward
    return Footprint((float(center[0]), float(center[1])), (door.size[0], _DOORWAY), wall.yaw)
