"""Ground-plan geometry of turned rectangles: corners, clearance of points, distance between two. All in metres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Footprint:
    """A rectangle on the floor.

    Args:
        center: Its middle `(x, y)`.
        size: Extent along its own two axes.
        yaw: Turn about its middle in radians, counter-clockwise.
    """

    center: tuple[float, float]
    size: tuple[float, float]
    yaw: float = 0.0

    @cached_property
    def axes(self) -> np.ndarray:
        """Its two unit axes as rows, shape `(2, 2)`."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s], [-s, c]])

    @cached_property
    def corners(self) -> np.ndarray:
        """Its corners, counter-clockwise, shape `(4, 2)`."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return self.center + (signs * (np.array(self.size) / 2)) @ self.axes

    @cached_property
    def radius(self) -> float:
        """Distance of its corners from its middle."""
        return math.hypot(*self.size) / 2


class Obstacles:
    """Several rectangles, measured against many points at once.

    Args:
        footprints: The `K` rectangles.
    """

    def __init__(self, footprints: Sequence[Footprint]):
        self._centers = np.array([footprint.center for footprint in footprints]).reshape(-1, 2)
        self._axes = np.array([footprint.axes for footprint in footprints]).reshape(-1, 2, 2)
        self._halves = np.array([footprint.size for footprint in footprints]).reshape(-1, 2) / 2

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Distance of points of shape `(..., 2)` to each rectangle, 0 inside, shape `(..., K)`."""
        dx, dy = points[..., :1] - self._centers[:, 0], points[..., 1:] - self._centers[:, 1]
        (ux, uy), (vx, vy) = self._axes[:, 0].T, self._axes[:, 1].T
        along = np.maximum(np.abs(dx * ux + dy * uy) - self._halves[:, 0], 0)
        across = np.maximum(np.abs(dx * vx + dy * vy) - self._halves[:, 1], 0)
        return np.sqrt(along * along + across * across)

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance of points of shape `(..., 2)` to the nearest rectangle, infinite if there is none."""
        return self.distances(points).min(axis=-1, initial=np.inf)


def overlap(a: Footprint, b: Footprint) -> bool:
    """Whether two rectangles share a point (separating axes)."""
    if math.dist(a.center, b.center) > a.radius + b.radius:
        return False
    for axes in (a.axes, b.axes):
        p, q = a.corners @ axes.T, b.corners @ axes.T
        if ((p.max(axis=0) < q.min(axis=0)) | (q.max(axis=0) < p.min(axis=0))).any():
            return False
    return True


def rectangle_distance(a: Footprint, b: Footprint) -> float:
    """Smallest distance between two rectangles, 0 if they overlap.

    Of two disjoint convex polygons the closest pair of points always includes a corner of one of them. Two upright
    boxes that both stand on the floor are exactly as far apart as their footprints.
    """
    if overlap(a, b):
        return 0.0
    return float(min(Obstacles([a]).distances(b.corners).min(), Obstacles([b]).distances(a.corners).min()))
