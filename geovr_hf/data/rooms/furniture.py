"""The furniture catalogue: what a category is called, how large it is, what it is coloured like, where it stands."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import builders
from .boxes import Footprint
from .builders import Palette
from .shapes import Part, Placement


Range = tuple[float, float]


@dataclass(frozen=True)
class Category:
    """A kind of furniture.

    Its longest dimension is drawn log-uniformly from `longest`, a range of a factor of three or more, because that is
    the distribution under which the best constant guess gains least: its name should say little of its size.

    Args:
        name: Singular name, as questions use it.
        plural: Plural name.
        build: Maker of its parts, one of `builders`.
        axis: Which of width, depth and height (0, 1, 2) is the longest.
        longest: Range of the longest dimension in metres.
        others: For the other two axes in order, the range of their ratio to the longest and their limits in metres.
        color: Ranges of hue, saturation and value of the main colour in 0..1 (a hue may pass 1).
        frame: Colour of legs, pots and poles.
        patterns: Textures to choose from.
        round: Whether width and depth are equal.
        against_wall: Whether it stands with its back to a wall.
        repeatable: Whether a room may hold several, to be counted.
    """

    name: str
    plural: str
    build: Callable[..., list[Part]]
    axis: int
    longest: Range
    others: tuple[tuple[Range, Range], tuple[Range, Range]]
    color: tuple[Range, Range, Range]
    frame: builders.Color = (0.35, 0.24, 0.16)
    patterns: tuple[str, ...] = ("plain", "fabric")
    round: bool = False
    against_wall: bool = False
    repeatable: bool = False

    @property
    def typical_width(self) -> float:
        """Side in metres of a square as large as a typical instance's footprint: what the name tells of it."""
        longest = float(np.sqrt(np.prod(self.longest)))
        sides = [float(np.clip(longest * np.mean(ratio), *limits)) for ratio, limits in self.others]
        sides.insert(self.axis, longest)
        return float(np.sqrt(sides[0] * (sides[0] if self.round else sides[1])))

    def sample_size(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Draw width, depth and height in metres, the longest in whole centimetres (the unit of its question)."""
        longest = round(float(np.exp(rng.uniform(*np.log(self.longest)))), 2)
        sizes = [float(min(np.clip(longest * rng.uniform(*ratio), *limits), longest)) for ratio, limits in self.others]
        sizes.insert(self.axis, longest)
        if self.round:
            sizes[1] = sizes[0]
        return tuple(sizes)

    def sample_palette(self, rng: np.random.Generator) -> Palette:
        """Draw the colours and the texture of one instance."""
        hue, saturation, value = (rng.uniform(*span) for span in self.color)
        main = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
        light = colorsys.hsv_to_rgb(hue % 1.0, 0.7 * saturation, min(1.25 * value, 1.0))
        return Palette(main, light, self.frame, str(rng.choice(self.patterns)))


_ANY = (0.0, 9.0)

CATEGORIES: dict[str, Category] = {
    category.name: category
    for category in (
        Category(
            "chair", "chairs", builders.chair, 2, (0.4, 1.4), (((0.45, 0.6), _ANY), ((0.45, 0.6), _ANY)),
            ((0.97, 1.03), (0.65, 0.85), (0.5, 0.8)), patterns=("plain", "fabric", "stripes"), repeatable=True,
        ),
        Category(
            "table", "tables", builders.table, 0, (0.6, 2.6), (((0.45, 0.9), (0.4, 1.1)), ((0.4, 0.8), (0.35, 0.95))),
            ((0.055, 0.075), (0.6, 0.75), (0.38, 0.55)),
        ),
        Category(
            "sofa", "sofas", builders.sofa, 0, (0.8, 3.0), (((0.45, 0.7), (0.6, 1.0)), ((0.4, 0.8), (0.55, 0.95))),
            ((0.58, 0.64), (0.55, 0.75), (0.4, 0.7)), patterns=("fabric", "plain"), against_wall=True,
        ),
        Category(
            "bed", "beds", builders.bed, 1, (0.8, 2.5), (((0.5, 0.95), (0.6, 1.9)), ((0.4, 0.55), (0.5, 0.95))),
            ((0.74, 0.79), (0.4, 0.6), (0.45, 0.75)), patterns=("checker", "stripes", "fabric"), against_wall=True,
        ),
        Category(
            "cabinet", "cabinets", builders.cabinet, 0, (0.5, 2.4),
            (((0.3, 0.6), (0.3, 0.6)), ((0.5, 1.0), (0.4, 1.3))),
            ((0.46, 0.51), (0.35, 0.55), (0.4, 0.6)), patterns=("panels",), against_wall=True,
        ),
        Category(
            "lamp", "lamps", builders.lamp, 2, (0.4, 2.1), (((0.24, 0.36), _ANY), ((0.3, 0.3), _ANY)),
            ((0.12, 0.15), (0.45, 0.7), (0.9, 1.0)), frame=(0.15, 0.15, 0.15), round=True, repeatable=True,
        ),
        Category(
            "television", "televisions", builders.television, 0, (0.4, 1.9),
            (((0.16, 0.24), (0.14, 0.36)), ((0.6, 0.68), _ANY)),
            ((0.5, 0.56), (0.5, 0.8), (0.6, 0.8)), against_wall=True,
        ),
        Category(
            "plant", "plants", builders.plant, 2, (0.3, 2.1), (((0.45, 0.65), (0.0, 1.0)), ((0.5, 0.5), _ANY)),
            ((0.29, 0.36), (0.6, 0.8), (0.4, 0.6)), frame=(0.65, 0.33, 0.2), round=True, repeatable=True,
        ),
        Category(
            "bookshelf", "bookshelves", builders.bookshelf, 2, (0.6, 2.4),
            (((0.4, 0.85), (0.45, 1.5)), ((0.15, 0.25), (0.22, 0.4))),
            ((0.04, 0.06), (0.5, 0.6), (0.22, 0.32)), against_wall=True,
        ),
        Category(
            "bin", "bins", builders.waste_bin, 2, (0.2, 1.0), (((0.55, 0.8), _ANY), ((0.5, 0.5), _ANY)),
            ((0.6, 0.7), (0.02, 0.1), (0.25, 0.4)), frame=(0.12, 0.12, 0.13), round=True, repeatable=True,
        ),
        Category(
            "fridge", "fridges", builders.fridge, 2, (0.6, 2.2),
            (((0.4, 0.6), (0.4, 0.9)), ((0.4, 0.6), (0.4, 0.75))),
            ((0.55, 0.6), (0.0, 0.05), (0.82, 0.95)), against_wall=True,
        ),
        Category(
            "desk", "desks", builders.desk, 0, (0.6, 2.4), (((0.4, 0.55), (0.4, 0.85)), ((0.5, 0.85), (0.5, 0.8))),
            ((0.1, 0.12), (0.35, 0.5), (0.75, 0.9)), frame=(0.9, 0.9, 0.88), against_wall=True,
        ),
        Category(
            "stool", "stools", builders.stool, 2, (0.25, 1.1), (((0.5, 0.7), _ANY), ((0.5, 0.5), _ANY)),
            ((0.88, 0.93), (0.55, 0.75), (0.6, 0.9)), frame=(0.6, 0.6, 0.62), round=True, repeatable=True,
        ),
        Category(
            "box", "boxes", builders.carton, 0, (0.2, 0.9), (((0.6, 0.9), _ANY), ((0.5, 0.9), _ANY)),
            ((0.085, 0.1), (0.4, 0.5), (0.55, 0.7)), patterns=("plain",), repeatable=True,
        ),
        Category(
            "ball", "balls", builders.ball, 2, (0.2, 0.9), (((1.0, 1.0), _ANY), ((1.0, 1.0), _ANY)),
            ((0.03, 0.055), (0.85, 0.95), (0.9, 1.0)), patterns=("bands",), round=True, repeatable=True,
        ),
        Category(
            "suitcase", "suitcases", builders.suitcase, 2, (0.3, 1.3), (((0.45, 0.65), _ANY), ((0.22, 0.32), _ANY)),
            ((0.19, 0.23), (0.6, 0.8), (0.55, 0.75)), frame=(0.2, 0.2, 0.2), patterns=("stripes",), repeatable=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Furniture:
    """One object in a room.

    Args:
        label: Its number in instance maps, from 1.
        category: Name of its category.
        size: Width, depth and height in metres of its bounding box, which is aligned to the object.
        position: Middle of its footprint `(x, y)` in the room.
        yaw: Turn about z in radians. At 0 it faces -y.
        palette: Its colours.
    """

    label: int
    category: str
    size: tuple[float, float, float]
    position: tuple[float, float]
    yaw: float
    palette: Palette

    @property
    def longest(self) -> float:
        """Longest side of the bounding box in metres."""
        return max(self.size)

    @cached_property
    def footprint(self) -> Footprint:
        """Ground plan of the bounding box."""
        return Footprint(self.position, self.size[:2], self.yaw)

    def placement(self) -> Placement:
        """Its parts, ready to become a mesh."""
        parts = CATEGORIES[self.category].build(*self.size, self.palette)
        return Placement(tuple(parts), (*self.position, 0.0), self.yaw, self.label)
