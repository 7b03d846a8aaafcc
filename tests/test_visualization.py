"""Files are read back by other libraries and compared with what went in; figures are drawn and measured."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from geovr_hf.visualization import (
    accuracy_bars_figure,
    camera_paths_figure,
    cameras_to_dict,
    coloured_points,
    colourise_depth,
    depth_figure,
    frames_figure,
    loss_curves_figure,
    overview_figure,
    read_depth_png,
    save_figure,
    write_cameras,
    write_depth_png,
    write_glb,
    write_ply,
)


trimesh = pytest.importorskip("trimesh")
pytest.importorskip("matplotlib")


@pytest.fixture
def cloud():
    generator = np.random.default_rng(0)
    return generator.normal(size=(50, 3)).astype(np.float32), generator.integers(0, 256, (50, 3)).astype(np.uint8)


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3)).astype(np.uint8)


def straight_path(num_frames=3):
    """Cameras that look ahead and step 1 m forward: centres (0, 0, t), so translations (0, 0, -t)."""
    path = np.tile(np.eye(3, 4), (num_frames, 1, 1))
    path[:, 2, 3] = -np.arange(num_frames)
    return path


class TestDepthFiles:
    def test_depth_survives_the_png_to_half_a_millimetre(self, tmp_path):
        depth = torch.rand(7, 9) * 20 + 0.1
        write_depth_png(tmp_path / "depth.png", depth)
        with Image.open(tmp_path / "depth.png") as image:
            assert image.mode == "I;16"
        np.testing.assert_allclose(read_depth_png(tmp_path / "depth.png"), depth, atol=0.00051)

    def test_what_the_format_cannot_hold_becomes_no_measurement(self, tmp_path):
        depth = np.array([[1.0, 0.0, -2.0], [np.nan, np.inf, 70.0]])
        write_depth_png(tmp_path / "depth.png", depth)
        np.testing.assert_array_equal(read_depth_png(tmp_path / "depth.png"), [[1, 0, 0], [0, 0, 0]])

    def test_the_same_depth_has_the_same_colour_in_maps_of_one_scale(self):
        first = colourise_depth(np.array([[1.0, 2.0]]), near=1, far=5)
        second = colourise_depth(np.array([[2.0, 5.0]]), near=1, far=5)
        np.testing.assert_array_equal(first[0, 1], second[0, 0])
        assert first.dtype == np.uint8

    def test_unmeasured_pixels_are_grey(self):
        red, green, blue = colourise_depth(np.array([[0.0, 1.0, 2.0]]))[0, 0]
        assert red == green == blue

    def test_colouring_without_matplotlib_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r'pip install "geovr_hf\[viz\]"'):
            colourise_depth(np.ones((2, 3)))

    def test_a_stack_of_maps_is_refused_with_its_shape(self, tmp_path):
        with pytest.raises(ValueError, match=r"`depth` must have shape \(\*, \*\), got \(2, 3, 4\)"):
            write_depth_png(tmp_path / "depth.png", np.ones((2, 3, 4)))


class TestPointClouds:
    def test_ply_is_read_back_exactly_by_trimesh(self, tmp_path, cloud):
        points, colours = cloud
        write_ply(tmp_path / "cloud.ply", points, colours)
        loaded = trimesh.load(tmp_path / "cloud.ply")
        np.testing.assert_array_equal(loaded.vertices, points)
        np.testing.assert_array_equal(loaded.colors[:, :3], colours)
        assert b"metres; OpenCV axes" in (tmp_path / "cloud.ply").read_bytes()[:200]

    def test_glb_holds_the_cloud_with_y_up_and_z_towards_the_viewer(self, tmp_path, cloud):
        points, colours = cloud
        write_glb(tmp_path / "cloud.glb", points, colours)
        (loaded,) = trimesh.load(tmp_path / "cloud.glb").geometry.values()
        np.testing.assert_allclose(loaded.vertices, points * [1, -1, -1], rtol=1e-6)
        np.testing.assert_array_equal(loaded.colors[:, :3], colours)

    def test_an_empty_cloud_is_a_valid_ply_and_a_clear_glb_error(self, tmp_path):
        write_ply(tmp_path / "empty.ply", np.empty((0, 3)), np.empty((0, 3)))
        assert b"element vertex 0\n" in (tmp_path / "empty.ply").read_bytes()
        with pytest.raises(ValueError, match="at least one point"):
            write_glb(tmp_path / "empty.glb", np.empty((0, 3)), np.empty((0, 3)))

    def test_points_take_the_colour_of_their_own_pixel(self, clip):
        points = np.random.default_rng(1).normal(size=(*clip.shape[:3], 3))
        valid = np.zeros(clip.shape[:3], dtype=bool)
        valid[1, 5, 7] = valid[2, 0, 3] = True
        kept, colours = coloured_points(torch.from_numpy(points), torch.from_numpy(clip), valid)
        np.testing.assert_allclose(kept, [points[1, 5, 7], points[2, 0, 3]], rtol=1e-6)
        np.testing.assert_array_equal(colours, [clip[1, 5, 7], clip[2, 0, 3]])

    def test_points_that_are_not_finite_are_left_out_and_the_limit_holds(self, clip):
        points = np.ones((*clip.shape[:3], 3))
        points[0] = np.nan
        assert len(coloured_points(points, clip)[0]) == 2 * 12 * 16
        assert len(coloured_points(points, clip, max_points=10)[0]) == 10

    def test_frames_are_resized_to_the_point_maps(self, clip):
        points, colours = coloured_points(np.ones((3, 6, 8, 3)), clip)
        assert points.shape == colours.shape == (3 * 6 * 8, 3)

    def test_frames_of_another_clip_are_refused(self, clip):
        with pytest.raises(ValueError, match="`frames` has 3 frames and `points` 2"):
            coloured_points(np.ones((2, 12, 16, 3)), clip)


class TestCameraFiles:
    def test_cameras_are_written_with_their_conventions(self, tmp_path):
        intrinsics = np.tile(np.diag([50.0, 40.0, 1.0]), (3, 1, 1))
        cameras = cameras_to_dict(intrinsics, straight_path(), 2.5, (12, 16), [0.0, 0.5, 1.0])
        write_cameras(tmp_path / "cameras.json", cameras)
        loaded = json.loads((tmp_path / "cameras.json").read_text())
        assert loaded["metric_scale"] == 2.5
        assert loaded["image_size"] == {"height": 12, "width": 16}
        assert "OpenCV" in loaded["conventions"]["axes"] and "metres" in loaded["conventions"]["units"]
        assert loaded["frames"][2]["seconds"] == 1.0
        np.testing.assert_array_equal([frame["cam_from_world"] for frame in loaded["frames"]], straight_path())

    def test_timestamps_of_another_length_are_refused(self):
        with pytest.raises(ValueError, match="2 entries for 3 frames"):
            cameras_to_dict(np.zeros((3, 3, 3)), straight_path(), 1.0, (12, 16), [0.0, 1.0])


class TestAtomicWrites:
    def test_a_failed_write_leaves_the_old_file_and_no_trace(self, tmp_path):
        path = tmp_path / "cloud.ply"
        path.write_text("old")
        with pytest.raises(ValueError):
            write_ply(path, np.ones((2, 3)), np.ones((3, 3)))
        figure = frames_figure(np.zeros((1, 4, 4, 3), dtype=np.uint8))
        with pytest.raises(ValueError, match="Format"):
            save_figure(figure, tmp_path / "figure.nonsense")
        assert [file.name for file in tmp_path.iterdir()] == ["cloud.ply"]
        assert path.read_text() == "old"


class TestFigures:
    def test_every_figure_can_be_saved(self, tmp_path, clip, cloud):
        depth = np.random.default_rng(0).uniform(1, 5, clip.shape[:3])
        path, times = straight_path(), torch.tensor([0.0, 0.5, 1.0])
        figures = {
            "frames": frames_figure(clip, times),
            "depth": depth_figure(clip, {"before": depth, "after": depth}, depth, depth > 2, times),
            "paths": camera_paths_figure({"room 1": {"true": path, "predicted": path}}),
            "losses": loss_curves_figure({"run": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}),
            "bars": accuracy_bars_figure({"blind": {"object_counting": 0.2}, "after": {"object_counting": 0.6}}),
            "overview": overview_figure(clip, depth, path, *cloud, times, 2.0),
        }
        for name, figure in figures.items():
            save_figure(figure, tmp_path / f"{name}.png")
            with Image.open(tmp_path / f"{name}.png") as image:
                assert min(image.size) > 100

    def test_a_single_frame_and_an_empty_cloud_can_be_drawn(self, tmp_path, clip):
        nothing = np.empty((0, 3))
        figure = overview_figure(clip[:1], np.ones((1, 12, 16)), straight_path(1), nothing, nothing)
        save_figure(figure, tmp_path / "overview.png")

    def test_the_path_from_above_is_where_the_cameras_stand(self):
        turned = straight_path()
        turned[:, :, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]  # optical axis along world x
        turned[:, :, 3] = -np.einsum("tij,tj->ti", turned[:, :, :3], [[1, 0, 0], [2, 0, 0], [2, 0, 3]])
        (axes,) = camera_paths_figure({"room": {"true": turned}}).axes
        x, z = axes.lines[0].get_data()
        np.testing.assert_allclose(x, [1, 2, 2])
        np.testing.assert_allclose(z, [0, 0, 3])
        arrows = axes.collections[0]
        assert (arrows.U > 0).all() and np.allclose(arrows.V, 0)

    def test_losses_that_no_run_logged_get_no_panel(self):
        log = [{"step": 5, "lm_loss": 1.0}, {"step": 5, "eval_loss": 3.0}, {"step": 10, "lm_loss": 0.5}]
        figure = loss_curves_figure({"language only": log})
        (axes,) = [axes for axes in figure.axes if axes.get_visible()]
        np.testing.assert_array_equal(axes.lines[0].get_data(), [[5, 10], [1.0, 0.5]])
        with pytest.raises(ValueError, match="logged any"):
            loss_curves_figure({"run": [{"step": 1, "eval_loss": 3.0}]})

    def test_any_number_of_series_is_told_apart_and_named_within_the_figure(self):
        labels = [f"an arm with a long name, {number}" for number in range(12)]
        bars = accuracy_bars_figure({label: {"counting": 0.5, "size": 0.4} for label in labels})
        curves = loss_curves_figure({label: [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}] for label in labels})
        assert len({patch.get_facecolor() for patch in bars.axes[0].patches}) == len(labels)
        assert len({line.get_color() for line in curves.axes[0].lines}) == len(labels)
        for figure in (bars, curves):
            figure.draw_without_rendering()
            named = figure.legends[0].get_window_extent()
            assert figure.bbox.x0 <= named.x0 and named.x1 <= figure.bbox.x1

    def test_frames_of_another_type_are_refused(self):
        with pytest.raises(ValueError, match="must be uint8 RGB, got float32"):
            frames_figure(torch.zeros(2, 4, 4, 3))

    def test_importing_the_figures_does_not_touch_matplotlibs_global_state(self, clip):
        import matplotlib

        before = dict(matplotlib.rcParams)
        frames_figure(clip)
        assert dict(matplotlib.rcParams) == before
