"""The metric-scale target recovers the unit of a teacher's depth."""

import pytest
import torch

from geovr_hf.teachers.metric_network import focal_lengths
from geovr_hf.teachers.metric_scale import (
    depth_in_metres,
    least_squares_scale,
    metric_image_size,
    metric_scale_target,
)


METRES_PER_UNIT = 2.5


def clip(height=28, width=42):
    metres = 1 + 4 * torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    return {
        "depth": metres / METRES_PER_UNIT,
        "confidence": torch.ones_like(metres),
        "metric_depth": metres,
        "sky": torch.zeros_like(metres),
    }


def test_the_scale_of_a_consistent_clip_is_exact():
    torch.testing.assert_close(metric_scale_target(**clip()), torch.tensor(METRES_PER_UNIT))


def test_sky_and_unmeasured_and_unsure_pixels_do_not_count():
    facts = clip()
    facts["depth"][:, :5] = 1000
    facts["sky"][:, :5] = 1
    facts["depth"][:, 5:9] = 1000
    facts["confidence"][:, 5:9] = 0
    facts["depth"][:, 9:12] = 1000
    facts["confidence"][:, 9:12] = 0.5
    torch.testing.assert_close(metric_scale_target(**facts), torch.tensor(METRES_PER_UNIT))


@pytest.mark.parametrize(("field", "value"), [("sky", 1.0), ("confidence", 0.0), ("depth", 0.0)])
def test_a_clip_without_a_usable_pixel_has_no_scale(field, value):
    facts = clip()
    facts[field] = torch.full_like(facts[field], value)
    assert metric_scale_target(**facts) is None


def test_teacher_maps_of_another_size_are_resized_to_the_metric_networks():
    facts = clip()
    facts["depth"] = torch.full((2, 32, 48), 3.0)
    facts["confidence"] = torch.ones(2, 32, 48)
    facts["metric_depth"] = torch.full_like(facts["metric_depth"], 6.0)
    torch.testing.assert_close(metric_scale_target(**facts), torch.tensor(2.0))


def test_only_images_off_the_metric_networks_grid_change_size():
    assert metric_image_size((392, 504)) == (392, 504)
    assert metric_image_size((384, 512)) == (378, 518)


def test_least_squares_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        least_squares_scale(torch.zeros(3), torch.zeros(1))


def test_canonical_depth_is_for_a_focal_length_of_300_pixels():
    canonical = torch.full((2, 4, 6), 3.0)
    metres = depth_in_metres(canonical, torch.tensor([300.0, 450.0]))
    torch.testing.assert_close(metres[0], canonical[0])
    torch.testing.assert_close(metres[1], 1.5 * canonical[1])


def test_focal_length_is_the_mean_of_both_axes():
    right_angle = torch.tensor([[torch.pi / 2, torch.pi / 2]])
    torch.testing.assert_close(focal_lengths(right_angle, (200, 400)), torch.tensor([150.0]))


def test_a_field_of_view_of_nothing_gives_a_finite_focal_length():
    assert focal_lengths(torch.zeros(1, 2), (200, 400)).isfinite().all()
