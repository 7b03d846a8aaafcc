import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging

from geovr_hf.data import Clip, RGBDRecording, UnreadableClipError, read_clip, rgbd_rows
from geovr_hf.modeling.geometry_geovr import pose_encoding_to_cameras, world_points
from geovr_hf.teachers import load_teacher


HEIGHT, WIDTH, FOCAL = 48, 64, 60.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
NUM_FRAMES = 12


def recorded_pose(number):
    """A camera that steps right and forward and turns left, camera-to-world; not at the origin in frame 0."""
    turn = -0.06 * number
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
    pose[:3, 3] = [0.3 + 0.05 * number, -0.1, 0.02 * number]
    return pose


def depth_of_walls(pose, intrinsics=INTRINSICS, size=(HEIGHT, WIDTH)):
    """Exact z-depth, in metres, of two walls of the world, z = 3 and x = -1.5, seen through pixel centres."""
    row, column = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij")
    rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        ahead, left = (3 - pose[2, 3]) / rays[..., 2], (-1.5 - pose[0, 3]) / rays[..., 0]
    return np.minimum(np.where(ahead > 0, ahead, np.inf), np.where(left > 0, left, np.inf))


def save_depth(path, metres, per_metre=1000):
    Image.fromarray(np.round(metres * per_metre).astype(np.uint16)).save(path)


def save_color(path, number, size=(WIDTH, HEIGHT)):
    Image.new("RGB", size, (number * 10, 100, 50)).save(path)


def write_frames_layout(folder):
    folder.mkdir()
    np.savetxt(folder / "intrinsics.txt", INTRINSICS)
    for number in range(NUM_FRAMES):
        stem = folder / f"frame-{3 * number:06d}"
        save_color(f"{stem}.color.png", number)
        save_depth(f"{stem}.depth.png", depth_of_walls(recorded_pose(number)))
        np.savetxt(f"{stem}.pose.txt", recorded_pose(number))
    return folder


def write_scannet_layout(folder):
    """Colour at twice the resolution of depth, and a depth camera with a wider view of its own."""
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    color, depth = np.eye(4), np.eye(4)
    color[:3, :3] = np.diag([2, 2, 1]) @ INTRINSICS
    depth[:3, :3] = np.array([[48.0, 0, 36], [0, 48, 28], [0, 0, 1]])
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", color)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", depth)
    for number in range(NUM_FRAMES + 3):
        save_color(folder / "color" / f"{number}.png", number, (2 * WIDTH, 2 * HEIGHT))
        save_depth(folder / "depth" / f"{number}.png", depth_of_walls(recorded_pose(number), depth[:3, :3], (56, 72)))
        np.savetxt(folder / "pose" / f"{number}.txt", recorded_pose(number))
    return folder


def write_tum_layout(folder):
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    colors, depths, poses = [], [], ["# time tx ty tz qx qy qz qw"]
    for number in range(NUM_FRAMES):
        time, pose = 1305031102.0 + number / 30, recorded_pose(number)
        save_color(folder / "rgb" / f"{time:.6f}.png", number)
        save_depth(folder / "depth" / f"{time + 0.005:.6f}.png", depth_of_walls(pose), 5000)
        colors.append(f"{time:.6f} rgb/{time:.6f}.png")
        depths.append(f"{time + 0.005:.6f} depth/{time + 0.005:.6f}.png")
        turn = -0.06 * number
        values = [*pose[:3, 3], 0, math.sin(turn / 2), 0, math.cos(turn / 2)]
        poses.append(f"{time - 0.004:.6f} " + " ".join(map(str, values)))
    (folder / "rgb.txt").write_text("# color images\n" + "\n".join(colors))
    (folder / "depth.txt").write_text("\n".join(depths))
    (folder / "groundtruth.txt").write_text("\n".join(poses))
    np.savetxt(folder / "intrinsics.txt", INTRINSICS)
    return folder


LAYOUTS = {"frames": write_frames_layout, "scannet": write_scannet_layout, "tum": write_tum_layout}


@pytest.fixture
def folder(tmp_path):
    return write_frames_layout(tmp_path / "scene")


def points_in_metres(targets):
    """World points of all pixels, in metres, in the frame of the first camera."""
    cam_from_world, intrinsics = pose_encoding_to_cameras(targets.pose_enc.double(), targets.depth.shape[1:])
    return world_points(targets.depth.double(), intrinsics, cam_from_world) * targets.metric_scale


def on_a_wall(points):
    """Distance of points in the first camera's frame from the nearer of the two walls."""
    world = points.numpy() @ recorded_pose(0)[:3, :3].T + recorded_pose(0)[:3, 3]
    return np.minimum(np.abs(world[..., 2] - 3), np.abs(world[..., 0] + 1.5))


