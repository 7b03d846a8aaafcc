"""Parts (boxes, cylinders, balls) and the triangle mesh that a list of them makes, with what shading asks about it."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from geovr_hf.extras import import_extra

from .patterns import PATTERNS


_PATTERN_IDS = {name: index for index, name in enumerate(PATTERNS)}


class Material(NamedTuple):
    """A texture: a name of `patterns.PATTERNS`, its two RGB colours in 0..1, its period in metres, its own light."""

    pattern: str
    color: tuple[float, float, float]
    accent: tuple[float, float, float]
    period: float | tuple[float, float] = 0.1  # along u and v
    glow: float = 0.0


class Part(NamedTuple):
    """One solid in the frame of its object (metres, z up).

    Args:
        shape: `"box"`, `"cylinder"` (upright) or `"ball"`.
        center: Centre `(x, y, z)`.
        size: Extents along x, y and z; a ball may be an ellipsoid.
        material: Its texture.
        taper: Width of the top relative to the bottom: 1 for none, 0 for a cone.
    """

    shape: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    material: Material
    taper: float = 1.0


class _Template(NamedTuple):
    vertices: np.ndarray  # (V, 3), within the unit cube around 0
    faces: np.ndarray  # (F, 3)
    uv_axes: np.ndarray  # (F, 2, 3): selects the two coordinates that a face is textured by


def check_libraries() -> None:
    """Import what rooms are made and rendered with.

    Raises:
        ImportError: A library is not installed. The message names the extra that brings it.
    """
    for module in ("embreex.mesh_construction", "embreex.rtcore_scene", "trimesh"):
        import_extra(module, "rooms", "Synthetic rooms need trimesh and embreex")


@cache
def _template(shape: str) -> _Template:
    check_libraries()
    import trimesh

    mesh = {
        "box": lambda: trimesh.creation.box((1, 1, 1)),
        "cylinder": lambda: trimesh.creation.cylinder(radius=0.5, height=1, sections=24),
        "ball": lambda: trimesh.creation.icosphere(subdivisions=3, radius=0.5),
    }[shape]()
    along = np.abs(mesh.face_normals).argmax(axis=1)
    axes = np.eye(3)[np.array([[1, 2], [0, 2], [0, 1]])]  # seen along x: (y, z); along y: (x, z); along z: (x, y)
    return _Template(np.array(mesh.vertices), np.array(mesh.faces), axes[along])


@dataclass(frozen=True)
class Mesh:
    """Triangles in the room's frame (metres, z up) with a table of what each looks like and belongs to.

    Args:
        vertices (`(V, 3)` float64): Corners.
        faces (`(F, 3)` int32): Corners of each triangle.
        normals (`(F, 3)` float32): Outward unit normals.
        uv (`(F, 2, 4)` float32): Affine map from a point of the room to texture coordinates in periods.
        label (`(F,)` int32): Object that a triangle belongs to; 0 is the room itself.
        pattern (`(F,)` int32): Number of its texture in `patterns.PATTERNS`.
        color, accent (`(F, 3)` float32): The texture's colours.
        glow (`(F,)` float32): Share of its colour that needs no light.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    label: np.ndarray
    pattern: np.ndarray
    color: np.ndarray
    accent: np.ndarray
    glow: np.ndarray

    def to_trimesh(self, label: int | None = None):
        """The whole room, or one object of it, as a `trimesh.Trimesh` with flat face colours, for export."""
        import trimesh

        keep = slice(None) if label is None else self.label == label
        mesh = trimesh.Trimesh(self.vertices, self.faces[keep], process=False)
        mesh.visual.face_colors = (255 * self.color[keep]).astype(np.uint8)
        mesh.remove_unreferenced_vertices()
        return mesh


class Placement(NamedTuple):
    """An object's parts and where it stands: its origin in the room, its turn about z (radians), its label."""

    parts: tuple[Part, ...]
    origin: tuple[float, float, float]
    yaw: float
    label: int


def rotation_z(yaw: float) -> np.ndarray:
    """Rotation by `yaw` radians about z, counter-clockwise seen from above, shape `(3, 3)`."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def part_vertices(part: Part) -> np.ndarray:
    """Vertices of a part in the frame of its object, shape `(V, 3)`."""
    vertices = _template(part.shape).vertices * part.size
    if part.taper != 1.0:
        vertices[:, :2] *= np.where(vertices[:, 2:] > 0, part.taper, 1.0)
    return vertices + part.center


def build_mesh(placements: list[Placement]) -> Mesh:
    """Join the parts of all objects to one mesh in the room's frame."""
    vertices, faces, uv, rows = [], [], [], []
    start = 0
    for parts, origin, yaw, label in placements:
        rotation = rotation_z(yaw)
        for part in parts:
            template = _template(part.shape)
            corners = part_vertices(part) @ rotation.T + origin
            axes = template.uv_axes @ rotation.T / np.broadcast_to(part.material.period, 2)[:, None]
            # Counted from the part's lower corner, so that panels and joints start where the part does.
            lower = rotation @ (np.array(part.center) - np.array(part.size) / 2) + origin
            uv.append(np.concatenate([axes, -axes @ lower[:, None]], axis=2))
            vertices.append(corners)
            faces.append(template.faces + start)
            rows.append((label, part.material, len(template.faces)))
            start += len(corners)
    return _with_tables(np.concatenate(vertices), np.concatenate(faces), np.concatenate(uv), rows)


def _with_tables(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, rows: list) -> Mesh:
    counts = [count for _, _, count in rows]
    materials = [material for _, material, _ in rows]
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    # The tip of a cone has faces without area, which no ray can hit; their normal is never read.
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def per_face(values, dtype):
        return np.repeat(np.array(values, dtype), counts, axis=0)

    return Mesh(
        vertices=vertices,
        faces=faces.astype(np.int32),
        normals=normals.astype(np.float32),
        uv=uv.astype(np.float32),
        label=per_face([label for label, _, _ in rows], np.int32),
        pattern=per_face([_PATTERN_IDS[material.pattern] for material in materials], np.int32),
        color=per_face([material.color for material in materials], np.float32),
        accent=per_face([material.accent for material in materials], np.float32),
        glow=per_face([material.glow for material in materials], np.float32),
    )
