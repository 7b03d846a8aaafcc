"""Losses, heads, poses and the scale target give the published implementation's numbers in every fixture case."""

import pytest
import torch
from parity import assert_within_gate, load_facts, load_tensors, weights_of

from geovr_hf.modeling.configuration_geovr import map_teacher_layers
from geovr_hf.modeling.depth_head_geovr import DepthHead
from geovr_hf.modeling.geometry_geovr import (
    cameras_to_pose_encoding,
    matrix_to_quaternion,
    pose_encoding_to_cameras,
    quaternion_to_matrix,
)
from geovr_hf.modeling.heads_geovr import (
    AlignmentHead,
    CameraHead,
    ScaleHead,
    pool_feature_grid,
)
from geovr_hf.modeling.losses_geovr import (
    alignment_loss,
    camera_loss,
    depth_loss,
    filter_by_quantile,
    masked_quantile,
    scale_loss,
    silog_loss,
)
from geovr_hf.teachers.metric_network import focal_lengths
from geovr_hf.teachers.metric_scale import (
    MAX_SKY,
    alignment_mask,
    depth_in_metres,
    least_squares_scale,
    metric_image_size,
    metric_scale_target,
    resize_maps,
)


FACTS = load_facts("geovr_losses")
TENSORS = load_tensors("geovr_losses")


def cases(*path):
    """One test per entry of a list of the fixture file, named by its position."""
    entries = FACTS
    for key in path:
        entries = entries[key]
    return pytest.mark.parametrize("case", entries, ids=[str(i) for i in range(len(entries))])


def clip(key):
    """A fixture tensor of shape (1, T, H, W) as (T, H, W)."""
    return TENSORS[key].flatten(0, -3)


def test_every_section_of_the_fixture_file_has_a_test():
    assert set(FACTS) <= {
        *("camera_loss", "depth_loss", "filter_by_quantile", "silog_loss", "camera_head", "scale_head", "dense_head"),
        *("distill", "layer_index_map", "scale_target", "scale_loss", "least_squares_scale_scalar", "pose"),
    }


@cases("camera_loss", "cases")
def test_camera_loss_and_its_gradient(case):
    prediction = TENSORS[case["pred"]].clone().requires_grad_()
    loss = camera_loss(prediction, TENSORS[case["gt"]])
    loss.total.backward()
    assert_within_gate(loss.total, case["loss_camera"])
    assert_within_gate(loss.translation, case["loss_T"])
    assert_within_gate(loss.rotation, case["loss_R"])
    assert_within_gate(loss.fov, case["loss_FL"])
    assert_within_gate(prediction.grad, TENSORS[case["grad_pred"]])


@pytest.mark.parametrize("case", FACTS["depth_loss"]["cases"], ids=lambda case: case["name"])
def test_depth_loss_and_its_gradient(case):
    prediction = clip(case["pred_depth"]).clone().requires_grad_()
    loss = depth_loss(
        prediction,
        clip(case["gt_depth"]),
        clip(case["gt_conf"]),
        filter_ratio=case["filter_ratio"],
        predicted_confidence=clip(case["pred_conf"]) if "pred_conf" in case else None,
        alpha=case["alpha"],
        gamma=case["gamma"],
    )
    loss.total.backward()
    assert_within_gate(loss.confidence, case["loss_conf"])
    assert_within_gate(loss.regression, case["loss_reg"])
    assert_within_gate(loss.gradient, case["loss_grad"])
    assert_within_gate(prediction.grad, clip(case["grad_pred_depth"]))


@cases("filter_by_quantile")
def test_quantile_filter(case):
    x = TENSORS[case["x"]]
    values, kept = filter_by_quantile(x, torch.ones_like(x, dtype=torch.bool), case["valid_range"])
    assert kept.sum() == case["kept"]
    assert_within_gate(values[kept].mean(), case["mean"])
    assert_within_gate(values[kept].max(), case["max"])


@cases("silog_loss", "cases")
def test_silog_loss(case):
    losses = [
        silog_loss(*(clip(key) for key in keys), filter_ratio=case["filter_ratio"], variance_focus=case["lambda_"])
        for keys in zip(case["pred"], case["gt"], case["gt_conf"], strict=True)
    ]
    assert_within_gate(torch.stack(losses).mean(), case["loss"])


