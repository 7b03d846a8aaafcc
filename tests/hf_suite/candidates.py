"""The classes under test: plain Qwen3-VL or GeoVR, as the environment variable HF_SUITE_CANDIDATE says."""

import os
from dataclasses import dataclass

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES

import geovr_hf
from geovr_hf.modeling.modeling_geovr import GeoVRModel


@dataclass
class Candidate:
    """What a suite needs to know about the classes it tests."""

    config: type
    model: type
    conditional_generation: type
    processor: type


CANDIDATES = {
    "qwen3_vl": Candidate(
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLModel,
        transformers.Qwen3VLForConditionalGeneration,
        transformers.Qwen3VLProcessor,
    ),
    "geovr": Candidate(
        geovr_hf.GeoVRConfig,
        GeoVRModel,
        geovr_hf.GeoVRForConditionalGeneration,
        geovr_hf.GeoVRProcessor,
    ),
}

# The suites look a class's kind up by its name in these tables (say, to decide whether it takes labels).
MODEL_MAPPING_NAMES["geovr"] = "GeoVRModel"
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["geovr"] = "GeoVRForConditionalGeneration"

candidate = CANDIDATES[os.environ["HF_SUITE_CANDIDATE"]]
