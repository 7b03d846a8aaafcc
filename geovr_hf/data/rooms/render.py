"""Pictures of a room: colours from texture, lamp light, shadows and soft occlusion, evaluated where rays hit."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .camera import Walk
from .patterns import PATTERNS
from .raycast import Hits
from .scene import Room


class View(NamedTuple):
    """Colour pictures of `T` frames.

    Args:
        frames (`(T, H, W, 3)` uint8): RGB.
        instances (`(T, H, W)` int16): Label of the object seen at each pixel's centre, 0 for the room itself.
        hits: First hits of the rays through the pixels' centres.
    """

    frames: np.ndarray
    instances: np.ndarray
    hits: Hits


@dataclass(frozen=True)
class Lighting:
    """The light of a clip.

    Args:
        lamp (`(3,)`): Place of the ceiling lamp in metres.
        color (`(3,)`): Its RGB strength.
        sky (`(3,)`): Unit direction from which daylight comes.
        ambient: Strength of the light that comes from everywhere.
        reach: Distance in metres at which the lamp has half its strength.
        exposure: Factor on everything.
    """

    lamp: np.ndarray
    color: np.ndarray
    sky: np.ndarray
    ambient: float
    reach: float
    exposure: float

    @classmethod
    def sample(cls, rng: np.random.Generator, room: Room) -> "Lighting":
        """Draw a lamp under the ceiling near the middle of the room and daylight from some side."""
        warmth = rng.uniform(0, 1)
        angle = rng.uniform(0, 2 * np.pi)
        place = room.plan.center + rng.uniform(-0.3, 0.3, 2)
        return cls(
            lamp=np.array([*place, room.plan.height - 0.15], np.float32),
            color=np.array([1.0, 0.97 - 0.1 * warmth, 0.95 - 0.25 * warmth], np.float32),
            sky=np.array([0.75 * np.cos(angle), 0.75 * np.sin(angle), 0.66], np.float32),
            ambient=float(rng.uniform(0.26, 0.36)),
            reach=0.7 * float(np.sqrt(room.plan.area)) + 1.0,
            exposure=float(rng.uniform(0.9, 1.1)),
        )


def render(room: Room, walk: Walk, size: tuple[int, int], lighting: Lighting, supersampling: int = 1) -> View:
    """Render a walk (all of the room's own or a selection of it).

    Args:
        room: The room.
        walk: Its cameras.
        size: Height and width of the pictures in pixels.
        lighting: The light.
        supersampling: Rays along each axis of a pixel for the colours. Instances and hits always are of the pixel's
            centre.

    Returns:
        The pictures.
    """
    hits = room.caster.cast(walk.rays(size))
    instances = np.where(hits.face >= 0, room.mesh.label[hits.face], 0).astype(np.int16)
    if supersampling == 1:
        colors = shade(room, hits, lighting)
    else:
        fine = room.caster.cast(walk.rays((size[0] * supersampling, size[1] * supersampling)))
        colors = shade(room, fine, lighting)
        blocks = (len(colors), size[0], supersampling, size[1], supersampling, 3)
        colors = colors.reshape(blocks).mean(axis=(2, 4))
    return View((255 * colors + 0.5).astype(np.uint8), instances, hits)


def shade(room: Room, hits: Hits, lighting: Lighting) -> np.ndarray:
    """Display colours in 0..1 of every hit, shape `(T, H, W, 3)` float32. A ray that hit nothing is black."""
    mesh = room.mesh
    face, points = hits.face.reshape(-1), hits.points.reshape(-1, 3)
    albedo = _albedo(room, face, points)
    normals = mesh.normals[face]

    towards = lighting.lamp - points
    distance = np.sqrt(_dot(towards, towards))
    facing = _dot(normals, towards) / distance
    lamp = np.maximum(facing, 0) / (1 + (distance / lighting.reach) ** 2)
    turned = np.flatnonzero(lamp > 0)
    lamp[turned] *= np.where(room.caster.lit(points[turned] + 0.004 * normals[turned], lighting.lamp), 1.0, 0.1)

    # Half-Lambert daylight: it wraps around edges, as light from a wide window does.
    daylight = 0.16 * (1 + normals @ lighting.sky)
    bounce = 0.3 * np.maximum(-normals[:, 2], 0)  # from the floor to the ceiling
    soft = (lighting.ambient + daylight + bounce) * _openness(room, face, points)
    light = soft[:, None] + 1.5 * lamp[:, None] * lighting.color
    glow = mesh.glow[face][:, None]
    radiance = lighting.exposure * albedo * (light * (1 - glow) + 1.2 * glow)
    colors = 1 - np.exp(-1.5 * radiance)  # a soft shoulder instead of clipped highlights
    colors[face < 0] = 0
    return colors.reshape(hits.points.shape)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise scalar products of `(N, 3)` arrays."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _albedo(room: Room, face: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Texture colours of points on triangles, shape `(N, 3)`."""
    mesh = room.mesh
    to_uv = mesh.uv[face]
    u = _dot(to_uv[:, 0], points) + to_uv[:, 0, 3]
    v = _dot(to_uv[:, 1], points) + to_uv[:, 1, 3]
    pattern = mesh.pattern[face]
    albedo = np.empty((len(face), 3), np.float32)
    for index, function in enumerate(PATTERNS.values()):
        chosen = np.flatnonzero(pattern == index)
        if len(chosen):
            at = face[chosen]
            albedo[chosen] = function(u[chosen], v[chosen], mesh.color[at], mesh.accent[at])
    return albedo


_CELL = 0.08  # metres of the grid on which nearness to furniture is tabulated


def _openness(room: Room, face: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How much of its surroundings a point sees, roughly, 0..1: less in corners and beside furniture, shape `(N,)`."""
    plan = room.plan
    x, y, z = points.T
    upright = np.abs(room.mesh.normals[face, 2]) < 0.5
    near_floor = 0.3 * np.exp(-z / 0.25) * upright
    near_ceiling = 0.25 * np.exp((z - plan.height) / 0.3) * upright

    columns = np.arange(0, plan.width + 2 * _CELL, _CELL)
    rows = np.arange(0, plan.depth + 2 * _CELL, _CELL)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    beside_wall = 0.3 * np.exp(-np.maximum(plan.clearance(grid), 0) / 0.25).astype(np.float32)
    beside_object = 0.55 * np.exp(-room.obstacles.clearance(grid) / 0.12).astype(np.float32)
    row = np.clip(y / _CELL + 0.5, 0, len(rows) - 1).astype(np.int32)
    column = np.clip(x / _CELL + 0.5, 0, len(columns) - 1).astype(np.int32)
    floor_or_ceiling = ~upright & ((z < 0.01) | (z > plan.height - 0.01))
    level = np.where(floor_or_ceiling, beside_wall[row, column], 0)
    shadowed = np.where(~upright & (z < 0.01), beside_object[row, column], 0)
    return (1 - near_floor - near_ceiling) * (1 - level) * (1 - shadowed)
