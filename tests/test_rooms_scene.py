"""Rooms are furnished without interpenetration, closed, and walked through without collision."""

import subprocess
import sys

import numpy as np
import pytest

from geovr_hf.data.rooms import RoomsSpec, build_room
from geovr_hf.data.rooms.boxes import Footprint, Obstacles, overlap, rectangle_distance
from geovr_hf.data.rooms.furniture import CATEGORIES
from geovr_hf.data.rooms.patterns import PATTERNS
from geovr_hf.data.rooms.plan import COMPASS_COLORS, FloorPlan
from geovr_hf.data.rooms.shapes import part_vertices, rotation_z


@pytest.fixture(scope="module")
def rooms():
    drawn = [build_room(RoomsSpec(), 0, number, attempt) for number in range(10) for attempt in range(2)]
    return [room for room in drawn if room is not None]


def sampled_distance(a, b):
    """Smallest distance between densely sampled outlines of two footprints."""

    def outline(footprint):
        steps = np.linspace(0, 1, 200)[:, None]
        corners = footprint.corners
        return np.concatenate([p + steps * (q - p) for p, q in zip(corners, np.roll(corners, -1, 0), strict=True)])

    return np.linalg.norm(outline(a)[:, None] - outline(b)[None], axis=-1).min()


@pytest.mark.parametrize("name", CATEGORIES)
def test_parts_of_a_piece_of_furniture_fill_its_bounding_box_exactly(name):
    rng = np.random.default_rng(0)
    for _ in range(10):
        category = CATEGORIES[name]
        size = category.sample_size(rng)
        parts = category.build(*size, category.sample_palette(rng))
        corners = np.concatenate([part_vertices(part) for part in parts])
        np.testing.assert_allclose(corners.min(axis=0), [-size[0] / 2, -size[1] / 2, 0], atol=1e-9)
        np.testing.assert_allclose(corners.max(axis=0), [size[0] / 2, size[1] / 2, size[2]], atol=1e-9)
        assert max(size) == size[category.axis]


def test_furniture_stands_inside_the_room_and_not_in_other_furniture(rooms):
    assert len(rooms) >= 8
    for room in rooms:
        footprints = [item.footprint for item in room.furniture]
        for i, a in enumerate(footprints):
            assert room.plan.clearance(a.corners).min() > 0
            assert not (room.plan.notch and overlap(a, room.plan.notch))
            for b in footprints[:i]:
                assert rectangle_distance(a, b) > 0


def test_mesh_of_an_object_fills_its_box_in_the_room(rooms):
    for room in rooms[:4]:
        for item in room.furniture:
            corners = np.asarray(room.mesh.to_trimesh(item.label).vertices)
            local = (corners - [*item.position, 0]) @ rotation_z(item.yaw)
            np.testing.assert_allclose(local.max(axis=0) - local.min(axis=0), item.size, atol=1e-9)


@pytest.mark.parametrize("l_shaped", [False, True])
def test_floor_has_the_area_asked_for(l_shaped):
    rng = np.random.default_rng(0)
    for area in (8.0, 20.5, 60.0):
        plan = FloorPlan.sample(rng, area, l_shaped)
        x, y = plan.corners.T
        shoelace = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
        assert shoelace == pytest.approx(area)
        assert plan.area == pytest.approx(area)
        assert len(plan.corners) == (6 if l_shaped else 4)
        assert plan.clearance(plan.center) > 0.3


def test_walk_keeps_clear_of_everything_at_eye_height(rooms):
    for room in rooms:
        places = room.walk.room_from_cam[:, :3, 3]
        assert room.obstacles.clearance(places[:, :2]).min() >= 0.2
        assert room.plan.clearance(places[:, :2]).min() >= 0.4
        assert places[:, 2].min() > 1.15
        assert places[:, 2].max() < 1.75


def test_cameras_are_rotations_that_look_ahead_with_the_head_up(rooms):
    for room in rooms:
        rotation = room.walk.room_from_cam[:, :3, :3]
        np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(rotation), 1)
        assert (rotation[:, 2, 1] < -0.8).all()  # the camera's y axis points down


def test_every_ray_meets_something(rooms):
    for room in rooms[:5]:
        hits = room.caster.cast(room.walk.rays((48, 64)))
        assert (hits.face >= 0).all()
        assert hits.depth.min() > 0.1


def test_most_objects_are_seen(rooms):
    seen = [(room.views[:, 1:].max(axis=0) >= 0.005).mean() for room in rooms]
    assert np.mean(seen) > 0.75


def test_distance_of_rectangles_agrees_with_sampled_outlines():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (
            Footprint(tuple(rng.uniform(-2, 2, 2)), tuple(rng.uniform(0.2, 2, 2)), rng.uniform(0, 7)) for _ in "ab"
        )
        if overlap(a, b):
            assert rectangle_distance(a, b) == 0
            assert Obstacles([a]).clearance(b.corners).min() == 0 or sampled_distance(a, b) < 0.02
        else:
            assert rectangle_distance(a, b) == pytest.approx(sampled_distance(a, b), abs=0.01)