def test_camera_head_and_its_batch_loss():
    facts = FACTS["camera_head"]
    head = CameraHead(facts["dim_in"], facts["hidden_features"])
    head.load_state_dict(weights_of(TENSORS, "camera_head"))
    losses = []
    for features, target, expected in zip(facts["features"], facts["gt_pose_enc"], facts["pose_enc"], strict=True):
        pose_enc = head(TENSORS[features])
        assert_within_gate(pose_enc, TENSORS[expected].squeeze(0))
        losses.append(torch.stack(camera_loss(pose_enc, TENSORS[target].squeeze(0))))
    for mean, name in zip(torch.stack(losses).mean(0), ("loss", "loss_T", "loss_R", "loss_FL"), strict=True):
        assert_within_gate(mean, facts[name])


def test_scale_head_and_its_loss():
    facts = FACTS["scale_head"]
    weights = weights_of(TENSORS, "scale_head")
    head = ScaleHead(facts["dim_in"], weights["fc1.weight"].shape[0])
    head.load_state_dict(weights)
    scale = head(TENSORS[facts["input"]])
    assert_within_gate(scale, TENSORS[facts["output"]])
    assert_within_gate(scale_loss(scale, TENSORS[facts["gt_scale"]]), facts["scale_loss"])


def predicted_depth(case):
    facts = FACTS["dense_head"]
    head = DepthHead(
        facts["dim_in"], facts["out_channels"], facts["features"], facts["patch_size"], facts["target_patch_size"]
    )
    head.load_state_dict(weights_of(TENSORS, "depth_head"))
    grid = case["frames"], case["grid_h"], case["grid_w"], facts["dim_in"]
    states = [TENSORS[case["hidden_states"][index]].reshape(grid) for index in facts["intermediate_layer_idx"]]
    return head(states, (case["Original_H"], case["Original_W"]), (case["Target_H"], case["Target_W"]))


@cases("dense_head", "cases")
def test_depth_head(case):
    assert_within_gate(predicted_depth(case), clip(case["depth"]))


def test_depth_loss_of_a_batch_is_the_mean_over_clips():
    losses = [
        torch.stack(
            depth_loss(predicted_depth(case), *(clip(f"dense_head/{i}/{key}") for key in ("gt_depth", "gt_conf")))
        )
        for i, case in enumerate(FACTS["dense_head"]["cases"])
    ]
    expected = FACTS["dense_head"]["batch_depth_loss"]
    means = torch.stack(losses).mean(0)
    for mean, name in zip(means, ("total", "loss_reg", "loss_grad", "loss_conf"), strict=True):
        assert_within_gate(mean, expected[name])


def distillation_loss(layer, states, teacher, pool_size=2):
    facts = FACTS["distill"]
    head = AlignmentHead(facts["in_channels"], facts["out_channels"])
    head.load_state_dict(weights_of(TENSORS, f"alignment_heads.{layer}"))
    teacher = pool_feature_grid(teacher, pool_size)
    return alignment_loss(head(states, teacher.shape[1:3]), teacher)


@cases("distill", "cases")
def test_alignment_loss_and_its_gradient(case):
    states = TENSORS[case["qwen"]].clone().requires_grad_()
    loss = distillation_loss(case["layer_idx"], states, TENSORS[case["geo"]])
    loss.backward()
    assert_within_gate(loss, case["loss"])
    assert_within_gate(states.grad, TENSORS[case["grad_qwen"]])


def test_alignment_loss_of_a_batch_is_the_mean_over_layers_and_clips():
    batch = FACTS["distill"]["batch"]
    losses = [
        distillation_loss(layer, TENSORS[states], TENSORS[teacher])
        for layer, (row, teachers) in enumerate(zip(batch["qwen"], batch["geo"], strict=True))
        for states, teacher in zip(row, teachers, strict=True)
    ]
    assert_within_gate(torch.stack(losses).mean(), batch["loss"])


def test_alignment_loss_without_pooling():
    case = FACTS["distill"]["no_pool_case"]
    pool_size = 2 if case["geo_avg_2d"] else 1
    loss = distillation_loss(case["layer_idx"], TENSORS[case["qwen"]], TENSORS[case["geo"]], pool_size)
    assert_within_gate(loss, case["loss"])


@pytest.mark.parametrize("name", FACTS["layer_index_map"]["full"])
def test_layer_map_of_whole_teachers(name):
    teacher_num_layers, num_layers = (int(number) for number in name.split("->"))
    mapped = map_teacher_layers(range(teacher_num_layers), teacher_num_layers, num_layers)
    assert mapped == FACTS["layer_index_map"]["full"][name]


