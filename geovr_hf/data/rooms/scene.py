"""A room: drawn from a seed, furnished, meshed, with a camera that walks through it."""

import hashlib
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

from .boxes import Obstacles
from .camera import Walk, sample_fov, sample_walk
from .furniture import CATEGORIES, Furniture
from .layout import furnish, sample_inventory
from .plan import FloorPlan, Panel, paint_compass, sample_panels, shell
from .raycast import RayCaster
from .shapes import Mesh, Placement, build_mesh


# Enters every fingerprint: raise it when a change alters what any (spec, seed, room) looks like.
GENERATOR_VERSION = 1

_LATER_FIELDS = ("eye_height", "furniture")
_WALKS = 4  # walks tried for a room, of which the best is kept
_STARE = 1.2  # metres: a frame of lesser median depth shows little
VISIBLE_SHARE = 0.005  # an object counts as seen in a frame from this share of its pixels on
SURVEY_HEIGHT = 36  # pixels of the small pictures from which visibility is measured


@dataclass(frozen=True)
class RoomsSpec:
    """Everything, besides a seed, that decides what rooms and walks look like.

    Args:
        num_frames (`int`, *optional*, defaults to 8):
            Frames of a clip.
        aspect (`float`, *optional*, defaults to 4/3):
            Width of a picture divided by its height.
        num_objects (`tuple[int, int]`, *optional*, defaults to `(10, 14)`):
            Least and greatest number of objects in a room. Fewer make easier rooms. At least 4.
        area (`tuple[float, float]`, *optional*, defaults to `(10.0, 50.0)`):
            Range of the floor area in square metres, drawn log-uniformly.
        l_shaped (`float`, *optional*, defaults to 0.3):
            Share of L-shaped rooms.
        fov (`tuple[float, float]`, *optional*, defaults to `(60.0, 90.0)`):
            Range of the horizontal field of view in degrees. One is drawn for each clip.
        sweep (`tuple[float, float]`, *optional*, defaults to `(230.0, 340.0)`):
            Range of the angle in degrees by which the gaze turns over the walk, to one side or the other. A smaller
            one shows less of the room and makes neighbouring frames overlap more.
        look_ahead (`bool`, *optional*, defaults to `False`):
            Look where the path leads, as someone who crosses the room, instead of letting the gaze sweep over it.
        compass_walls (`bool`, *optional*, defaults to `False`):
            Paint the four walls in four colours, the same in every room: one for the wall that the first frame faces,
            one for the wall to its left, behind it, to its right. Then each frame shows by itself how far the camera
            has turned, which lets very small models learn about cameras.
        eye_height (`tuple[float, float]`, *optional*, defaults to `(1.2, 1.7)`):
            Range of the camera's height above the floor in metres.
        furniture (`tuple[str, ...]`, *optional*):
            Categories that a room may hold; all by default. Leave some out of training to evaluate on unknown ones.

    Raises:
        ValueError: A value is out of range, or there are too few categories for so many objects.
    """

    num_frames: int = 8
    aspect: float = 4 / 3
    num_objects: tuple[int, int] = (10, 14)
    area: tuple[float, float] = (10.0, 50.0)
    l_shaped: float = 0.3
    fov: tuple[float, float] = (60.0, 90.0)
    sweep: tuple[float, float] = (230.0, 340.0)
    look_ahead: bool = False
    compass_walls: bool = False
    eye_height: tuple[float, float] = (1.2, 1.7)
    furniture: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {self.num_frames}.")
        if not 4 <= self.num_objects[0] <= self.num_objects[1] <= 16:
            raise ValueError(f"`num_objects` must be (least, greatest) within 4 and 16, got {self.num_objects}.")
        if not 4 <= self.area[0] <= self.area[1]:
            raise ValueError(f"`area` must be (least, greatest) of at least 4 square metres, got {self.area}.")
        if not 0 <= self.l_shaped <= 1:
            raise ValueError(f"`l_shaped` must be a share from 0 to 1, got {self.l_shaped}.")
        if not 20 <= self.fov[0] <= self.fov[1] <= 140:
            raise ValueError(f"`fov` must be (least, greatest) degrees within 20 and 140, got {self.fov}.")
        if not 0 <= self.sweep[0] <= self.sweep[1] <= 360:
            raise ValueError(f"`sweep` must be (least, greatest) degrees within 0 and 360, got {self.sweep}.")
        if not 0.25 <= self.aspect <= 4:
            raise ValueError(f"`aspect` must be a width / height from 0.25 to 4, got {self.aspect}.")
        if not 0.3 <= self.eye_height[0] <= self.eye_height[1] <= 2.2:
            raise ValueError(
                f"`eye_height` must be (least, greatest) metres within 0.3 and 2.2, got {self.eye_height}."
            )
        if self.furniture is not None:
            self._check_furniture()

    def _check_furniture(self) -> None:
        known = [name for name in self.furniture if name in CATEGORIES]
        # All but the repeated category occur once, and at least two objects are of that one.
        needed = self.num_objects[1] - 1
        if len(known) != len(self.furniture) or len(set(known)) < needed:
            raise ValueError(
                f"`furniture` must name at least {needed} of {', '.join(CATEGORIES)} for up to {self.num_objects[1]} "
                f"objects, got {self.furniture}."
            )
        if not any(CATEGORIES[name].repeatable for name in known):
            raise ValueError(f"`furniture` must hold a category that rooms may repeat, got {self.furniture}.")

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ when any value or the generator's version differs."""
        values = asdict(self)
        # Fields that came later do not rename the rooms that were made without them.
        for field in fields(self):
            if field.name in _LATER_FIELDS and values[field.name] == field.default:
                del values[field.name]
        return hashlib.sha256(repr((GENERATOR_VERSION, values)).encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Room:
    """A furnished room and a walk through it.

    Args:
        plan: Floor, walls and height.
        panels: What hangs on the walls.
        furniture: The objects, labels 1, 2, ... in order.
        mesh: All triangles.
        caster: The mesh as embree sees it.
        walk: The cameras.
        views (`(T, 1 + len(furniture))` float64): Share of each frame's pixels that shows each label.
    """

    plan: FloorPlan
    panels: list[Panel]
    furniture: list[Furniture]
    mesh: Mesh
    caster: RayCaster
    walk: Walk
    views: np.ndarray

    @cached_property
    def obstacles(self) -> Obstacles:
        """Ground plans of the furniture, in the order of `furniture`."""
        return Obstacles([item.footprint for item in self.furniture])


def room_rng(seed: int, room: int, *purpose: int) -> np.random.Generator:
    """The generator of one purpose of one room, independent of all others."""
    return np.random.default_rng([seed, room, *purpose])


def build_room(spec: RoomsSpec, seed: int, room: int, attempt: int = 0) -> Room | None:
    """Draw room number `room` of a seed.

    The floor area depends on seed and number only, so that giving up an attempt does not favour large rooms.

    Returns:
        The room, or `None` if this attempt could not be furnished or walked through.
    """
    outline = room_rng(seed, room)
    area = float(np.exp(outline.uniform(*np.log(spec.area))))
    l_shaped = bool(outline.random() < spec.l_shaped)
    rng = room_rng(seed, room, 1 + attempt)
    plan = FloorPlan.sample(rng, area, l_shaped)
    panels = sample_panels(rng, plan)
    furniture = furnish(rng, plan, panels, sample_inventory(rng, spec.num_objects, spec.furniture))
    if furniture is None:
        return None
    placements: list[Placement] = [shell(rng, plan), *(panel.placement(plan) for panel in panels)]
    placements += [item.placement() for item in furniture]
    mesh = build_mesh(placements)
    caster = RayCaster(mesh)
    best = _best_walk(rng, spec, plan, furniture, mesh, caster)
    if best is None:
        return None
    if spec.compass_walls:
        x, y = best[0].room_from_cam[0, :2, 2]
        mesh = build_mesh([paint_compass(placements[0], np.arctan2(y, x)), *placements[1:]])
    return Room(plan, panels, furniture, mesh, caster, *best)


def _best_walk(rng, spec: RoomsSpec, plan: FloorPlan, furniture: list[Furniture], mesh: Mesh, caster: RayCaster):
    """The most instructive of a few drawn walks, with what it sees: many objects, few frames that stare at a wall."""
    obstacles = Obstacles([item.footprint for item in furniture])
    fov = sample_fov(rng, spec.fov, spec.aspect)
    best, most = None, -np.inf
    for _ in range(_WALKS):
        walk = sample_walk(rng, plan, obstacles, spec.num_frames, fov, spec.sweep, spec.look_ahead, spec.eye_height)
        if walk is None:
            continue
        views, distance = survey(walk, mesh, caster, len(furniture), spec.aspect)
        seen = (views[:, 1:].max(axis=0) >= VISIBLE_SHARE).mean()
        score = seen - (distance < _STARE).mean() / 2
        if score > most:
            best, most = (walk, views), score
    return best


def survey(
    walk: Walk, mesh: Mesh, caster: RayCaster, num_objects: int, aspect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Look at a walk through small pictures of their own, so that questions do not depend on the size asked for.

    Returns:
        The share of each frame's pixels that shows each label, shape `(T, 1 + num_objects)`, and each frame's median
        depth in metres, shape `(T,)`.
    """
    hits = caster.cast(walk.rays((SURVEY_HEIGHT, round(SURVEY_HEIGHT * aspect))))
    labels = np.where(hits.face >= 0, mesh.label[hits.face], 0).reshape(len(hits.face), -1)
    counts = [np.bincount(row, minlength=num_objects + 1) for row in labels]
    return np.stack(counts) / labels.shape[1], np.median(hits.depth, axis=(1, 2))
