"""The configuration: all structure, checked when it is made and when it is saved."""

import pytest
from tiny import tiny_config
from transformers import AutoConfig, Qwen3VLConfig

from geovr_hf import GeoVRConfig


def test_defaults_are_the_published_recipe():
    config = GeoVRConfig(text_config={"num_hidden_layers": 28})
    assert config.geometry_token_ids == (151669, 151670, 151671)
    assert config.depth_tile == 28
    assert config.depth_state_indices == config.alignment_state_indices == [6, 14, 21, 28]
    weights = [getattr(config, f"{name}_loss_weight") for name in ("lm", "camera", "depth", "scale", "alignment")]
    assert weights == [1.0, 2.5, 1.0, 1.0, 1.0]
    assert config.teacher is None  # nobody has taught it


def test_it_round_trips(tmp_path):
    config = tiny_config(objectives=["depth", "camera"], camera_loss_weight=3)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is GeoVRConfig
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()


def test_a_plain_qwen3_vl_configuration_becomes_geovr_s(tmp_path):
    Qwen3VLConfig(text_config={"hidden_size": 256}).save_pretrained(tmp_path)
    config = GeoVRConfig.from_pretrained(tmp_path)
    assert config.model_type == "geovr" and config.text_config.hidden_size == 256


def test_a_small_vocabulary_lends_its_last_ids():
    assert GeoVRConfig(
        text_config={"vocab_size": 300},
        image_token_id=1,
        video_token_id=2,
        vision_start_token_id=3,
        vision_end_token_id=4,
    ).geometry_token_ids == (297, 298, 299)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"objectives": ["pose"]}, "objectives"),
        ({"objectives": ["depth", "depth"]}, "objectives"),
        ({"depth_loss_type": "l2"}, "depth_loss_type"),
        ({"depth_hidden_sizes": [8, 8]}, "four"),
        ({"teacher_patch_size": 15, "teacher_pool_size": 1}, "multiple of 4"),
        ({"teacher_depth_layers": [4, 11, 17, 24]}, "teacher_depth_layers"),
        ({"scale_token_id": 10**6}, "vocabulary"),
        ({"camera_token_id": 151656}, "unused ids"),
        ({"camera_hidden_size": "wide"}, "camera_hidden_size"),
        ({"camera_loss_weight": -1.0}, "camera_loss_weight"),
        ({"fov_loss_weight": float("nan")}, "fov_loss_weight"),
        ({"lm_loss_weight": float("inf")}, "lm_loss_weight"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        GeoVRConfig(**fields)
