"""A network as a teacher: canonical targets, metric scale, chunks, fingerprints."""

import pickle
from dataclasses import replace

import pytest
import torch
from teacher_fixtures import tiny_config, tiny_network, tiny_weights
from tiny import random_frames

from geovr_hf import load_teacher
from geovr_hf.data.clip import Clip
from geovr_hf.modeling.geometry_geovr import (
    cameras_to_pose_encoding,
    pose_encoding_to_cameras,
    quaternion_to_matrix,
    relative_to_first,
)
from geovr_hf.teachers import MetricDepth, NetworkTeacher, Teacher
from geovr_hf.teachers.images import teacher_images
from geovr_hf.teachers.network_teacher import canonical_poses


NAMES = ["vggt", "vggt_omega", "da3"]


def teacher(name: str = "vggt", metric: bool | MetricDepth = True, **options) -> NetworkTeacher:
    built = {"point_head": False} if name == "vggt" else {}
    if metric is True:
        options |= {"metric": tiny_weights("da3_metric"), "metric_config": tiny_config("da3_metric")}
    elif metric:
        options["metric"] = metric
    return load_teacher(tiny_weights(name), config=tiny_config(name, **built), **options)


def frames(count: int = 3) -> torch.Tensor:
    return random_frames(count, 45, 60, seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_what_the_design_says(name):
    ours = teacher(name)
    targets = ours.targets(frames()).validate()
    rule = ours.spec.image_rule
    height, width = targets.depth.shape[1:]
    assert width == rule.longest_side and height % rule.multiple == 0
    assert isinstance(ours, Teacher)
    grid = (height // ours.spec.patch_size, width // ours.spec.patch_size)
    assert [tuple(f.shape) for f in targets.features] == [(3, *grid, ours.spec.hidden_size)] * 4
    assert not targets.features_pooled
    assert targets.metric_scale > 0
    # Frame 0 is the world; quaternions are unit and have a scalar part >= 0.
    torch.testing.assert_close(targets.pose_enc[0, :7], torch.tensor([0.0, 0, 0, 0, 0, 0, 1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.pose_enc[:, 3:7].norm(dim=-1), torch.ones(3))
    assert (targets.pose_enc[:, 6] >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_canonical_poses_are_the_network_s_cameras_seen_from_the_first(name):
    network = tiny_network(name)
    images = teacher_images(frames(), teacher(name, metric=False).spec.image_rule)
    with torch.no_grad():
        raw = network(images[None]).pose_enc[0]
    assert torch.equal(teacher(name, metric=False, poses="published").targets(frames()).pose_enc, raw)
    world = network.world_from_cam
    cameras, intrinsics = pose_encoding_to_cameras(raw, images.shape[-2:], world_from_cam=world, min_tangent=1e-6)
    targets = teacher(name, metric=False).targets(frames())
    ours, our_intrinsics = pose_encoding_to_cameras(targets.pose_enc, images.shape[-2:], min_tangent=1e-6)
    torch.testing.assert_close(ours, relative_to_first(cameras), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(our_intrinsics, intrinsics)


def test_camera_to_world_poses_become_camera_from_world():
    torch.manual_seed(0)
    rotation = quaternion_to_matrix(torch.randn(4, 4))
    cam_from_world = torch.cat([rotation, torch.randn(4, 3, 1)], dim=-1)
    intrinsics = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]).expand(4, 3, 3)
    as_da3_says = cameras_to_pose_encoding(cam_from_world, intrinsics, (80, 100), world_from_cam=True)
    as_vggt_says = cameras_to_pose_encoding(cam_from_world, intrinsics, (80, 100))
    expected = cameras_to_pose_encoding(relative_to_first(cam_from_world), intrinsics, (80, 100))
    torch.testing.assert_close(canonical_poses(as_da3_says, True), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(canonical_poses(as_vggt_says, False), expected, rtol=1e-4, atol=1e-5)


class Ruler:
    """Metric depth that is known: the teacher's own, three times as large, on half the pixels."""

    name, licence, non_commercial, fingerprint = "ruler", "apache-2.0", False, "ruler-1"

    def __init__(self, depth: torch.Tensor, sky: float = 0.0):
        self.depth, self.sky = depth, sky

    def metric_depth(self, images, field_of_view):
        assert field_of_view.shape == (len(images), 2)
        return 3 * self.depth, torch.full_like(self.depth, self.sky)


def test_any_source_of_metric_depth_gives_the_scale():
    depth = teacher(metric=False).targets(frames()).depth
    assert isinstance(Ruler(depth), MetricDepth)
    targets = teacher(metric=Ruler(depth)).targets(frames())
    torch.testing.assert_close(targets.metric_scale, torch.tensor(3.0))


def test_a_clip_of_sky_has_no_scale():
    depth = teacher(metric=False).targets(frames()).depth
    assert teacher(metric=Ruler(depth, sky=1.0)).targets(frames()).metric_scale is None


@pytest.mark.parametrize(
    ("chunk", "cure"), [(None, "with `frames_chunk_size=8`"), (8, "smaller .* than 8"), (1, "sample fewer of them")]
)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_names_what_was_too_much_and_the_cure(chunk, cure, error, monkeypatch):
    ours = teacher(metric=False, frames_chunk_size=chunk)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(ours.network, "forward", fail)
    with pytest.raises(RuntimeError, match=rf"memory on 3 frames of \d+ x \d+ pixels\. .*{cure}"):
        ours.targets(frames())


def test_without_a_metric_network_there_is_no_scale():
    assert teacher(metric=False).targets(frames()).metric_scale is None


@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_nothing(name):
    whole, chunked = teacher(name), teacher(name, frames_chunk_size=2)
    assert chunked.network.dense_chunk_size == chunked.metric.network.dense_chunk_size == 2
    one, other = (t.targets(frames(5)) for t in (whole, chunked))
    torch.testing.assert_close(other.pose_enc, one.pose_enc, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.depth, one.depth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.metric_scale, one.metric_scale, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(other.features, one.features, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_frame_is_a_clip(name):
    assert teacher(name).targets(frames(1)).validate().num_frames == 1


def test_a_clip_is_looked_at_as_its_frames_are():
    clip = Clip(frames(), torch.arange(3, dtype=torch.float64), "walk.mp4", (0, 5, 9))
    ours = teacher()
    assert torch.equal(ours.targets(clip).depth, ours.targets(clip.frames).depth)


def test_targets_take_part_in_losses_that_are_differentiated():
    targets = teacher().targets(frames())
    student = torch.ones_like(targets.depth, requires_grad=True)
    (student * targets.depth).sum().backward()  # inference-mode tensors would be refused
    assert not targets.depth.requires_grad


def test_the_fingerprint_tells_apart_what_gives_other_targets(tmp_path):
    prints = {
        "plain": teacher(metric=False),
        "metric": teacher(),
        "published poses": teacher(metric=False, poses="published"),
        "bfloat16": teacher(metric=False, dtype="bfloat16"),
        "omega": teacher("vggt_omega", metric=False),
    }
    assert len({ours.fingerprint for ours in prints.values()}) == len(prints)
    assert teacher(metric=False, frames_chunk_size=2).fingerprint == prints["plain"].fingerprint
    changed = tmp_path / "model.safetensors"
    content = bytearray(tiny_weights("vggt").read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    other = load_teacher(changed, config=tiny_config("vggt", point_head=False))
    assert other.fingerprint != prints["plain"].fingerprint
    assert "cc-by-nc-4.0" in other.fingerprint


def test_the_spec_describes_the_network():
    spec = teacher("da3").spec
    assert spec.name == tiny_weights("da3").name  # of DA3's kind, but not the published network
    assert (spec.licence, spec.non_commercial) == ("cc-by-nc-4.0", True)
    config = tiny_config("da3")
    assert spec.num_layers == config.num_hidden_layers
    assert spec.alignment_layers == tuple(config.alignment_layers)
    assert spec.depth_layers == tuple(config.dense_layers)
    assert (spec.patch_size, spec.pool_size) == (14, 2)
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poses": "mine"}, "`poses` must be"),
        ({"dtype": "float16"}, "`dtype` must be"),
        ({"dtype": "half"}, "`dtype` must be"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        teacher(metric=False, **options)


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="`frames` must be uint8"):
        teacher(metric=False).targets(torch.rand(3, 45, 60, 3))


def test_images_off_the_patch_grid_are_refused():
    with pytest.raises(ValueError, match="multiples of 14"):
        tiny_network("vggt")(torch.rand(1, 2, 3, 30, 42))


def test_known_cameras_need_their_encoder():
    network = tiny_network("da3", camera_encoder=False)
    with pytest.raises(ValueError, match="camera_encoder=True"):
        network(torch.rand(1, 2, 3, 28, 42), cam_from_world=torch.rand(1, 2, 3, 4), intrinsics=torch.rand(1, 2, 3, 3))


def test_an_unknown_reference_view_is_refused():
    with pytest.raises(ValueError, match="`reference_view` must be"):
        tiny_network("da3")(torch.rand(1, 3, 3, 28, 42), reference_view="last")


def test_a_saved_network_is_a_teacher(tmp_path):
    for part in ("vggt", "da3_metric"):
        tiny_network(part).save_pretrained(tmp_path / part)
    again = load_teacher(tmp_path / "vggt", metric=tmp_path / "da3_metric")
    published = teacher()
    for name in ("pose_enc", "depth", "depth_confidence", "metric_scale"):
        assert torch.equal(getattr(again.targets(frames()), name), getattr(published.targets(frames()), name))
    assert again.spec == replace(published.spec, name="vggt")
