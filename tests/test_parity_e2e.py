"""The whole training forward against the published implementation: its weights, its losses, its gradients."""

import pytest
import torch
from parity import assert_within_gate, load_facts, load_tensors

from geovr_hf import GeometryTargets, GeoVRConfig, GeoVRForConditionalGeneration
from geovr_hf.conversion import convert_published_weights
from geovr_hf.conversion_names import to_published_name
from geovr_hf.teachers.metric_network import focal_lengths
from geovr_hf.teachers.metric_scale import depth_in_metres, metric_scale_target


LOSSES = {
    "lm_loss": "lm_loss",
    "camera_loss": "camera_loss",
    "translation_loss": "camera_loss_T",
    "rotation_loss": "camera_loss_R",
    "fov_loss": "camera_loss_FL",
    "depth_loss": "depth_loss",
    "depth_regression_loss": "depth_loss_reg",
    "depth_gradient_loss": "depth_loss_grad",
    "alignment_loss": "distill_loss",
    "scale_loss": "scale_loss",
    "loss": "total_loss",
}


@pytest.fixture(scope="module")
def case():
    return load_facts("geovr_e2e_tiny")


@pytest.fixture(scope="module")
def tensors():
    return load_tensors("geovr_e2e_tiny_io")


def make_config(case: dict) -> GeoVRConfig:
    text, ids, geovr = case["text_config"], case["token_ids"], case["geovr"]
    rope = {name: text[name] for name in ("rope_theta", "mrope_section", "mrope_interleaved")}
    weights = {
        f"{'alignment' if name == 'distill' else name}_loss_weight": weight
        for name, weight in case["loss_weights"].items()
    }
    return GeoVRConfig(
        text_config={
            **{k: v for k, v in text.items() if k not in (*rope, "tie_word_embeddings")},
            "rope_parameters": {"rope_type": "default", **rope},
        },
        vision_config=case["vision_config"],
        tie_word_embeddings=text["tie_word_embeddings"],
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
        vision_start_token_id=ids["vision_start_token_id"],
        vision_end_token_id=ids["vision_end_token_id"],
        teacher_num_layers=geovr["geo_total_layers"],
        teacher_depth_layers=geovr["geo_indexes"],
        teacher_alignment_layers=geovr["geo_indexes"],
        teacher_hidden_size=geovr["geo_hidden"],
        teacher_patch_size=geovr["geo_patch_size"],
        teacher_pool_size=geovr["dpt_head"]["target_patch_size"] // geovr["geo_patch_size"],
        camera_hidden_size=geovr["camera_head_hidden"],
        scale_hidden_size=geovr["scale_head_hidden"],
        depth_hidden_sizes=geovr["dpt_head"]["out_channels"],
        depth_fusion_size=geovr["dpt_head"]["features"],
        depth_loss_type=geovr["depth_loss_type"],
        **weights,
    )


