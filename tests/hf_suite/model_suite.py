"""transformers' common model tests and configuration tests, on images and on clips with geometry tokens."""

import unittest

import torch
from candidates import candidate
from transformers.testing_utils import torch_device

from geovr_hf import GeometryTargets

from .generation.test_utils import GenerationTesterMixin
from .test_configuration_common import ConfigTester
from .test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor


PAD, BOS, EOS, IMAGE, VIDEO, VISION_START, VISION_END, CAMERA_FIRST, CAMERA, SCALE, FIRST_WORD = range(11)
MERGE_SIZE, PATCH_SIZE, GRID = 2, 16, 2


class _Tester:
    """Tiny configuration and inputs: a prompt of four words, the vision, and three words."""

    is_training = True
    batch_size = 3
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, vision: list[int]):
        self.vision = vision
        self.seq_length = 7 + len(vision)

    def get_config(self):
        geometry = {}
        if candidate.config.model_type == "geovr":
            geometry = {
                "camera_hidden_size": 16,
                "scale_hidden_size": 16,
                "depth_hidden_sizes": [8, 8, 16, 16],
                "depth_fusion_size": 8,
                "teacher_hidden_size": 16,
                "camera_first_token_id": CAMERA_FIRST,
                "camera_token_id": CAMERA,
                "scale_token_id": SCALE,
            }
        return candidate.config(
            text_config={
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": 37,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "hidden_act": "silu",
                "max_position_embeddings": 512,
                "pad_token_id": PAD,
                "bos_token_id": BOS,
                "eos_token_id": EOS,
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
            },
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 4,
                "out_hidden_size": self.hidden_size,
                "patch_size": PATCH_SIZE,
                "spatial_merge_size": MERGE_SIZE,
                "temporal_patch_size": 2,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
            tie_word_embeddings=True,
            **geometry,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        words = ids_tensor([self.batch_size, 7], self.vocab_size - FIRST_WORD) + FIRST_WORD
        vision = torch.tensor([self.vision] * self.batch_size, device=torch_device)
        input_ids = torch.cat([words[:, :4], vision, words[:, 4:]], dim=1)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": (input_ids == IMAGE).int() + 2 * (input_ids == VIDEO).int(),
        }
        for token, pixels, grid in (
            (IMAGE, "pixel_values", "image_grid_thw"),
            (VIDEO, "pixel_values_videos", "video_grid_thw"),
        ):
            if num_frames := self.vision.count(token):
                inputs[pixels] = floats_tensor([self.batch_size * num_frames * GRID**2, 3 * 2 * PATCH_SIZE**2])
                inputs[grid] = torch.tensor([[num_frames, GRID, GRID]] * self.batch_size, device=torch_device)
        return config, inputs


class _Suite(ModelTesterMixin, GenerationTesterMixin):
    all_model_classes = (candidate.model, candidate.conditional_generation)
    pipeline_model_mapping = {}
    _is_composite = True
    # Said of all models whose files carry no copyright line of 2023 or later.
    test_can_init_all_missing_weights_before_2023 = True
    vision = None

    def setUp(self):
        self.model_tester = _Tester(self.vision)
        self.config_tester = ConfigTester(self, config_class=candidate.config, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Labels of GeoVR include the geometry, so that the tests of training see every head trained."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if "labels" in inputs and candidate.config.model_type == "geovr":
            inputs["geometry_targets"] = [_targets(grid) for grid in inputs.get("video_grid_thw", [])]
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


def _targets(grid: torch.Tensor) -> GeometryTargets:
    """The same targets at every call: the suite compares losses."""
    num_frames, height, width = grid.tolist()
    height, width = height // MERGE_SIZE, width // MERGE_SIZE
    generator = torch.Generator().manual_seed(0)
    return GeometryTargets(
        pose_enc=torch.rand(num_frames, 9, generator=generator),
        depth=torch.rand(num_frames, 28 * height, 28 * width, generator=generator) + 1,
        depth_confidence=torch.ones(num_frames, 28 * height, 28 * width),
        metric_scale=torch.rand((), generator=generator),
        features=[torch.rand(num_frames, height, width, 16, generator=generator) for _ in range(4)],
        features_pooled=True,
    )


class TestImages(_Suite, unittest.TestCase):
    vision = [VISION_START, IMAGE, VISION_END]


class TestClips(_Suite, unittest.TestCase):
    """Clips with geometry tokens, which are words to plain Qwen3-VL."""

    vision = [
        *(VISION_START, VIDEO, CAMERA_FIRST, VISION_END),
        *(VISION_START, VIDEO, CAMERA, SCALE, VISION_END),
    ]

    def _image_features_prepare_config_and_inputs(self):
        """A clip's patches serve as an image's, as the suite has it the other way round."""
        config, inputs = self._video_features_prepare_config_and_inputs()
        return config, {"pixel_values": inputs["pixel_values_videos"], "image_grid_thw": inputs["video_grid_thw"]}


del ModelTesterMixin, GenerationTesterMixin
