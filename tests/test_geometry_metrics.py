"""Geometry metrics against closed forms, against evo and scipy, and on rendered rooms, whose geometry is exact."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from geovr_hf import GeometryTargets
from geovr_hf.data.rooms import RoomsDataset
from geovr_hf.evaluation import (
    Bootstrap,
    align_points,
    depth_metrics,
    evaluate_geometry,
    feature_cosines,
    multi_view_consistency,
    relative_pose_errors,
    scale_log_ratio,
    summarize_clips,
    trajectory_error,
)
from geovr_hf.modeling.geometry_geovr import (
    cameras_to_pose_encoding,
    invert_pose,
    pose_encoding_to_cameras,
    quaternion_to_matrix,
)


def random_depth(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 8, 10, generator=generator, dtype=torch.float64) * 4 + 0.5


def random_path(num_frames, seed=0):
    """Pose encodings of cameras anywhere."""
    generator = torch.Generator().manual_seed(seed)
    path = torch.randn(num_frames, 9, generator=generator, dtype=torch.float64)
    path[:, 3:7] /= path[:, 3:7].norm(dim=1, keepdim=True)
    path[:, 7:] = 1.0
    return path


def path_through(world_from_cam):
    """Pose encodings of cameras given by rotation and centre in the world, shape (T, 3, 4)."""
    intrinsics = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], dtype=torch.float64)
    return cameras_to_pose_encoding(
        invert_pose(world_from_cam), intrinsics.expand(len(world_from_cam), 3, 3), (48, 64)
    )


def turn(axis, degrees):
    half = math.radians(degrees) / 2
    quaternion = [0.0, 0.0, 0.0, math.cos(half)]
    quaternion["xyz".index(axis)] = math.sin(half)
    return quaternion_to_matrix(torch.tensor(quaternion, dtype=torch.float64))


def centres(path):
    pose = torch.cat([quaternion_to_matrix(path[:, 3:7]), path[:, :3, None]], dim=-1)
    return invert_pose(pose)[..., 3]


class TestDepth:
    def test_errors_have_their_closed_form_for_a_scaled_prediction(self):
        target = random_depth()
        found = depth_metrics(1.2 * target, target)
        assert found.abs_rel == pytest.approx(0.2, rel=1e-5)
        assert found.rmse == pytest.approx(0.2 * float(target.square().mean().sqrt()), rel=1e-6)
        assert found.delta == 1 and depth_metrics(1.26 * target, target).delta == 0

    @pytest.mark.parametrize(
        ("alignment", "change"),
        [
            ("median", lambda depth: 7 * depth),
            ("scale-and-shift", lambda depth: 0.3 * depth - 2),
            ("scale-and-shift", lambda depth: 5 * depth),
        ],
    )
    def test_an_alignment_undoes_what_it_allows(self, alignment, change):
        found = depth_metrics(change(random_depth()), random_depth(), alignment=alignment)
        assert found.abs_rel == pytest.approx(0, abs=1e-6) and found.rmse == pytest.approx(0, abs=1e-6)

    def test_scale_and_shift_are_the_least_squares_of_numpy(self):
        target, prediction = random_depth(0), random_depth(1)
        design = np.stack([prediction.numpy().ravel(), np.ones(prediction.numel())], axis=1)
        _, residual, *_ = np.linalg.lstsq(design, target.numpy().ravel(), rcond=None)
        found = depth_metrics(prediction, target, alignment="scale-and-shift")
        assert found.rmse == pytest.approx(math.sqrt(residual[0] / target.numel()), rel=1e-9)

    def test_a_constant_is_aligned_to_the_mean(self):
        target = random_depth()
        found = depth_metrics(torch.full_like(target, 3), target, alignment="scale-and-shift")
        assert found.rmse == pytest.approx(float(target.std(correction=0)), rel=1e-6)

    @pytest.mark.parametrize("factor", [-1, 0])
    def test_depth_behind_the_camera_is_not_put_right_by_a_scale(self, factor):
        target = random_depth()
        found = depth_metrics(factor * target, target, alignment="median")
        assert found.abs_rel == pytest.approx(1 - factor) and found.delta == 0

    def test_pixels_that_were_not_measured_take_no_part_and_bad_calls_are_refused(self):
        target, confidence = random_depth(), torch.ones(3, 8, 10)
        confidence[:, 4:] = 0
        spoilt = torch.where(confidence > 0, target, float("nan"))
        assert depth_metrics(spoilt, target, confidence, "median").abs_rel == 0
        assert depth_metrics(target, target, torch.zeros(3, 8, 10)) is None
        with pytest.raises(ValueError, match="one shape"):
            depth_metrics(target[:, :4], target)
        with pytest.raises(ValueError, match="raw, median, scale-and-shift; got 'affine'"):
            depth_metrics(target, target, alignment="affine")


class TestPoses:
    def test_a_turn_of_one_camera_is_the_error_of_its_pairs_alone(self):
        path = torch.eye(3, 4, dtype=torch.float64).repeat(4, 1, 1)
        path[:, 0, 3] = torch.arange(4)
        turned = path.clone()
        turned[2, :, :3] = turn("y", 12)
        errors = relative_pose_errors(path_through(turned), path_through(path))
        # Pairs (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3); seen from camera 2, camera 3 lies elsewhere.
        assert errors.rotation_deg.tolist() == pytest.approx([0, 12, 0, 12, 0, 12], abs=1e-5)
        assert errors.direction_deg.tolist() == pytest.approx([0, 12, 0, 12, 0, 0], abs=1e-5)
        assert errors.worst_deg.tolist() == pytest.approx([0, 12, 0, 12, 0, 12], abs=1e-5)
        assert [errors.auc(degrees) for degrees in (5, 15, 30)] == pytest.approx([0.5, 0.6, 0.8], abs=1e-6)

    def test_rotation_errors_are_those_of_scipy(self):
        rotations = pytest.importorskip("scipy.spatial.transform").Rotation
        ours, true = random_path(6, 1), random_path(6, 2)
        found = relative_pose_errors(ours, true).rotation_deg
        a, b = (rotations.from_quat(path[:, 3:7].numpy()) for path in (ours, true))
        pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
        expected = [((a[j] * a[i].inv()) * (b[j] * b[i].inv()).inv()).magnitude() for i, j in pairs]
        assert found.tolist() == pytest.approx(np.degrees(expected).tolist())

    def test_neither_world_nor_scale_matters_but_the_sign_of_a_motion_does(self):
        path = random_path(5)
        moved = centres(path)
        rotations = quaternion_to_matrix(path[:, 3:7]).mT
        elsewhere = torch.cat([turn("z", 70) @ rotations, (3 * moved @ turn("z", 70).mT + 2)[..., None]], dim=-1)
        errors = relative_pose_errors(path_through(elsewhere), path)
        assert errors.worst_deg.max() < 1e-5
        backwards = torch.cat([rotations, -moved[..., None]], dim=-1)
        assert relative_pose_errors(path_through(backwards), path).direction_deg.min() > 179.9

    def test_a_camera_that_does_not_move_has_no_direction_and_a_prediction_that_does_not_has_the_wrong_one(self):
        still = torch.eye(3, 4, dtype=torch.float64).repeat(3, 1, 1)
        moving = still.clone()
        moving[2, 2, 3] = 1.0
        errors = relative_pose_errors(path_through(moving), path_through(still))
        assert errors.direction_deg.isnan().all() and errors.auc(5) == 1
        errors = relative_pose_errors(path_through(still), path_through(moving))
        assert errors.direction_deg[1:].tolist() == [180, 180] and errors.auc(30) == pytest.approx(1 / 3)
        assert relative_pose_errors(path_through(still[:1]), path_through(still[:1])) is None

    def test_the_binned_curve_counts_whole_degrees(self):
        errors = relative_pose_errors(random_path(5, 1), random_path(5, 1))
        errors = replace(errors, rotation_deg=torch.tensor([0.5, 1.5, 4.2, 90.0]), direction_deg=torch.zeros(4))
        # Below 1, 2, 3, 4 and 5 degrees: 1, 2, 2, 2 and 3 of 4.
        assert errors.auc(5, binned=True) == pytest.approx((1 + 2 + 2 + 2 + 3) / 4 / 5)
        assert errors.auc(5) == pytest.approx((0.9 + 0.7 + 0.16 + 0) / 4)


class TestTrajectory:
    @pytest.mark.parametrize(("alignment", "with_scale"), [("sim3", True), ("se3", False)])
    def test_the_error_is_that_of_evo(self, alignment, with_scale):
        metrics = pytest.importorskip("evo.core.metrics")
        trajectory = pytest.importorskip("evo.core.trajectory")
        ours, true = random_path(12, 3), random_path(12, 4)

        def path_of(poses):
            return trajectory.PosePath3D(
                positions_xyz=centres(poses).numpy(), orientations_quat_wxyz=np.tile([1.0, 0, 0, 0], (12, 1))
            )

        estimate, reference = path_of(ours), path_of(true)
        estimate.align(reference, correct_scale=with_scale)
        ape = metrics.APE(metrics.PoseRelation.translation_part)
        ape.process_data((reference, estimate))
        found = trajectory_error(ours, true, alignment)
        statistics = ape.get_all_statistics()
        assert found[:3] == pytest.approx([statistics[name] for name in ("rmse", "mean", "max")])

    def test_a_similarity_is_recovered_and_a_reflection_is_not_allowed(self):
        points = torch.randn(9, 3, dtype=torch.float64)
        target = 2.5 * points @ turn("x", 40).mT + torch.tensor([1.0, -2, 3])
        found = align_points(points, target)
        assert float(found.scale) == pytest.approx(2.5)
        torch.testing.assert_close(found.rotation, turn("x", 40))
        mirrored = align_points(points, points * torch.tensor([-1.0, 1, 1]))
        assert float(torch.linalg.det(mirrored.rotation)) == pytest.approx(1)

    def test_a_prediction_that_stands_still_is_as_far_off_as_the_path_is_from_its_middle(self):
        true = random_path(7)
        still = true[:1].repeat(7, 1)
        spread = centres(true) - centres(true).mean(0)
        assert trajectory_error(still, true).rmse == pytest.approx(float(spread.square().sum(1).mean().sqrt()))

    def test_a_straight_path_is_aligned_although_its_rotation_is_open(self):
        line = torch.eye(3, 4, dtype=torch.float64).repeat(5, 1, 1)
        line[:, 0, 3] = torch.arange(5)
        other = line.clone()
        other[:, :, 3] = torch.arange(5)[:, None] * torch.tensor([0.0, 2.0, 2.0])
        assert trajectory_error(path_through(line), path_through(other)).rmse == pytest.approx(0, abs=1e-9)
        assert trajectory_error(path_through(line), path_through(line), "none").rmse == 0
        with pytest.raises(ValueError, match="sim3, se3 or none; got 'icp'"):
            trajectory_error(path_through(line), path_through(line), "icp")


def tilted_plane(path, size=(48, 64)):
    """Exact depth maps of the plane z = 4 + 0.2 x in the world."""
    pose, intrinsics = pose_encoding_to_cameras(path, size)
    normal, offset = torch.tensor([-0.2, 0.0, 1.0], dtype=torch.float64), 4.0
    world_from_cam = invert_pose(pose)
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    rays = pixels @ torch.linalg.inv(intrinsics[:, None]).mT @ world_from_cam[:, None, :, :3].mT
    return (offset - world_from_cam[:, None, None, :, 3] @ normal) / (rays @ normal)


class TestConsistency:
    def path(self):
        cameras = torch.eye(3, 4, dtype=torch.float64).repeat(3, 1, 1)
        cameras[1, :, :3], cameras[2, :, :3] = turn("y", 3), turn("x", -4)
        cameras[:, 0, 3] = torch.tensor([0.0, 0.2, 0.3])
        return path_through(cameras)

    def test_an_exact_plane_agrees_with_itself(self):
        path = self.path()
        found = multi_view_consistency(path, tilted_plane(path))
        assert found.consistent == 1
        assert found.reprojection_px < 1e-6 and found.depth_error < 1e-9
        assert 0.7 < found.overlap < 1

    def test_a_frame_of_another_scale_disagrees_by_that_scale(self):
        path = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
        path = path_through(path)
        depth = torch.full((2, 48, 64), 2.0)
        depth[1] *= 1.1
        found = multi_view_consistency(path, depth, pairs=[(0, 1)])
        # The cameras coincide, so a pixel comes back to itself whatever the depth.
        assert found.depth_error == pytest.approx(0.1) and found.reprojection_px == pytest.approx(0, abs=1e-6)
        assert found.consistent == 0 and found.overlap == 1

    def test_a_wrong_baseline_moves_pixels_by_the_disparity_that_is_missing(self):
        cameras = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
        cameras[1, 0, 3] = 0.4
        depth = torch.full((2, 48, 64), 4.0)
        depth[1] = 2.0
        # Focal length 50: to frame 1 by 50 * 0.4 / 4 = 5 pixels, back by 50 * 0.4 / 2 = 10.
        found = multi_view_consistency(path_through(cameras), depth, pairs=[(0, 1)])
        assert found.reprojection_px == pytest.approx(5)
        assert found.overlap == pytest.approx((64 - 5) / 64)

    def test_pixels_without_measurement_are_left_out_and_frames_that_do_not_meet_are_none(self):
        path = self.path()
        depth, confidence = tilted_plane(path), torch.ones(3, 48, 64)
        depth[:, :, :20], confidence[:, :, :20] = 1000.0, 0.0
        assert multi_view_consistency(path, depth, confidence).consistent == 1
        assert multi_view_consistency(path, depth).consistent < 0.9
        apart = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
        apart[1, :, :3] = turn("y", 180)
        assert multi_view_consistency(path_through(apart), torch.ones(2, 48, 64)) is None
        with pytest.raises(ValueError, match="3 cameras and 2 depth maps"):
            multi_view_consistency(path, depth[:2])


def test_scales_are_compared_as_factors():
    assert scale_log_ratio(3.0, 1.5) == pytest.approx(math.log(2))
    assert scale_log_ratio(torch.tensor(0.5), 1.0) == pytest.approx(-math.log(2))
    with pytest.raises(ValueError, match="positive"):
        scale_log_ratio(0.0, 1.0)


def test_features_are_compared_layer_by_layer():
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    shape = (2, 3, 4, 2)
    layers = [x.expand(shape), (x + y).expand(shape), torch.zeros(shape)]
    assert feature_cosines(layers, [5 * x.expand(shape)] * 3) == pytest.approx([1, 0.5**0.5, 0])
    with pytest.raises(ValueError, match="layers and shapes"):
        feature_cosines(layers[:2], layers)


class TestRooms:
    """The truth of a rendered room, and that truth spoilt in known ways."""

    @pytest.fixture
    def target(self):
        return RoomsDataset(1, 0, num_frames=4, image_size=(96, 128)).room_clip(0).targets

    def test_the_truth_makes_no_errors_and_is_consistent(self, target):
        found = evaluate_geometry(target, target)
        errors = {name: value for name, value in found.items() if "error" in name and "consistency" not in name}
        assert all(value == pytest.approx(0, abs=1e-4) for value in errors.values()) and len(errors) >= 3
        assert found["depth_abs_rel_raw"] == 0 and found["pose_auc_5"] == pytest.approx(1, abs=1e-4)
        assert found["consistency_depth_error"] < 0.01

    def test_each_error_sees_what_is_spoilt(self, target):
        spoilt = GeometryTargets(
            pose_enc=target.pose_enc * torch.tensor([2.0] * 3 + [1.0] * 6),
            depth=2 * target.depth,
            metric_scale=target.metric_scale * 1.5,
        )
        found = evaluate_geometry(spoilt, target)
        assert found["depth_abs_rel_raw"] == pytest.approx(1, rel=1e-5)
        assert found["depth_abs_rel_median"] == pytest.approx(0, abs=1e-5)
        assert found["depth_metric_abs_rel_raw"] == pytest.approx(2, rel=1e-5)
        assert found["log_scale_bias"] == pytest.approx(math.log(1.5), rel=1e-5)
        assert found["ate_sim3"] == pytest.approx(0, abs=1e-4)  # a path twice as long is the same path
        assert found["direction_error_deg"] == pytest.approx(0, abs=1e-3)
        assert "feature_cosine_0" not in found

    def test_means_over_clips_have_intervals(self):
        clips = [{"a": float(value)} for value in range(10)] + [{"b": 1.0}]
        summary = summarize_clips(clips, bootstrap=Bootstrap(200))
        assert summary["a"].value == 4.5 and summary["a"].count == 10
        assert 0 < summary["a"].low < 4.5 < summary["a"].high < 9
        assert summary["b"].low == summary["b"].high == 1
