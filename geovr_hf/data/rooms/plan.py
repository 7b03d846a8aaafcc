"""The empty room: a rectangular or L-shaped floor, its walls, and what hangs on them."""

import colorsys
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .boxes import Footprint, Obstacles
from .builders import scaled
from .shapes import Material, Part, Placement


COMPASS_COLORS = ((0.86, 0.52, 0.48), (0.5, 0.72, 0.86), (0.88, 0.82, 0.5), (0.56, 0.8, 0.56))
_FIRST_WALL = 2  # among the shell's parts: the walls towards -x, +x, -y and +y
_THICKNESS = 0.1  # metres of wall, floor and ceiling, all outside the room

WALL_MATERIALS = (("plaster", 0.5), ("stripes", 0.5), ("bricks", 0.09), ("fabric", 0.12), ("panels", 1.1))
FLOOR_MATERIALS = (("planks", 0.16), ("tiles", 0.45), ("checker", 0.5), ("carpet", 0.12))


class Wall(NamedTuple):
    """One side of the floor: it runs from `start` to `end` with the room on its left."""

    start: np.ndarray
    end: np.ndarray

    @property
    def length(self) -> float:
        """Length in metres."""
        return float(np.linalg.norm(self.end - self.start))

    @property
    def along(self) -> np.ndarray:
        """Unit direction from start to end."""
        return (self.end - self.start) / self.length

    @property
    def inward(self) -> np.ndarray:
        """Unit direction into the room."""
        return np.array([-self.along[1], self.along[0]])

    @property
    def yaw(self) -> float:
        """Turn of an object (front to -y) that stands with its back to this wall."""
        return float(np.arctan2(self.inward[0], -self.inward[1]))


@dataclass(frozen=True)
class FloorPlan:
    """A room with one corner at the origin: `[0, width] x [0, depth] x [0, height]` metres, minus a notch.

    Args:
        width: Extent along x.
        depth: Extent along y.
        height: Height of the ceiling.
        notch: The corner rectangle that an L-shaped room lacks.
    """

    width: float
    depth: float
    height: float
    notch: Footprint | None = None

    @classmethod
    def sample(cls, rng: np.random.Generator, area: float, l_shaped: bool) -> "FloorPlan":
        """Draw proportions for a floor of exactly `area` square metres."""
        aspect = rng.uniform(0.6, 1.0)
        cut = rng.uniform(0.3, 0.48, 2) if l_shaped else np.zeros(2)
        width = float(np.sqrt(area / aspect / (1 - cut.prod())))
        width, depth = (width, aspect * width) if rng.random() < 0.5 else (aspect * width, width)
        notch = None
        if l_shaped:
            size = (float(cut[0] * width), float(cut[1] * depth))
            corner = rng.integers(0, 2, 2)
            center = (abs(corner[0] * width - size[0] / 2), abs(corner[1] * depth - size[1] / 2))
            notch = Footprint((float(center[0]), float(center[1])), size)
        return cls(width, depth, float(rng.uniform(2.4, 3.0)), notch)

    @property
    def area(self) -> float:
        """Floor area in square metres."""
        return self.width * self.depth - (float(np.prod(self.notch.size)) if self.notch else 0.0)

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners of the floor, counter-clockwise, shape `(4 or 6, 2)`."""
        corners = np.array([[0, 0], [self.width, 0], [self.width, self.depth], [0, self.depth]], float)
        if self.notch is None:
            return corners
        notch = self.notch.corners
        cut = int(np.argmin([np.abs(notch - corner).sum(axis=1).min() for corner in corners]))
        # The notch runs counter-clockwise too: seen from the floor its three inner corners come in reverse.
        inner = [notch[(cut - 1) % 4], notch[(cut - 2) % 4], notch[(cut - 3) % 4]]
        return np.concatenate([corners[:cut], inner, corners[cut + 1 :]])

    @cached_property
    def walls(self) -> list[Wall]:
        """Sides of the floor, counter-clockwise."""
        return [Wall(start, end) for start, end in zip(self.corners, np.roll(self.corners, -1, axis=0), strict=True)]

    @property
    def center(self) -> np.ndarray:
        """A point well inside the floor: the middle, or the elbow of an L."""
        middle = np.array([self.width, self.depth]) / 2
        return middle if self.notch is None else 1.5 * middle - 0.5 * np.array(self.notch.center)

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance of points of shape `(..., 2)` to the walls, negative outside the bounding rectangle."""
        x, y = points[..., 0], points[..., 1]
        sides = np.minimum(np.minimum(x, self.width - x), np.minimum(y, self.depth - y))
        return sides if self.notch is None else np.minimum(sides, Obstacles([self.notch]).clearance(points))


@dataclass(frozen=True)
class Panel:
    """A flat thing on a wall: window, door or picture.

    Args:
        wall: Number of the wall.
        offset: Distance of its middle from the wall's start in metres.
        size: Width and height in metres.
        bottom: Height of its lower edge in metres.
        material: Its texture.
    """

    wall: int
    offset: float
    size: tuple[float, float]
    bottom: float
    material: Material

    def placement(self, plan: FloorPlan) -> Placement:
        """Its part, ready to become a mesh."""
        wall = plan.walls[self.wall]
        x, y = wall.start + self.offset * wall.along
        frame = Material("wood", scaled(self.material.accent, 0.9), scaled(self.material.accent, 0.7), 0.1)
        width, height = self.size
        parts = (
            Part("box", (0, 0, height / 2), (width + 0.1, 0.03, height + 0.1), frame),
            Part("box", (0, -0.01, height / 2), (width, 0.04, height), self.material),
        )
        return Placement(parts, (float(x), float(y), self.bottom), wall.yaw, 0)


