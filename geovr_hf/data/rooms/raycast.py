"""Rays against a mesh with embree: which triangle is seen, how far, and whether a point sees the light."""

import os
from functools import cache
from typing import NamedTuple

import numpy as np

from .camera import Rays
from .shapes import Mesh


class Hits(NamedTuple):
    """What each ray of `Rays` meets first.

    Args:
        face (`(T, H, W)` int32): Triangle of the mesh, -1 for none.
        depth (`(T, H, W)` float32): z-depth in metres, 0 for none.
        points (`(T, H, W, 3)` float32): The place in the room's frame, the camera's centre for none.
    """

    face: np.ndarray
    depth: np.ndarray
    points: np.ndarray


class RayCaster:
    """An embree scene of one mesh.

    It goes to embree directly: trimesh's own ray interface answers in float64 and with the hits in a list to be sorted
    back, at several times the cost.

    Args:
        mesh: The triangles, in metres.
    """

    def __init__(self, mesh: Mesh):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene(_device())
        TriangleMesh(self._scene, mesh.vertices.astype(np.float32), mesh.faces)

    def cast(self, rays: Rays) -> Hits:
        """First hit of every ray."""
        shape = rays.directions.shape[:-1]
        origins = np.broadcast_to(rays.origins[:, None, None], rays.directions.shape)
        answer = self._scene.run(
            np.ascontiguousarray(origins).reshape(-1, 3), rays.directions.reshape(-1, 3), output=True
        )
        face = answer["primID"].reshape(shape)
        depth = np.where(face >= 0, answer["tfar"].reshape(shape), 0).astype(np.float32)
        return Hits(face, depth, origins + depth[..., None] * rays.directions)

    def lit(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Whether nothing stands between each of `points (N, 3)` and the point `light (3,)`, shape `(N,)` bool.

        Points must lie a little off their surface.
        """
        towards = (light - points).astype(np.float32)
        reach = np.ones(len(points), np.float32)
        return self._scene.run(points.astype(np.float32), towards, dists=reach, query="OCCLUDED") < 0


@cache
def _device():
    """An embree device that builds meshes in the thread that asks for it.

    By itself embree starts a thread for every core, in each of the workers that render rooms side by side. It has no
    other switch that its Python module passes on than the cores the process may use when the device is made.
    """
    from embreex.rtcore import EmbreeDevice

    if not hasattr(os, "sched_setaffinity"):
        return EmbreeDevice()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return EmbreeDevice()
    finally:
        os.sched_setaffinity(0, cores)