@pytest.fixture(scope="module")
def model(case):
    model = GeoVRForConditionalGeneration._from_config(make_config(case), attn_implementation="eager")
    weights = convert_published_weights(load_tensors("geovr_e2e_tiny_weights"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"} if model.config.tie_word_embeddings else not missing
    model.tie_weights()
    return model.train()


def expanded_inputs(case: dict, tensors: dict, config: GeoVRConfig) -> dict:
    """The published input with our own ids where the published one repeats the video token's."""
    ids = tensors["expanded/input_ids"].clone()
    merge = case["vision_config"]["spatial_merge_size"]
    clips = iter(tensors["in/video_grid_thw"].tolist())
    for row in ids:
        video = (row == config.video_token_id).nonzero().squeeze(1).tolist()
        while video:
            t, h, w = next(clips)
            frame = h * w // merge**2 + 1
            for i in range(t):
                row[video[(i + 1) * frame - 1]] = config.camera_token_id if i else config.camera_first_token_id
            row[video[t * frame]] = config.scale_token_id
            video = video[t * frame + 1 :]
    types = tensors["expanded/mm_token_type_ids"].clone()
    for token_id in config.geometry_token_ids:
        types[ids == token_id] = 0
    return {
        "input_ids": ids,
        "attention_mask": tensors["expanded/attention_mask"],
        "mm_token_type_ids": types,
        "pixel_values_videos": tensors["in/pixel_values_videos"],
        "video_grid_thw": tensors["in/video_grid_thw"],
    }


def make_targets(case: dict, tensors: dict) -> list[GeometryTargets]:
    targets = []
    for clip in range(len(tensors["in/video_grid_thw"])):
        pose_enc, depth, confidence, metric, sky = (
            tensors[f"teacher/{name}/{clip}"][0]
            for name in ("pose_enc", "depth", "depth_conf", "metric_depth_raw", "sky")
        )
        metric = depth_in_metres(metric, focal_lengths(pose_enc[:, 7:], metric.shape[-2:]))
        targets.append(
            GeometryTargets(
                pose_enc=pose_enc,
                depth=depth,
                depth_confidence=confidence,
                metric_scale=metric_scale_target(depth, confidence, metric, sky),
                features=[
                    tensors[f"teacher/distill/{layer}/{clip}"] for layer in range(len(case["geovr"]["geo_indexes"]))
                ],
                features_pooled=not case["geovr"]["geo_avg_2d"],
            )
        )
    return targets


@pytest.fixture(scope="module")
def outputs(case, tensors, model):
    model.zero_grad()
    outputs = model(
        **expanded_inputs(case, tensors, model.config),
        labels=tensors["expanded/labels"],
        geometry_targets=make_targets(case, tensors),
        output_geometry=True,
        output_hidden_states=True,
        logits_to_keep=0,
    )
    outputs.loss.backward()
    return outputs


@pytest.mark.parametrize("name", LOSSES)
def test_parity_of_each_loss(case, outputs, name):
    assert_within_gate(outputs[name], case["losses"][LOSSES[name]])


def test_parity_of_mapped_layers(case, model):
    assert model.config.depth_state_indices == case["geovr"]["mapped_hidden_state_indexes"]
    assert model.config.alignment_state_indices == case["geovr"]["mapped_hidden_state_indexes"]


def test_parity_of_positions(case, tensors, model):
    inputs = expanded_inputs(case, tensors, model.config)
    inputs.pop("pixel_values_videos")
    position_ids, rope_deltas = model.model.get_rope_index(**inputs)
    attended = inputs["attention_mask"].bool()
    expected = tensors["expanded/position_ids"]
    assert torch.equal(position_ids[:, attended], expected[:, attended])
    # Text that continues a row sits right behind its last position.
    next_position = attended.sum(1) + rope_deltas.squeeze(1)
    assert torch.equal(next_position, position_ids.amax((0, 2)) + 1)


def test_parity_of_hidden_states_and_logits(tensors, model, outputs):
    attended = tensors["expanded/attention_mask"].bool()
    for i, state in enumerate(outputs.hidden_states):
        assert_within_gate(state[attended], tensors[f"out/hidden_states/{i}"][attended])
    assert_within_gate(outputs.logits[attended], tensors["out/logits"][attended])


def test_parity_of_predictions(tensors, outputs):
    for clip, (pose_enc, depth) in enumerate(zip(outputs.pose_enc, outputs.depth, strict=True)):
        assert_within_gate(pose_enc, tensors[f"out/pred_pose_enc/{clip}"][0])
        assert_within_gate(depth, tensors[f"out/pred_depth/{clip}"][0])
    assert_within_gate(outputs.metric_scale, tensors["out/pred_scale"])


def test_parity_of_scale_targets(case, tensors):
    scales = torch.stack([target.metric_scale for target in make_targets(case, tensors)])
    assert_within_gate(scales, tensors["out/gt_scale"])


def test_parity_of_gradients(tensors, model, outputs):
    ours = {to_published_name(name): parameter.grad for name, parameter in model.named_parameters()}
    tokens = model.model.geometry_tokens.weight.grad
    ours |= {"model.camera_token.weight": tokens[:2], "model.scale_token.weight": tokens[2:]}
    published = [name for name in tensors if name.startswith("grad/")]
    assert published
    for name in published:
        assert_within_gate(ours[name.removeprefix("grad/")], tensors[name])