def sample_panels(rng: np.random.Generator, plan: FloorPlan) -> list[Panel]:
    """Draw a door, windows and pictures, at most one of them on each 1.5 m of wall."""
    panels, taken = [], []
    kinds = ["door", *["window"] * int(rng.integers(1, 3)), *["picture"] * int(rng.integers(1, 4))]
    for kind in kinds:
        index = int(rng.choice(len(plan.walls), p=_shares([wall.length for wall in plan.walls])))
        width, height, bottom, material = _sample_panel(rng, kind, plan.height)
        margin = width / 2 + 0.15
        length = plan.walls[index].length
        if length < 2 * margin:
            continue
        offset = float(rng.uniform(margin, length - margin))
        if any(index == other and abs(offset - place) < margin + reach for other, place, reach in taken):
            continue
        taken.append((index, offset, margin))
        panels.append(Panel(index, offset, (width, height), bottom, material))
    return panels


def _sample_panel(rng: np.random.Generator, kind: str, ceiling: float) -> tuple[float, float, float, Material]:
    """Draw width, height, height of the lower edge, texture."""
    if kind == "door":
        tone = scaled((0.8, 0.68, 0.52), rng.uniform(0.5, 1.15))
        return 0.85, 2.0, 0.0, Material("panels", tone, scaled(tone, 0.7), (0.85, 1.0))
    if kind == "window":
        width, height = rng.uniform(0.9, 1.6), rng.uniform(1.0, ceiling - 1.3)
        sky = (0.45, 0.65, rng.uniform(0.85, 1.0))
        return width, height, 0.9, Material("window", sky, (0.92, 0.92, 0.9), (width / 2, height), 0.7)
    width, height = rng.uniform(0.4, 1.1), rng.uniform(0.4, 0.8)
    first, second = rng.uniform(0.15, 0.9, (2, 3)).tolist()
    return width, height, 1.35, Material("screen", tuple(first), tuple(second), 0.3)


def _shares(values: list[float]) -> np.ndarray:
    return np.array(values) / np.sum(values)


def shell(rng: np.random.Generator, plan: FloorPlan) -> Placement:
    """Floor, ceiling, walls and skirting boards, with drawn textures of subdued colours."""
    wall, floor, ceiling, skirting = _shell_materials(rng)
    w, d, h, t = plan.width, plan.depth, plan.height, _THICKNESS
    parts = [
        Part("box", (w / 2, d / 2, -t / 2), (w + 2 * t, d + 2 * t, t), floor),
        Part("box", (w / 2, d / 2, h + t / 2), (w + 2 * t, d + 2 * t, t), ceiling),
        Part("box", (-t / 2, d / 2, h / 2), (t, d + 2 * t, h), wall),
        Part("box", (w + t / 2, d / 2, h / 2), (t, d + 2 * t, h), wall),
        Part("box", (w / 2, -t / 2, h / 2), (w, t, h), wall),
        Part("box", (w / 2, d + t / 2, h / 2), (w, t, h), wall),
    ]
    if plan.notch:
        parts.append(Part("box", (*plan.notch.center, h / 2), (*plan.notch.size, h), wall))
    for side in plan.walls:
        x, y = (side.start + side.end) / 2
        size = np.abs(side.end - side.start) + 0.02 * np.abs(side.inward)
        parts.append(Part("box", (float(x), float(y), 0.04), (float(size[0]), float(size[1]), 0.08), skirting))
    return Placement(tuple(parts), (0.0, 0.0, 0.0), 0.0, 0)


def paint_compass(shell: Placement, heading: float) -> Placement:
    """Paint the four outer walls in `COMPASS_COLORS`: ahead of someone who looks along `heading`, left, behind, right.

    Args:
        shell: As of [`shell`].
        heading: Angle of the view in radians, counted from +x towards +y.
    """
    parts = list(shell.parts)
    for place, angle in enumerate((np.pi, 0, -np.pi / 2, np.pi / 2), start=_FIRST_WALL):
        quarter = round((angle - heading) / (np.pi / 2)) % 4
        color = COMPASS_COLORS[quarter]
        material = parts[place].material._replace(color=color, accent=scaled(color, 0.88))
        parts[place] = parts[place]._replace(material=material)
    return shell._replace(parts=tuple(parts))


def _shell_materials(rng: np.random.Generator) -> tuple[Material, Material, Material, Material]:
    wall_color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.03, 0.28), rng.uniform(0.65, 0.95))
    pattern, period = WALL_MATERIALS[rng.integers(len(WALL_MATERIALS))]
    wall = Material(pattern, wall_color, scaled(wall_color, rng.uniform(0.8, 0.9)), period)
    pattern, period = FLOOR_MATERIALS[rng.integers(len(FLOOR_MATERIALS))]
    warmth, value = rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.8)
    floor_color = (value, value * (0.5 + 0.45 * warmth), value * (0.2 + 0.7 * warmth))
    floor = Material(pattern, floor_color, scaled(floor_color, rng.uniform(0.6, 0.8)), period)
    white = (0.93, 0.93, 0.92)
    skirting = Material("plain", scaled(white, rng.uniform(0.5, 1.0)), white)
    return wall, floor, Material("plaster", white, scaled(white, 0.95), 0.6), skirting
