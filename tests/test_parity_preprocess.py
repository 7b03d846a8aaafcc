"""Frames, teacher images and timestamps come out as from the published preprocessing in every fixture case."""

import pytest
import torch
from parity import assert_within_gate, load_facts, load_tensors

from geovr_hf.teachers.images import (
    IMAGE_RULES,
    ImageRule,
    frames_from_pixel_values,
    last_timestamp,
    teacher_image_size,
    teacher_images,
)


FACTS = load_facts("geovr_preprocess")
TENSORS = load_tensors("geovr_preprocess")


def recovered_frames(case, **options):
    facts = FACTS["recover_video"]
    return frames_from_pixel_values(
        TENSORS[case["pixel_values_videos"]],
        case["grid_thw"],
        image_mean=facts["image_mean"],
        image_std=facts["image_std"],
        patch_size=facts["patch_size"],
        temporal_patch_size=facts["temporal_patch_size"],
        merge_size=facts["merge_size"],
        **options,
    )


def test_every_section_of_the_fixture_file_has_a_test():
    assert set(FACTS) <= {"recover_video", "teacher_image_size", "teacher_image", "last_second"}


@pytest.mark.parametrize("case", FACTS["recover_video"]["cases"], ids=lambda case: case["pixel_values_videos"])
def test_frames_from_patches(case):
    assert torch.equal(recovered_frames(case), TENSORS[case["frames"]])


@pytest.mark.parametrize("case", FACTS["recover_video"]["cases"], ids=lambda case: case["pixel_values_videos"])
def test_rounding_to_the_nearest_level_is_the_truncated_level_or_the_next(case):
    step = recovered_frames(case, rounding="nearest").int() - TENSORS[case["frames"]].int()
    assert set(step.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("row", FACTS["teacher_image_size"]["table"], ids=lambda row: str(row["frame_hw"]))
def test_size_of_the_teacher_image(row):
    for name, size in row.items():
        if name != "frame_hw":
            assert teacher_image_size(tuple(row["frame_hw"]), IMAGE_RULES[name]) == tuple(size)


@pytest.mark.parametrize("case", FACTS["teacher_image"]["cases"], ids=lambda case: case["frames"])
def test_teacher_image(case):
    rule = ImageRule(longest_side=case["target_size"], multiple=case["patch_size"])
    assert_within_gate(teacher_images(TENSORS[case["frames"]], rule), TENSORS[case["out"]])


@pytest.mark.parametrize("case", FACTS["last_second"], ids=lambda case: case["text"])
def test_last_timestamp(case):
    assert last_timestamp(case["text"]) == case["value"]
