"""What the losses promise beyond the published numbers: masking, precision, determinism and their options."""

from fractions import Fraction

import pytest
import torch

from geovr_hf.modeling.losses_geovr import (
    _quantile_rank,
    alignment_loss,
    camera_loss,
    depth_loss,
    filter_by_quantile,
    masked_quantile,
    scale_loss,
    silog_loss,
)


def depth_pair(frames=2, height=30, width=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = 1 + 4 * torch.rand(frames, height, width, generator=generator)
    prediction = target + 0.3 * torch.randn(frames, height, width, generator=generator)
    return prediction.clamp(min=0.1), target


def half_measured(like):
    confidence = torch.ones_like(like)
    confidence[:, :, ::2] = 0
    confidence[0, :7] = 0
    return confidence


@pytest.mark.parametrize("garbage", [0.0, -1.0, float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("loss", [lambda *a: depth_loss(*a).total, silog_loss], ids=["l1", "silog"])
def test_pixels_without_measurement_change_nothing_whatever_they_hold(loss, garbage):
    prediction, target = depth_pair()
    confidence = half_measured(target)
    prediction.requires_grad_()
    expected = loss(prediction, target, confidence)
    (expected_grad,) = torch.autograd.grad(expected, prediction)
    holed = torch.where(confidence > 0, target, garbage)
    actual = loss(prediction, holed, confidence)
    (actual_grad,) = torch.autograd.grad(actual, prediction)
    assert torch.equal(actual, expected)
    assert torch.equal(actual_grad, expected_grad)
    assert (actual_grad[confidence == 0] == 0).all()


@pytest.mark.parametrize("loss", [lambda *a: depth_loss(*a).total, silog_loss], ids=["l1", "silog"])
def test_a_clip_without_any_measurement_has_zero_loss_and_zero_gradients(loss):
    prediction, target = depth_pair()
    prediction.requires_grad_()
    value = loss(prediction, torch.zeros_like(target), torch.zeros_like(target))
    value.backward()
    assert value == 0
    assert (prediction.grad == 0).all()


def test_a_masked_clip_has_the_regression_loss_of_its_measured_pixels_alone():
    prediction, target = depth_pair(frames=4, height=40, width=40)
    confidence = half_measured(target)
    measured = confidence > 0
    masked = depth_loss(prediction, target, confidence)
    alone = depth_loss(*(x[measured].reshape(1, 1, -1) for x in (prediction, target)))
    torch.testing.assert_close(masked.regression, alone.regression)


def test_the_parts_of_the_depth_loss_sum_to_its_total():
    prediction, target = depth_pair()
    loss = depth_loss(prediction, target, predicted_confidence=torch.ones_like(target) + target)
    torch.testing.assert_close(loss.total, loss.regression + loss.gradient + loss.confidence)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, t, c: depth_loss(p, t, c, filter_ratio=0.4, predicted_confidence=p, gradient_pooling=True).total,
        lambda p, t, c: silog_loss(p, t, c, filter_ratio=0.4),
        lambda p, t, c: camera_loss(p[..., :9], t[..., :9], align_quaternion_sign=True).total,
        lambda p, t, c: scale_loss(p, t),
        lambda p, t, c: alignment_loss(p, t),
    ],
    ids=["depth", "silog", "camera", "scale", "alignment"],
)
def test_no_loss_waits_for_values(loss):
    """The meta device has no values: whatever reads one on the host raises there."""
    prediction, target, confidence = (torch.rand(2, 40, 40, device="meta") for _ in range(3))
    assert loss(prediction, target, confidence).shape == ()


def test_losses_of_half_precision_inputs_are_computed_in_float32():
    prediction, target = (x.bfloat16() for x in depth_pair())
    assert torch.equal(depth_loss(prediction, target).total, depth_loss(prediction.float(), target.float()).total)
    assert torch.equal(silog_loss(prediction, target), silog_loss(prediction.float(), target.float()))
    assert torch.equal(alignment_loss(prediction, target), alignment_loss(prediction.float(), target.float()))
    assert torch.equal(scale_loss(prediction, target), scale_loss(prediction.float(), target.float()))


def test_ranks_of_quantiles_are_exact_at_any_number_of_pixels():
    for count in (1, 2, 51, 1001, 6_096_384, 33_554_433):
        lower, fraction = _quantile_rank(0.98, torch.tensor(count))
        exact = Fraction(98, 100) * (count - 1)
        assert int(lower) == exact.numerator // exact.denominator
        assert float(fraction) == pytest.approx(float(exact - int(lower)), abs=1e-6)


def test_masked_quantile_is_torch_quantile_of_the_masked_values():
    values = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    mask = values > 0.2
    for quantile in (0.0, 0.25, 0.5, 0.9, 1.0):
        torch.testing.assert_close(
            masked_quantile(values, mask, quantile), torch.quantile(values[mask].double(), quantile).float()
        )


def test_the_filter_keeps_few_values_as_they_are():
    values = torch.full((1000,), 500.0)
    filtered, kept = filter_by_quantile(values, torch.ones(1000, dtype=torch.bool))
    assert kept.all()
    assert torch.equal(filtered, values)


def test_a_few_wild_pixels_do_not_change_the_regression_loss_much():
    prediction, target = depth_pair(frames=4)
    calm = depth_loss(prediction, target).regression
    target[0, 0, :20] = 1e6
    assert depth_loss(prediction, target).regression < 1.1 * calm
    assert depth_loss(prediction, target, quantile=None).regression > 100 * calm


def test_aligned_signs_make_opposite_quaternions_equal():
    prediction = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    target = prediction.clone()
    target[:, 3:7] *= -1
    assert camera_loss(prediction, target).rotation > 0.1
    assert camera_loss(prediction, target, align_quaternion_sign=True).total == 0


def test_silog_with_full_variance_focus_forgives_a_common_factor():
    prediction, target = depth_pair()
    torch.testing.assert_close(
        silog_loss(3 * prediction, target, variance_focus=1.0), silog_loss(prediction, target, variance_focus=1.0)
    )


def test_pooled_gradients_see_what_lies_between_the_picked_pixels():
    _, target = depth_pair(frames=1, height=32, width=32)
    prediction = target.clone()
    prediction[:, 1::2, 16:] += 1  # only in odd rows: no scale but the first picks them
    picked, pooled = (depth_loss(prediction, target, gradient_pooling=flag).gradient for flag in (False, True))
    finest = depth_loss(prediction, target, gradient_scales=1).gradient
    torch.testing.assert_close(picked, finest / 4)
    assert pooled > picked


def test_alignment_loss_ignores_length_and_does_not_train_the_teacher():
    student = torch.randn(2, 3, 4, 8, requires_grad=True)
    teacher = (3 * student.detach()).requires_grad_()
    loss = alignment_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert teacher.grad is None
    torch.testing.assert_close(alignment_loss(student, -teacher), torch.tensor(2.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: camera_loss(torch.zeros(2, 9), torch.zeros(3, 9)), "one shape"),
        (lambda: camera_loss(torch.zeros(2, 7), torch.zeros(2, 7)), r"\(\.\.\., 9\)"),
        (lambda: depth_loss(torch.ones(2, 4, 4), torch.ones(2, 4, 5)), "one shape"),
        (lambda: depth_loss(torch.ones(4, 4), torch.ones(4, 4)), "frames, height, width"),
        (lambda: depth_loss(torch.ones(1, 4, 4), torch.ones(1, 4, 4), torch.ones(1, 4)), "one shape"),
        (lambda: depth_loss(torch.ones(1, 4, 4), torch.ones(1, 4, 4), filter_ratio=0.2), "`filter_ratio`"),
        (lambda: depth_loss(torch.ones(1, 4, 4), torch.ones(1, 4, 4), quantile=98), r"lie in \[0, 1\], got 98"),
        (lambda: scale_loss(torch.ones(2), torch.ones(())), "one shape"),
        (lambda: alignment_loss(torch.ones(2, 3), torch.ones(2, 4)), "one shape"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
