"""Teacher images and the way back from the video processor's patches to frames."""

import pytest
import torch
from transformers import Qwen3VLVideoProcessor

from geovr_hf.teachers.images import (
    IMAGE_RULES,
    frames_from_pixel_values,
    last_timestamp,
    teacher_image_size,
    teacher_images,
)


def all_grey_levels(frames=2, height=64, width=96):
    levels = torch.arange(frames * height * width * 3) % 256
    return levels.to(torch.uint8).reshape(frames, height, width, 3)


def patches_of(frames):
    processed = Qwen3VLVideoProcessor()(
        [frames.permute(0, 3, 1, 2)], do_resize=False, do_sample_frames=False, return_tensors="pt"
    )
    return processed["pixel_values_videos"], processed["video_grid_thw"][0]


def test_nearest_rounding_gives_back_what_the_video_processor_was_given():
    frames = all_grey_levels()
    assert torch.equal(frames_from_pixel_values(*patches_of(frames), rounding="nearest"), frames)


def test_the_published_truncation_loses_a_level_here_and_there():
    frames = all_grey_levels()
    lost = frames.int() - frames_from_pixel_values(*patches_of(frames)).int()
    assert set(lost.unique().tolist()) == {0, 1}
    assert 0.2 < lost.float().mean() < 0.4


def test_frames_get_the_size_and_range_that_a_teacher_wants():
    images = teacher_images(all_grey_levels(), IMAGE_RULES["vggt"])
    assert images.shape == (2, 3, 336, 504)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_halves_are_rounded_to_the_even_multiple():
    # 504 / 36 = 14 pixels per pixel: 5 become 70 = 2.5 multiples of 28, 7 become 98 = 3.5.
    assert teacher_image_size((5, 36), IMAGE_RULES["vggt"]) == (2 * 28, 504)
    assert teacher_image_size((36, 7), IMAGE_RULES["vggt"]) == (504, 4 * 28)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: teacher_image_size((0, 64), IMAGE_RULES["da3"]), "`frame_size` must be positive"),
        (lambda: teacher_image_size((10, 2000), IMAGE_RULES["da3"]), "too elongated"),
        (lambda: teacher_images(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), IMAGE_RULES["da3"]), "`frames` must be"),
        (lambda: teacher_images(torch.zeros(2, 64, 64, 3), IMAGE_RULES["da3"]), "`frames` must be uint8"),
        (lambda: frames_from_pixel_values(torch.zeros(8, 1536), (1, 2, 6)), "must have shape"),
        (lambda: frames_from_pixel_values(torch.zeros(9, 1536), (1, 3, 3)), "multiples of 2"),
        (lambda: frames_from_pixel_values(torch.zeros(8, 1536), (1, 2, 4), rounding="up"), "`rounding`"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_last_timestamp_may_be_whole_seconds():
    assert last_timestamp("<1.0 seconds><|vision_start|> then <12 seconds>") == 12.0