class TestTargets:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_points_of_every_frame_lie_on_the_walls_that_were_recorded(self, layout, tmp_path):
        recording = RGBDRecording(LAYOUTS[layout](tmp_path / layout))
        targets = recording.targets([0, 3, 8], (HEIGHT, WIDTH))
        assert (targets.depth_confidence == 1).float().mean() > 0.95
        distance = on_a_wall(points_in_metres(targets))[targets.depth_confidence.bool().numpy()]
        # Depth maps are rounded to a millimetre, and ScanNet's are sampled on a grid of their own.
        assert np.quantile(distance, 0.95) < (0.03 if layout == "scannet" else 0.002)

    def test_warping_one_frame_into_another_finds_the_depth_there(self, folder):
        targets = RGBDRecording(folder).targets([0, 4], (HEIGHT, WIDTH))
        cam_from_world, intrinsics = pose_encoding_to_cameras(targets.pose_enc, (HEIGHT, WIDTH))
        points = world_points(targets.depth, intrinsics, cam_from_world)[1]
        seen = points @ cam_from_world[0, :, :3].T + cam_from_world[0, :, 3]
        pixels = seen @ intrinsics[0].T
        column, row = (pixels[..., :2] / pixels[..., 2:]).floor().long().unbind(-1)
        inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
        found = targets.depth[0][row[inside], column[inside]]
        assert inside.float().mean() > 0.5
        assert ((found - seen[..., 2][inside]).abs() * targets.metric_scale).median() < 0.02

    def test_a_unit_is_the_mean_measured_depth_and_the_first_frame_the_world(self, folder):
        targets = RGBDRecording(folder).targets([2, 5], (28, 56))
        assert targets.depth[targets.depth_confidence > 0].mean() == pytest.approx(1, abs=1e-5)
        metres = np.stack([depth_of_walls(recorded_pose(number)) for number in (2, 5)])
        assert float(targets.metric_scale) == pytest.approx(metres.mean(), rel=0.02)
        assert targets.pose_enc[0, :7].tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 1])
        moved = np.linalg.norm(recorded_pose(5)[:3, 3] - recorded_pose(2)[:3, 3])
        assert float(targets.pose_enc[1, :3].norm() * targets.metric_scale) == pytest.approx(moved, rel=1e-4)

    def test_the_field_of_view_is_the_cameras_at_any_size_of_the_depth_map(self, folder):
        for size in ((HEIGHT, WIDTH), (28, 84)):
            pose_enc = RGBDRecording(folder).targets([0], size).pose_enc
            assert float(pose_enc[0, 7]) == pytest.approx(2 * math.atan(HEIGHT / 2 / FOCAL), rel=1e-5)
            assert float(pose_enc[0, 8]) == pytest.approx(2 * math.atan(WIDTH / 2 / FOCAL), rel=1e-5)

    def test_pixels_without_a_return_have_no_confidence_and_a_harmless_depth(self, folder):
        depth = np.round(depth_of_walls(recorded_pose(0)) * 1000).astype(np.uint16)
        depth[:10], depth[10:20] = 0, 65535
        Image.fromarray(depth).save(folder / "frame-000000.depth.png")
        targets = RGBDRecording(folder).targets([0, 1], (HEIGHT, WIDTH))
        assert (targets.depth_confidence[0, :20] == 0).all() and (targets.depth[0, :20] == 1).all()
        assert (targets.depth_confidence[0, 20:] == 1).all()
        assert targets.depth[targets.depth_confidence > 0].mean() == pytest.approx(1, abs=1e-5)

    def test_resizing_mixes_no_depths(self, folder):
        depth = np.where(np.arange(WIDTH) < WIDTH // 2, 1000, 4000).astype(np.uint16)
        Image.fromarray(np.tile(depth, (HEIGHT, 1))).save(folder / "frame-000000.depth.png")
        for size in ((28, 28), (112, 140)):
            targets = RGBDRecording(folder).targets([0], size)
            metres = (targets.depth * targets.metric_scale).unique()
            assert metres.tolist() == pytest.approx([1, 4])

    def test_a_frame_without_a_pose_takes_the_cameras_and_its_own_depth_away(self, folder):
        np.savetxt(folder / "frame-000003.pose.txt", np.full((4, 4), -np.inf))
        recording = RGBDRecording(folder)
        assert recording.valid_frames == [0, *range(2, NUM_FRAMES)]
        targets = recording.targets([0, 1, 2], (28, 28))
        assert targets.pose_enc is None
        assert targets.depth_confidence.mean((1, 2)).tolist() == [1, 0, 1]

    def test_a_clip_in_which_nothing_was_measured_is_an_error(self, folder):
        save_depth(folder / "frame-000000.depth.png", np.zeros((HEIGHT, WIDTH)))
        with pytest.raises(ValueError, match="no measured depth"):
            RGBDRecording(folder).targets([0], (28, 28))

    @pytest.mark.parametrize("indices", [[], [-1], [NUM_FRAMES], [2, 1], [1, 1]])
    def test_frames_out_of_range_or_order_are_refused(self, folder, indices):
        recording = RGBDRecording(folder)
        for read in (recording.clip, lambda indices: recording.targets(indices, (28, 28))):
            with pytest.raises(ValueError, match="frames must"):
                read(indices)


class TestRecording:
    def test_clips_carry_frame_numbers_and_times(self, folder):
        clip = RGBDRecording(folder).clip([1, 4])
        assert clip.frame_indices == (1, 4) and clip.image_size == (HEIGHT, WIDTH)
        assert clip.timestamps.tolist() == pytest.approx([3 / 30, 12 / 30])
        assert clip.frames[:, 0, 0, 0].tolist() == [10, 40]

    def test_scannet_frames_are_in_the_order_of_their_numbers(self, tmp_path):
        recording = RGBDRecording(write_scannet_layout(tmp_path / "scannet"))
        assert [frame.color.stem for frame in recording.files.frames][8:] == ["8", "9", "10", "11", "12", "13", "14"]

    def test_tum_frames_far_from_any_depth_or_pose_have_none(self, tmp_path):
        folder = write_tum_layout(tmp_path / "tum")
        for name, frame in (("depth.txt", 2), ("groundtruth.txt", 5)):
            lines = [line for line in (folder / name).read_text().splitlines() if not line.startswith("#")]
            del lines[frame]
            (folder / name).write_text("\n".join(lines))
        recording = RGBDRecording(folder)
        assert recording.files.frames[2].depth is None
        assert 5 not in recording.valid_frames and len(recording.valid_frames) == NUM_FRAMES - 1

    def test_tum_needs_intrinsics_from_somewhere(self, tmp_path):
        folder = write_tum_layout(tmp_path / "tum")
        (folder / "intrinsics.txt").unlink()
        with pytest.raises(ValueError, match="intrinsics"):
            RGBDRecording(folder)
        assert len(RGBDRecording(folder, intrinsics=INTRINSICS)) == NUM_FRAMES

    @pytest.mark.parametrize(
        "name", ["intrinsics.txt", "frame-000003.pose.txt", "frame-000003.depth.png", "frame-000000.color.png"]
    )
    def test_a_missing_or_malformed_file_is_named(self, folder, name):
        (folder / name).write_text("what is this")
        with pytest.raises(ValueError, match=name):
            RGBDRecording(folder).targets([0, 1], (28, 28))
        (folder / name).unlink()
        if not name.endswith("color.png"):  # a frame is what has a colour picture
            with pytest.raises(ValueError, match=name):
                RGBDRecording(folder)

    def test_a_broken_depth_map_is_unreadable(self, folder):
        save_color(folder / "frame-000000.depth.png", 1)
        with pytest.raises(UnreadableClipError, match="16 bits"):
            RGBDRecording(folder).targets([0], (28, 28))

    @pytest.mark.parametrize("kind", ["missing", "empty"])
    def test_a_folder_that_is_no_recording_is_named(self, tmp_path, kind):
        if kind == "empty":
            (tmp_path / kind).mkdir()
        with pytest.raises(ValueError, match=kind):
            RGBDRecording(tmp_path / kind)

    def test_a_principal_point_off_the_centre_is_warned_of(self, folder, caplog, request):
        logging.enable_propagation()
        request.addfinalizer(logging.disable_propagation)
        RGBDRecording(folder)
        assert not caplog.records
        off_centre = INTRINSICS.copy()
        off_centre[1, 2] += 6
        RGBDRecording(folder, intrinsics=off_centre)
        assert "5.7 degrees off the centre" in caplog.text


class TestTeacher:
    def test_it_measures_clips_of_its_recording_however_they_were_read(self, folder):
        teacher = load_teacher("rgbd", folder=folder, depth_size=(28, 56))
        for clip in (teacher.recording.clip([0, 6, 11]), read_clip(folder, num_frames=3)):
            targets = teacher.targets(clip)
            assert targets.depth.shape == (3, 28, 56)
            assert torch.equal(targets.pose_enc, teacher.recording.targets([0, 6, 11], (28, 56)).pose_enc)

    def test_the_default_depth_size_is_that_of_the_published_teachers(self, folder):
        assert load_teacher("rgbd", folder=folder).depth_size == (392, 504)

    def test_bare_frames_and_foreign_clips_are_refused(self, folder, tmp_path):
        teacher = load_teacher("rgbd", folder=folder, depth_size=(28, 28))
        clip = teacher.recording.clip([0])
        with pytest.raises(ValueError, match="frame_indices"):
            teacher.targets(clip.frames)
        with pytest.raises(ValueError, match="elsewhere"):
            teacher.targets(Clip(clip.frames, clip.timestamps, str(tmp_path / "elsewhere"), (0,)))

    def test_a_depth_size_off_the_models_grid_is_refused(self, folder):
        with pytest.raises(ValueError, match=r"\(48, 64\)"):
            load_teacher("rgbd", folder=folder, depth_size=(48, 64))

    def test_the_fingerprint_follows_what_the_targets_depend_on(self, folder):
        first = load_teacher("rgbd", folder=folder, depth_size=(28, 28)).fingerprint
        assert load_teacher("rgbd", folder=folder, depth_size=(28, 28)).fingerprint == first
        assert load_teacher("rgbd", folder=folder, depth_size=(28, 56)).fingerprint != first
        np.savetxt(folder / "frame-000003.pose.txt", recorded_pose(2))
        assert load_teacher("rgbd", folder=folder, depth_size=(28, 28)).fingerprint != first


class TestRows:
    def rows(self, folder, **options):
        return rgbd_rows(RGBDRecording(folder), 3, 2, depth_size=(28, 28), **options)

    def test_answers_are_what_the_recording_says(self, folder):
        rows = self.rows(folder)
        answers = {(row["id"].split("-")[-2], row["question_type"]): row for row in rows}
        moved = np.linalg.norm(recorded_pose(5)[:3, 3] - recorded_pose(1)[:3, 3])
        assert answers["000001", "camera_displacement"]["answer"] == f"{moved:.2f}"
        turn = answers["000001", "camera_turn"]
        assert (turn["answer"], turn["options"]) == ("A", ["A. left", "B. right"])
        center = answers["000001", "center_depth"]
        asked = recorded_pose(1 + 2 * 1)  # clip 1 is asked about its second frame
        assert "frame 2 of 3" in center["messages"][0]["content"][1]["text"]
        expected = depth_of_walls(asked)[HEIGHT // 2, WIDTH // 2]
        assert float(center["answer"]) == pytest.approx(expected, abs=0.006)

    def test_rows_are_decoded_and_carry_the_targets_of_their_clip(self, folder):
        row = self.rows(folder)[0]
        video, text = row["messages"][0]["content"]
        assert video["video"].shape == (3, HEIGHT, WIDTH, 3) and len(video["timestamps"]) == 3
        assert row["messages"][1]["content"][0]["text"] == row["answer"]
        assert row["geometry_targets"].depth.shape == (3, 28, 28)
        assert text["type"] == "text"

    def test_a_split_by_frames_shares_none(self, folder):
        train, held_out = self.rows(folder, frames=(0, 6)), self.rows(folder, frames=(6, 12))
        assert {index for window, _ in train.items for index in window} == set(range(6))
        assert {index for window, _ in held_out.items for index in window} == set(range(6, 12))

    def test_clips_with_a_lost_pose_are_left_out(self, folder):
        np.savetxt(folder / "frame-000012.pose.txt", np.full((4, 4), np.nan))  # frame 4
        windows = {window for window, _ in self.rows(folder).items}
        assert windows == {(first, first + 2, first + 4) for first in (1, 3, 5, 6, 7)}

    @pytest.mark.parametrize(
        "options", [{"frames": (0, 4)}, {"frames": (0, NUM_FRAMES + 1)}, {"frames": (3, 3)}, {"hop": 0}]
    )
    def test_impossible_cuts_are_refused(self, folder, options):
        with pytest.raises(ValueError, match="frames|hop"):
            self.rows(folder, **options)


def test_backwards_is_the_way_back(tmp_path):
    recording = RGBDRecording(write_frames_layout(tmp_path / "scene"))
    back = recording.backwards()
    clip, forth = back.clip([0, 1, 2]), recording.clip([9, 10, 11])
    assert torch.equal(clip.frames, forth.frames.flip(0))
    torch.testing.assert_close(clip.timestamps.diff(), forth.timestamps.diff())
    np.testing.assert_array_equal(back.depth(0, (6, 8)), recording.depth(11, (6, 8)))
    np.testing.assert_array_equal(back.world_from_cam[0], recording.world_from_cam[11])
    assert back.valid_frames == list(range(NUM_FRAMES))