def test_a_smaller_sweep_turns_less():
    turned = []
    for sweep in ((40.0, 60.0), (230.0, 340.0)):
        room = next(filter(None, (build_room(RoomsSpec(sweep=sweep), 1, 0, attempt) for attempt in range(20))))
        x, y = room.walk.room_from_cam[:, :2, 2].T
        turned.append(np.degrees(np.ptp(np.unwrap(np.arctan2(y, x)))))
    assert turned[0] < 80 < 200 < turned[1]


def test_cameras_are_as_high_and_furniture_is_what_the_spec_says():
    known = tuple(name for name in CATEGORIES if name not in ("desk", "stool"))
    spec = RoomsSpec(eye_height=(0.6, 0.8), furniture=known)
    for number in range(6):
        room = next(filter(None, (build_room(spec, 3, number, attempt) for attempt in range(20))))
        height = room.walk.room_from_cam[:, 2, 3]
        assert 0.55 < height.min() < height.max() < 0.85
        assert {item.category for item in room.furniture} <= set(known)


def test_rooms_of_specs_without_the_later_fields_keep_their_names():
    assert RoomsSpec().fingerprint == "737b39f0"
    assert RoomsSpec(eye_height=(0.6, 0.8)).fingerprint != RoomsSpec().fingerprint


def test_someone_who_looks_ahead_walks_forward():
    spec = RoomsSpec(look_ahead=True)
    forward = []
    for number in range(8):
        room = next(filter(None, (build_room(spec, 2, number, attempt) for attempt in range(20))))
        poses = room.walk.room_from_cam
        steps = np.diff(poses[:, :3, 3], axis=0)
        forward += list((steps * poses[:-1, :3, 2]).sum(axis=1) / np.linalg.norm(steps, axis=1))
    assert np.mean(forward) > 0.6


def test_compass_walls_have_the_same_colours_in_every_room():
    spec = RoomsSpec(compass_walls=True)
    colors = []
    for number in range(3):
        room = next(filter(None, (build_room(spec, 0, number, attempt) for attempt in range(20))))
        walls = (room.mesh.label == 0) & (np.ptp(room.mesh.vertices[room.mesh.faces][..., 2], axis=1) > 2.3)
        colors.append({tuple(color) for color in room.mesh.color[walls].tolist()})
    assert len(set.intersection(*colors)) == 4


def test_with_compass_walls_the_first_frame_always_faces_the_same_colour():
    spec = RoomsSpec(compass_walls=True, l_shaped=0.0)
    for number in range(6):
        room = next(filter(None, (build_room(spec, 1, number, attempt) for attempt in range(20))))
        x, y = room.walk.room_from_cam[0, :2, 2]
        sideways, outward = (0, x) if abs(x) > abs(y) else (1, y)
        faces = room.mesh.faces[room.mesh.label == 0][24:72]  # the walls' triangles, twelve each
        middles = room.mesh.vertices[faces].mean(axis=1)[:, sideways].reshape(4, 12).mean(axis=1)
        ahead = (middles * np.sign(outward)).argmax()
        np.testing.assert_allclose(
            room.mesh.color[room.mesh.label == 0][24 + 12 * ahead], COMPASS_COLORS[0], rtol=1e-6
        )


@pytest.mark.parametrize("name", PATTERNS)
def test_texture_colours_are_colours(name):
    u, v = np.random.default_rng(0).uniform(-50, 50, (2, 2000)).astype(np.float32)
    color, accent = np.full((2, 2000, 3), 0.6, np.float32) * np.array([1, 0.5])[:, None, None]
    rgb = PATTERNS[name](u, v, color, accent)
    assert rgb.shape == (2000, 3)
    assert rgb.min() >= 0
    assert rgb.max() <= 1.3


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 0},
        {"num_objects": (3, 8)},
        {"num_objects": (9, 8)},
        {"num_objects": (10, 17)},
        {"area": (30, 10)},
        {"l_shaped": 1.5},
        {"fov": (10, 60)},
        {"sweep": (90, 400)},
        {"aspect": 0.1},
        {"eye_height": (1.8, 1.2)},
        {"eye_height": (0.1, 1.2)},
        {"furniture": ("chair", "table", "throne", *list(CATEGORIES)[2:])},
        {"furniture": ("chair", "table", "sofa")},  # too few for 14 objects
        {"furniture": tuple(name for name, kind in CATEGORIES.items() if not kind.repeatable), "num_objects": (4, 6)},
    ],
)
def test_impossible_rooms_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RoomsSpec(**options)


COUNT_THREADS = """
import os
from geovr_hf.data.rooms import RoomsSpec, build_room

def threads():
    return len(os.listdir("/proc/self/task"))

import numpy, trimesh, embreex.mesh_construction  # which may start their own
before, cores = threads(), os.sched_getaffinity(0)
for number in range(3):
    build_room(RoomsSpec(), 0, number)
assert threads() == before, (threads(), before)
assert os.sched_getaffinity(0) == cores
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads as Linux lists them")
def test_a_worker_that_renders_starts_no_threads():
    subprocess.run([sys.executable, "-c", COUNT_THREADS], check=True)
