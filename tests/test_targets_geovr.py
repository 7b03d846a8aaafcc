"""Targets: what becomes one, and what is refused."""

import numpy as np
import pytest
import torch
from tiny import random_frames, random_targets, tiny_inputs, tiny_model

from geovr_hf import GeometryTargets


CLIPS = [[random_frames(3, seed=1)]]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_numbers_and_arrays_become_tensors(model):
    target = random_targets(3)
    target.depth = (1000 * target.depth).round()
    features = torch.stack(target.features)
    others = GeometryTargets(
        pose_enc=target.pose_enc.double().numpy(),
        depth=target.depth.numpy().astype(np.uint16),
        depth_confidence=target.depth_confidence.bool(),
        metric_scale=float(target.metric_scale),
        features=features.numpy(),
        features_pooled=True,
    )
    assert all(value.dtype == torch.float32 for _, value in others.validate()._tensors())
    assert torch.equal(GeometryTargets(features=features).features[1], features[1])
    assert GeometryTargets(metric_scale=np.float64(2)).metric_scale.shape == ()
    inputs = tiny_inputs(CLIPS)
    losses = [model(**inputs, geometry_targets=[t]).loss for t in (target, others)]
    torch.testing.assert_close(*losses)


def test_tensors_of_floating_point_are_kept():
    target = GeometryTargets(depth=(depth := torch.ones(1, 2, 2).half()), features=[depth[None]])
    assert target.depth is depth and target.features[0].dtype == torch.half


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"depth": "near"}, "`depth` must be a tensor, an array or numbers, got str"),
        ({"pose_enc": {"x": 1}}, "`pose_enc` must be"),
        ({"features": 3}, "`features` must be a list"),
        ({"features": ["deep"]}, r"`features\[0\]` must be"),
        ({"features": torch.ones(1, 2, 2, 8)}, "layers in front"),
    ],
)
def test_what_is_no_tensor_is_refused(fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GeometryTargets(**fields)


@pytest.mark.parametrize("targets", [random_targets(3), [{"depth": torch.ones(3, 64, 96)}], {"depth": 1}])
def test_targets_that_are_no_list_of_them(model, targets):
    with pytest.raises(TypeError, match="must be a list with a `GeometryTargets`"):
        model(**tiny_inputs(CLIPS), geometry_targets=targets)


@pytest.mark.parametrize("loss_type", ["l1", "silog"])
@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), 0.0])
def test_unmeasured_depth_may_be_anything(loss_type, nothing):
    model = tiny_model(depth_loss_type=loss_type, objectives=["depth"])
    confidence = torch.ones(3, 64, 96)
    confidence[:, :20] = 0
    depth = torch.ones(3, 64, 96)
    found = []
    for value in (nothing, 1.0):
        masked = depth.masked_fill(confidence == 0, value)
        target = GeometryTargets(depth=masked, depth_confidence=confidence)
        model.zero_grad()
        model(**tiny_inputs(CLIPS), geometry_targets=[target.validate()]).loss.backward()
        found.append([p.grad for p in model.depth_head.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_measured_depth_may_not():
    confidence = torch.ones(1, 2, 2)
    depth = torch.tensor([[[1.0, float("nan")], [1.0, 1.0]]])
    for target in (GeometryTargets(depth=depth), GeometryTargets(depth=depth, depth_confidence=confidence)):
        with pytest.raises(ValueError, match="`depth` of the clip holds NaN"):
            target.validate()


def test_large_values_are_sound_though_their_sum_is_not():
    large = torch.full((1, 4, 64), 60000.0, dtype=torch.float16)
    GeometryTargets(depth=large).validate()
    for values in ([float("inf")], [float("inf"), float("-inf")], [float("nan")]):
        features = torch.full((1, 1, 1, 64), 60000.0, dtype=torch.float16)
        features[..., : len(values)] = torch.tensor(values)
        with pytest.raises(ValueError, match="holds NaN or infinite"):
            GeometryTargets(features=[features], depth=large).validate()