@pytest.mark.parametrize("name", FACTS["layer_index_map"]["used"])
def test_layer_map_of_the_tapped_layers(name):
    before, _, after = name.partition("[")
    layers, _, sizes = after.partition("] of ")
    assert before
    teacher_num_layers, num_layers = (int(number) for number in sizes.split("->"))
    mapped = map_teacher_layers([int(layer) for layer in layers.split(",")], teacher_num_layers, num_layers)
    assert mapped == FACTS["layer_index_map"]["used"][name]


@cases("scale_target", "cases")
def test_scale_target_and_what_leads_to_it(case):
    sky = clip(case["sky"])
    size = metric_image_size(tuple(TENSORS[case["pixel_values_geo"]].shape[-2:]))
    assert size == tuple(sky.shape[-2:])
    model_input = resize_maps(TENSORS[case["pixel_values_geo"]], size)
    assert_within_gate(model_input, TENSORS[case["metric_model_input"]].flatten(0, 1))

    _, intrinsics = pose_encoding_to_cameras(
        TENSORS[case["pose_enc"]].flatten(0, 1), size, world_from_cam=case["geo_type"] == "da3"
    )
    depth, confidence = (resize_maps(clip(case[key]), size) for key in ("depth", "depth_conf"))
    focal = (intrinsics[:, 0, 0] + intrinsics[:, 1, 1]) / 2
    assert_within_gate(focal_lengths(TENSORS[case["pose_enc"]].flatten(0, 1)[:, 7:], size), focal)
    metric_depth = depth_in_metres(clip(case["metric_depth_raw"]), focal)
    assert_within_gate(depth, clip(case["resized_depth"]))
    assert_within_gate(confidence, clip(case["resized_conf"]))
    assert_within_gate(metric_depth, clip(case["metric_depth_scaled"]))
    assert torch.equal(sky < MAX_SKY, clip(case["non_sky_mask"]))
    assert_within_gate(masked_quantile(confidence, sky < MAX_SKY, 0.5), case["median_conf"])
    assert torch.equal(alignment_mask(depth, confidence, metric_depth, sky), clip(case["align_mask"]))

    scale = metric_scale_target(clip(case["depth"]), clip(case["depth_conf"]), metric_depth, sky)
    assert_within_gate(scale, case["scale"])


@cases("scale_loss")
def test_scale_loss(case):
    assert_within_gate(scale_loss(TENSORS[case["pred_scale"]], TENSORS[case["gt_scale"]]), case["loss"])


def test_least_squares_scale():
    facts = FACTS["least_squares_scale_scalar"]
    a, b = TENSORS[facts["a"]], TENSORS[facts["b"]]
    assert_within_gate(least_squares_scale(a, b), facts["out"])
    assert_within_gate(least_squares_scale(a, torch.zeros_like(b)), facts["zero_b"])


@cases("pose", "decode")
def test_pose_decoding(case):
    pose_enc = TENSORS[case["pose_enc"]]
    cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc, case["hw"])
    assert_within_gate(cam_from_world, TENSORS[case["vggt_extrinsics"]])
    assert_within_gate(intrinsics, TENSORS[case["vggt_intrinsics"]])
    cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc, case["hw"], world_from_cam=True, min_tangent=1e-6)
    assert_within_gate(cam_from_world, TENSORS[case["da3_extrinsics_w2c"]])
    assert_within_gate(intrinsics, TENSORS[case["da3_intrinsics"]])


@cases("pose", "encode")
def test_pose_encoding(case):
    pose_enc = cameras_to_pose_encoding(TENSORS[case["extrinsics"]], TENSORS[case["intrinsics"]], case["hw"])
    assert_within_gate(pose_enc, TENSORS[case["pose_enc"]])


@cases("pose", "quat")
def test_quaternions(case):
    assert_within_gate(quaternion_to_matrix(TENSORS[case["quat_xyzw"]]), TENSORS[case["mat"]])
    assert_within_gate(matrix_to_quaternion(TENSORS[case["mat"]]), TENSORS[case["mat_to_quat"]])


def test_field_of_view_of_zero():
    case = FACTS["pose"]["fov_edge"]
    pose_enc = TENSORS[case["pose_enc"]]
    _, intrinsics = pose_encoding_to_cameras(pose_enc, case["hw"], world_from_cam=True, min_tangent=1e-6)
    assert_within_gate(intrinsics, TENSORS[case["da3_intrinsics"]])
    _, intrinsics = pose_encoding_to_cameras(pose_enc, case["hw"])
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].flatten(0, 1)
    expected = torch.tensor([[float(x) for x in row] for row in case["vggt_intrinsics_inf_at_fov0"]])
    torch.testing.assert_close(focal, expected)
