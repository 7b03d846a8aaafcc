import math

import pytest
import torch

from geovr_hf import GeometryTargets
from geovr_hf.trainers.metrics import (
    GEOMETRY_ERRORS,
    average_scores,
    depth_errors,
    geometry_errors,
    mean_relative_accuracy,
    name_geometry_means,
    parse_choice,
    parse_number,
    pose_errors,
    score_answer,
)


# Scores that lmms-eval 0.7.3 gives to these answers of VSI-Bench.
CHOICES = [
    ("A", "A", 1), ("A.", "A", 1), ("B", "A", 0), ("a", "A", 1), (" A", "A", 0), ("A. chair", "A", 1),
    ("(B) chair", "B", 0), ("Answer: C", "C", 0), ("C) sofa", "C", 0), ("chair", "A", 0), ("D\n", "D", 1),
    ("The answer is D", "D", 0), ("\nB", "B", 1), ("Apple", "A", 0), ("A, B, C", "A", 0), ("", "A", 0),
]  # fmt: skip
NUMBERS = [
    ("12", "12", 1.0), ("12", "10", 0.6), ("3", "4", 0.6), ("two", "2", 1.0), ("There are 3 boxes", "3", 1.0),
    ("twenty-one", "21", 1.0), ("0", "4", 0.0), ("-1", "3", 0.0), ("4.0", "4", 1.0), ("5", "4", 0.6),
    ("The answer is 3.5 meters", "3.5", 1.0), ("3.5 meters", "3.0", 0.7), ("NaN", "2.0", 0.0), ("2.1", "2.0", 1.0),
    ("1.9", "2.0", 1.0), ("2.2", "2.0", 0.9), ("inf", "2.0", 0.0), ("1e1", "10", 0.0), ("3,5", "3.5", 0.8),
    ("150", "160", 0.9), ("150cm", "160", 0.9), ("80", "160", 0.1), ("240", "160", 0.1), (" 168 ", "160", 1.0),
    ("one hundred and sixty", "160", 1.0), ("abc", "160", 0.0), ("25", "24.5", 1.0), ("", "30", 0.0),
    ("12.25", "24.5", 0.1), ("49", "24.5", 0.0), ("9", "10", 0.9), ("1", "2", 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answer", "score"), CHOICES + NUMBERS)
def test_answers_score_as_in_lmms_eval(prediction, answer, score):
    assert score_answer(prediction, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    "prediction", ["", " ", "\n", ".", "-", "--", "１２", "½", "one-", "a" * 5000, "\x00", "<|im_end|>"]
)
@pytest.mark.parametrize("answer", ["A", "3", "left", "-2", "0", "1e400"])
def test_no_answer_is_too_odd_to_score(prediction, answer):
    assert 0 <= score_answer(prediction, answer) <= 1


@pytest.mark.parametrize("answer", ["A", "3", "left"])
def test_words_for_too_large_a_number_and_what_is_no_text_score_zero(answer):
    for prediction in ("hundred " * 160, 3, None):
        assert score_answer(prediction, answer) == 0


def test_number_words_are_read_as_numbers_and_parts_of_other_words_are_not():
    assert parse_number("two thousand and five") == 2005
    assert parse_number("Three hundred forty-two tiles") == 342
    assert parse_number("someone often sat there") is None
    assert parse_number("ten or 12") == 10
    assert parse_number("-2.50 m") == -2.5


def test_a_true_zero_is_met_by_zero_alone():
    assert mean_relative_accuracy(0, 0) == 1
    assert mean_relative_accuracy(2, 0) == 0


def test_the_choice_is_the_first_word():
    assert [parse_choice(answer) for answer in ("b", "B.", "B. left", "")] == ["B", "B", "B", ""]


def test_other_answers_must_be_met_in_full_whatever_their_case():
    assert score_answer("Left.", "left") == 1
    assert score_answer("left side", "left") == 0


def test_types_weigh_the_same_however_many_questions_they_have():
    scores = [("count", 1.0)] * 9 + [("distance", 0.0)]
    assert average_scores(scores) == {"answer_accuracy": 0.5, "count": 1.0, "distance": 0.0}


def test_difficulties_of_a_type_are_averaged_before_the_types():
    scores = [("dir_easy", 1.0), ("dir_easy", 1.0), ("dir_hard", 0.0), ("count", 1.0)]
    assert average_scores(scores) == {"answer_accuracy": 0.75, "dir": 0.5, "count": 1.0}


def test_questions_without_a_type_count_but_have_no_name():
    assert average_scores([(None, 1.0), ("count", 0.0)]) == {"answer_accuracy": 0.5, "count": 0.0}
    assert average_scores([]) == {}


def test_depth_is_compared_where_it_was_measured():
    target = torch.tensor([[[2.0, 4.0, 0.0]]])
    prediction = torch.tensor([[[2.2, 8.0, 5.0]]])
    errors = depth_errors(prediction, target, confidence=torch.tensor([[[1.0, 0.3, 0.0]]]))
    assert errors.abs_rel.item() == pytest.approx((0.1 + 1.0) / 2)
    assert errors.delta.item() == 0.5
    assert depth_errors(prediction, target, torch.zeros(1, 1, 3)) is None
    # Without confidence, a depth of zero is no measurement.
    assert depth_errors(prediction, target).abs_rel.item() == pytest.approx((0.1 + 1.0) / 2)


def about_z(degrees):
    half = math.radians(degrees) / 2
    return [0.0, 0.0, math.sin(half), math.cos(half)]


def poses(*cameras):
    return torch.tensor([[*translation, *quaternion, 1.0, 1.0] for translation, quaternion in cameras])


def test_rotation_errors_are_angles_and_exact_when_tiny():
    still = ((0, 0, 0), about_z(0))
    target = poses(still, ((1, 0, 0), about_z(30)))
    for degrees in (0, 1e-3, 1, 90, 179):
        errors = pose_errors(poses(still, ((1, 0, 0), about_z(30 + degrees))), target)
        assert errors.rotation_deg.item() == pytest.approx(degrees, abs=2e-5)
        assert errors.translation.item() == pytest.approx(0, abs=1e-6)


def test_poses_are_compared_relative_to_the_first_frame():
    target = poses(((0, 0, 0), about_z(0)), ((0, 0, 2), about_z(20)))
    # The same path seen from another world: every camera is composed with one rigid motion.
    moved = poses(
        ((3, 0, 0), about_z(0)), ((3 * math.cos(math.radians(20)), 3 * math.sin(math.radians(20)), 2), about_z(20))
    )
    errors = pose_errors(moved, target)
    assert errors.rotation_deg.item() == pytest.approx(0, abs=1e-4)
    assert errors.translation.item() == pytest.approx(0, abs=1e-5)


def test_translations_are_compared_by_length_and_by_direction():
    still = ((0, 0, 0), about_z(0))
    errors = pose_errors(poses(still, ((0, 3, 0), about_z(0))), poses(still, ((4, 0, 0), about_z(0))))
    assert errors.translation.item() == pytest.approx(5)
    assert errors.direction_deg.item() == pytest.approx(90)


def test_a_camera_that_stands_still_has_no_direction_and_one_frame_no_path():
    still = ((0, 0, 0), about_z(0))
    assert pose_errors(poses(still, ((0, 3, 0), about_z(0))), poses(still, still)).direction_deg is None
    assert pose_errors(poses(still), poses(still)) is None


def test_metric_errors_apply_each_sides_own_scale():
    still = ((0, 0, 0), about_z(0))
    target = GeometryTargets(
        pose_enc=poses(still, ((1, 0, 0), about_z(0))), depth=torch.ones(2, 4, 4), metric_scale=torch.tensor(3.0)
    )
    errors = geometry_errors(
        target,
        pose_enc=poses(still, ((2, 0, 0), about_z(0))),
        depth=torch.full((2, 4, 4), 2.0),
        metric_scale=torch.tensor(1.5),
    )
    assert errors["depth_abs_rel"] == 1 and errors["depth_abs_rel_metric"] == 0
    assert errors["depth_delta_1.25"] == 0 and errors["depth_delta_1.25_metric"] == 1
    assert errors["translation_error"] == 1 and errors["translation_error_m"] == 0
    assert name_geometry_means({"log_scale_ratio": errors["log_scale_ratio"].item()}) == {
        "scale_ratio": pytest.approx(2.0)
    }
    assert set(errors) == set(GEOMETRY_ERRORS)


def test_what_is_missing_on_either_side_is_left_out():
    target = GeometryTargets(depth=torch.ones(2, 4, 4))
    assert set(geometry_errors(target, depth=torch.ones(2, 4, 4), metric_scale=torch.tensor(1.0))) == {
        "depth_abs_rel",
        "depth_delta_1.25",
    }
    assert geometry_errors(target) == {}
