"""Nothing is to be gained by guessing."""

import numpy as np
import pytest

from geovr_hf.data.rooms import QUESTION_TYPES, Question
from geovr_hf.data.rooms.blind import best_constant, blind_scores, relative_accuracy, sample_questions, table
from geovr_hf.trainers.metrics import mean_relative_accuracy


@pytest.fixture(scope="module")
def scores():
    return blind_scores(sample_questions(100, seed=3, questions_per_room=10))


def test_relative_accuracy_is_that_of_the_metric():
    rng = np.random.default_rng(0)
    guesses, targets = rng.uniform(0.5, 9, (2, 200)).round(1)
    expected = [mean_relative_accuracy(guess, target) for guess, target in zip(guesses, targets, strict=True)]
    np.testing.assert_allclose(relative_accuracy(guesses, targets), expected)


def test_best_constant_finds_the_value_that_all_share():
    assert best_constant(np.array([4.0, 4.0, 4.0, 20.0])) == (4.0, pytest.approx(0.75))


def test_words_guesser_finds_a_planted_prior():
    options = ("A. left", "B. right")
    questions = [Question("object_rel_direction_easy", str(i), "A", options, ()) for i in range(20)]
    flipped = [Question("object_rel_direction_easy", str(i), "B", options[::-1], ()) for i in range(20)]
    flipped = [Question(q.question_type, q.text, "B", ("A. right", "B. left"), ()) for q in flipped]
    row = blind_scores([*zip(questions, flipped, strict=True)])["object_rel_direction_easy"]
    assert row["constant"] == 0.5
    assert row["words"] == 1.0


def test_one_question_about_a_room_gives_nothing_away_of_another():
    options = ("A. sofa, lamp", "B. lamp, sofa")
    rooms = [[Question("obj_appearance_order", str(i), letter, options, ()) for i in range(9)] for letter in "AB"]
    assert blind_scores(rooms)["obj_appearance_order"]["words"] == 0.0  # what one room teaches is wrong of the other
    assert blind_scores([rooms[0]] * 2)["obj_appearance_order"]["words"] == 1.0


def test_choices_are_near_chance_for_every_guesser(scores):
    for kind, row in scores.items():
        if "chance" in row:
            allowed = 4 * np.sqrt(row["chance"] * (1 - row["chance"]) / row["count"])
            assert row["constant"] < row["chance"] + allowed, kind
            assert row["words"] < row["chance"] + allowed, kind


def test_numbers_are_bounded_for_every_guesser(scores):
    bounds = {
        "object_counting": 0.56,
        "object_abs_distance": 0.40,
        "object_size_estimation": 0.50,
        "room_size_estimation": 0.46,
    }
    for kind, bound in bounds.items():
        assert scores[kind]["constant"] < bound, kind
        assert scores[kind]["words"] < bound, kind


def test_table_has_a_row_for_each_type_and_their_mean(scores):
    text = table(scores)
    assert all(f"| {kind} |" in text for kind in QUESTION_TYPES)
    assert "mean of the types" in text.splitlines()[-1]
