"""Pose, depth, scale and features of rooms agree with each other and with the pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geovr_hf.data.clip import Clip
from geovr_hf.data.rooms import FeatureSpec, RoomsDataset, RoomsSpec, clip_targets, render_clip
from geovr_hf.modeling.geometry_geovr import pose_encoding_to_cameras, world_points
from geovr_hf.teachers import Teacher, load_teacher


SIZE = (48, 64)


@pytest.fixture(scope="module")
def dataset():
    return RoomsDataset(6, image_size=SIZE, depth_size=SIZE, questions_per_room=2)


@pytest.fixture(scope="module")
def rooms(dataset):
    return [dataset.room_clip(number) for number in range(6)]


def reproject(targets, source, target):
    """Pixels and depths in frame `target` of what frame `source` sees."""
    cam_from_world, intrinsics = pose_encoding_to_cameras(targets.pose_enc.double(), SIZE)
    points = world_points(targets.depth.double(), intrinsics, cam_from_world)[source].reshape(-1, 3)
    seen = points @ cam_from_world[target, :, :3].T + cam_from_world[target, :, 3]
    pixels = seen @ intrinsics[target].T
    return (pixels[:, :2] / pixels[:, 2:]).numpy(), seen[:, 2].numpy()


def test_one_frame_carried_into_another_lands_on_the_same_depth_and_object(dataset, rooms):
    checked = 0
    for rendered in rooms:
        _, view = render_clip(dataset.spec, rendered.key, rendered.room, SIZE)
        depth = rendered.targets.depth.numpy()
        for source in range(7):
            target = source + 1
            pixels, z = reproject(rendered.targets, source, target)
            column, row = np.floor(pixels).astype(int).T
            inside = (z > 0.05) & (column >= 0) & (row >= 0) & (column < SIZE[1]) & (row < SIZE[0])
            if inside.sum() < 200:
                continue
            row, column, z = row[inside], column[inside], z[inside]
            there = depth[target][row, column]
            unoccluded = np.abs(there - z) < 0.05 * z
            # A point may be hidden in the other frame, but never lies clearly before what that frame sees, except for
            # the odd pixel whose centre just misses the edge of an object.
            assert (z < 0.95 * there).mean() < 0.08
            same = view.instances[source].reshape(-1)[inside] == view.instances[target][row, column]
            assert unoccluded.mean() > 0.4
            assert same[unoccluded].mean() > 0.97
            checked += 1
    assert checked > 30


def test_depth_at_another_size_is_that_of_its_own_pixel_centres(rooms):
    room = rooms[0].room
    coarse = clip_targets(room, SIZE, (8, 12))
    fine = clip_targets(room, SIZE, (24, 36))  # every third pixel has the same centre
    metres = coarse.depth * coarse.metric_scale
    torch.testing.assert_close(metres, (fine.depth * fine.metric_scale)[:, 1::3, 1::3], rtol=1e-4, atol=1e-4)


def test_unit_is_the_mean_depth_and_frame_0_is_the_world(rooms):
    for rendered in rooms:
        targets = rendered.targets.validate()
        assert targets.depth.mean().item() == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(targets.pose_enc[0, :7], torch.tensor([0, 0, 0, 0, 0, 0, 1.0]), atol=1e-6, rtol=0)
        torch.testing.assert_close(targets.pose_enc[0, 7:], torch.tensor(rendered.room.walk.fov))
        centres = rendered.room.walk.room_from_cam[:, :3, 3]
        metres = targets.pose_enc[:, :3].norm(dim=1) * targets.metric_scale
        np.testing.assert_allclose(metres, np.linalg.norm(centres - centres[0], axis=1), atol=1e-4)


def test_pixels_are_square(rooms):
    _, intrinsics = pose_encoding_to_cameras(rooms[0].targets.pose_enc.double(), SIZE)
    torch.testing.assert_close(intrinsics[:, 0, 0], intrinsics[:, 1, 1])


def test_features_encode_the_mean_point_of_each_token_cell(rooms):
    spec = FeatureSpec(num_layers=3, wavelengths=2, longest=8.0, shortest=1.0)
    targets = clip_targets(rooms[1].room, (64, 96), (28, 42), spec)
    assert targets.features_pooled
    assert [tuple(layer.shape) for layer in targets.features] == [(8, 2, 3, 12)] * 3
    cam_from_world, intrinsics = pose_encoding_to_cameras(targets.pose_enc.double(), (28, 42))
    points = world_points(targets.depth.double(), intrinsics, cam_from_world)
    cells = points.reshape(8, 2, 14, 3, 14, 3).mean(dim=(2, 4))
    longest = torch.cat([f(2 * torch.pi * cells / 8.0) for f in (torch.sin, torch.cos)], dim=-1)
    torch.testing.assert_close(targets.features[0][..., [0, 4, 8, 2, 6, 10]].double(), longest, atol=1e-4, rtol=0)
    shortest = torch.sin(2 * torch.pi * cells / 1.0)
    torch.testing.assert_close(targets.features[2][..., [1, 5, 9]].double(), shortest, atol=1e-3, rtol=0)


def test_deeper_layers_have_shorter_wavelengths():
    points = torch.tensor([[[0.5, 0.5, 0.5]], [[0.6, 0.5, 0.5]]])
    layers = FeatureSpec(num_layers=4).encode(points)
    moved = [(layer[0] - layer[1]).norm().item() for layer in layers]
    assert moved == sorted(moved)


def test_teacher_gives_the_targets_of_the_data_set(dataset, rooms):
    teacher = load_teacher("synthetic", rooms=dataset.spec, depth_size=SIZE)
    assert isinstance(teacher, Teacher)
    for rendered in rooms[:2]:
        targets = teacher.targets(rendered.clip)
        for name in ("pose_enc", "depth", "depth_confidence", "metric_scale"):
            torch.testing.assert_close(getattr(targets, name), getattr(rendered.targets, name), rtol=0, atol=0)


def test_teacher_looks_up_the_frames_of_a_part_of_a_clip(dataset, rooms):
    clip = rooms[0].clip
    part = Clip(clip.frames[[2, 5]], clip.timestamps[[2, 5]], clip.source, (2, 5))
    whole = rooms[0].targets
    targets = load_teacher("synthetic", rooms=dataset.spec, depth_size=SIZE).targets(part)
    torch.testing.assert_close(targets.depth * targets.metric_scale, whole.depth[[2, 5]] * whole.metric_scale)
    torch.testing.assert_close(targets.pose_enc[0, 3:7], torch.tensor([0, 0, 0, 1.0]), atol=1e-6, rtol=0)


def test_teacher_refuses_what_it_does_not_know(dataset, rooms):
    clip = rooms[0].clip
    teacher = load_teacher("synthetic", rooms=dataset.spec)
    with pytest.raises(ValueError, match="frame_indices"):
        teacher.targets(clip.frames)
    with pytest.raises(ValueError, match="not a clip of a synthetic room"):
        teacher.targets(replace(clip, source="kitchen.mp4"))
    with pytest.raises(ValueError, match="dataset.spec"):
        load_teacher("synthetic", rooms=RoomsSpec(num_frames=9)).targets(clip)
    with pytest.raises(ValueError, match="frames 0 to 7"):
        teacher.targets(replace(clip, frame_indices=(0, 1, 2, 3, 4, 5, 6, 8)))


def test_teacher_names_its_features_for_what_they_are():
    with_features = load_teacher("synthetic", features=FeatureSpec(num_layers=3))
    assert "coordinate-fourier" in with_features.spec.name
    assert with_features.spec.alignment_layers == (0, 1, 2)
    assert with_features.spec.hidden_size == 48
    assert with_features.fingerprint != load_teacher("synthetic").fingerprint


def test_unknown_teachers_and_needless_metrics_are_refused():
    with pytest.raises(ValueError, match="facebook/VGGT-9B"):
        load_teacher("facebook/VGGT-9B")
    with pytest.raises(ValueError, match="metric"):
        load_teacher("synthetic", metric="depth-anything/DA3METRIC-LARGE")


def test_wrong_feature_options_are_refused(rooms):
    with pytest.raises(ValueError, match="num_layers"):
        FeatureSpec(num_layers=0)
    with pytest.raises(ValueError, match="longest"):
        FeatureSpec(longest=0.1)
    with pytest.raises(ValueError, match="depth_size"):
        RoomsDataset(1, depth_size=(50, 50), features=FeatureSpec())
