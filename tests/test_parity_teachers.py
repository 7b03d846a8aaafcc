"""The teachers' networks compute what the published programs computed, on the recorded weights and clips."""

import pytest
import torch
from parity import assert_within_gate, load_facts, load_tensors
from teacher_fixtures import shared_network

from geovr_hf.modeling.geometry_geovr import pose_encoding_to_cameras


def cases(name: str) -> list:
    return [
        pytest.param(name, case["name"], id=f"{name}-{case['name']}")
        for case in load_facts(f"{name}_tiny_config")["cases"]
    ]


class Record:
    """The recorded tensors of one case; in the end, every one must have been compared."""

    def __init__(self, name: str, case: str):
        prefix = f"{case}/"
        self.tensors = {
            key.removeprefix(prefix): value
            for key, value in load_tensors(f"{name}_tiny_io").items()
            if key.startswith(prefix)
        }
        self.compared = {"images"}

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.tensors if name.startswith(prefix)]

    def take(self, name: str) -> torch.Tensor:
        self.compared.add(name)
        return self.tensors[name]

    def compare(self, name: str, actual: torch.Tensor):
        assert_within_gate(actual, self.take(name))

    def assert_all_compared(self):
        assert not set(self.tensors) - self.compared


def compare_cameras(record: Record, prefix: str, pose_enc: torch.Tensor, image_size, **options):
    cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc, image_size, **options)
    record.compare(f"{prefix}pose_enc", pose_enc)
    record.compare(f"{prefix}extrinsics", cam_from_world)
    record.compare(f"{prefix}intrinsics", intrinsics)


def compare_geometry(record: Record, output, layers, prefix: str = ""):
    record.compare(f"{prefix}depth", output.depth)
    record.compare(f"{prefix}depth_conf", output.depth_confidence)
    for layer, features in zip(layers, output.features, strict=True):
        record.compare(f"{prefix}distill/{layer}", features)


@pytest.mark.parametrize(("name", "case"), cases("vggt"))
@torch.no_grad()
def test_vggt(name, case):
    record, model = Record(name, case), shared_network(name)
    images = record.tensors["images"]
    output = model(images)
    compare_geometry(record, output, model.config.alignment_layers)
    compare_cameras(record, "", output.pose_enc, images.shape[-2:])
    for iteration, pose in enumerate(output.pose_enc_iterations):
        record.compare(f"pose_enc_iter/{iteration}", pose)
    record.compare("world_points", output.world_points)
    record.compare("world_points_conf", output.world_points_confidence)
    record.compare("dbg/patch_tokens", model.embed_patches(images.flatten(0, 1)))
    layers = model.aggregate(images, set(range(model.config.num_hidden_layers)))
    for layer in range(model.config.num_hidden_layers):
        record.compare(f"dbg/aggregated_tokens/{layer}", layers[layer].unflatten(0, images.shape[:2]))
    record.assert_all_compared()


@pytest.mark.parametrize(("name", "case"), cases("vggt_omega"))
@torch.no_grad()
def test_vggt_omega(name, case):
    record, model = Record(name, case), shared_network(name)
    images = record.tensors["images"]
    output = model(images)
    compare_geometry(record, output, model.config.alignment_layers)
    compare_cameras(record, "", output.pose_enc, images.shape[-2:])
    record.compare("dbg/patch_tokens", model.patch_embed(images.flatten(0, 1)))
    layers = model.aggregate(images, set(range(model.config.num_hidden_layers)))
    joined = {layer: tokens.unflatten(0, images.shape[:2]) for layer, tokens in layers.items()}
    for key in record.names("dbg/aggregated_tokens/"):
        record.compare(key, joined[int(key.split("/")[-1])])
    for key in record.names("dbg/frame_block_out/"):
        record.compare(key, joined[int(key.split("/")[-1])][..., : model.config.hidden_size])
    record.compare("camera_and_register_tokens", joined[-1])
    record.assert_all_compared()


@pytest.mark.parametrize(("name", "case"), cases("da3"))
@torch.no_grad()
def test_depth_anything_3(name, case):
    record, model = Record(name, case), shared_network(name)
    images = record.tensors["images"]
    size, config = images.shape[-2:], model.config
    clip_shape, grid = images.shape[:2], model.grid_size(images)
    decode = {"world_from_cam": True, "min_tangent": 1e-6}

    output = model(images)
    compare_geometry(record, output, config.alignment_layers)
    compare_cameras(record, "", output.pose_enc, size, **decode)
    record.compare("ray", output.rays)
    record.compare("ray_conf", output.rays_confidence)

    layers, _ = model.run_blocks(images)
    for index, layer in enumerate(config.dense_layers):
        local, current = layers[layer]
        both = torch.cat([local, model.backbone.norm(current)], dim=-1).unflatten(0, clip_shape)
        record.compare(f"dbg/feats/{index}", both[:, :, 1:])
        record.compare(f"dbg/cam_tokens/{index}", torch.cat([local, current], dim=-1)[:, 0].unflatten(0, clip_shape))
    for layer in config.alignment_layers:
        local, current = layers[layer]
        both = torch.cat([local, model.backbone.norm(current)], dim=-1)[:, 1:].unflatten(1, grid)
        both = both.unflatten(0, clip_shape)
        record.compare(f"dbg/aux_concat/{layer}", both)

    known, intrinsics = record.take("camcond/in_extrinsics_w2c")[..., :3, :], record.take("camcond/in_intrinsics")
    record.compare("camcond/cam_token", model.camera_encoder(known, intrinsics, size))
    output = model(images, cam_from_world=known, intrinsics=intrinsics)
    compare_geometry(record, output, config.alignment_layers, "camcond/")
    compare_cameras(record, "camcond/", output.pose_enc, size, **decode)

    for strategy in ("middle", "saddle_balanced"):
        if not record.names(f"{strategy}/"):
            continue  # two frames: no strategy acts
        output = model(images, reference_view=strategy)
        assert torch.equal(output.reference_view, record.take(f"{strategy}/ref_index"))
        record.compare(f"{strategy}/depth", output.depth)
        record.compare(f"{strategy}/depth_conf", output.depth_confidence)
        compare_cameras(record, f"{strategy}/", output.pose_enc, size, **decode)
    record.assert_all_compared()


@pytest.mark.parametrize(("name", "case"), cases("da3_metric"))
@torch.no_grad()
def test_depth_anything_3_metric(name, case):
    record, model = Record(name, case), shared_network(name)
    images = record.tensors["images"]
    output = model(images)
    record.compare("depth", output.depth)
    record.compare("depth_raw", output.raw_depth)
    record.compare("sky", output.sky)
    for index, state in enumerate(model.states(images.flatten(0, 1)).unbind(1)):
        record.compare(f"dbg/feats/{index}", state[:, 1:].unflatten(0, images.shape[:2]))
    record.assert_all_compared()
