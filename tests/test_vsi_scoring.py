"""VSI-Bench's two protocols, bit for bit: recorded scores, and lmms-eval's own function on what models may write."""

import math

import numpy as np
import pytest
from parity import load_facts

from geovr_hf.evaluation import Bootstrap, score_vsi_answer, score_vsi_bench
from geovr_hf.evaluation.tasks.vsi_family import forgiving
from geovr_hf.evaluation.vsi_bench import DIRECTION, QUESTION_TYPES
from geovr_hf.trainers.metrics import parse_number


RECORDED = {"lmms-eval": "lmms", "published": "geovr"}


@pytest.fixture(scope="module")
def recorded():
    return load_facts("vsi_scores")


def score_all(items, protocol):
    columns = ([item[name] for item in items] for name in ("pred", "ground_truth", "question_type"))
    return score_vsi_bench(*columns, protocol)


@pytest.mark.parametrize("protocol", RECORDED)
class TestParity:
    def test_parity_of_every_row(self, recorded, protocol):
        scores = score_all(recorded["items"], protocol)
        expected = [item[f"score_{RECORDED[protocol]}"] for item in recorded["items"]]
        assert [answer.score for answer in scores.answers] == expected

    def test_parity_of_the_averages(self, recorded, protocol):
        scores = score_all(recorded["items"], protocol)
        if protocol == "published":
            expected = dict(recorded["geovr_aggregate"]["metrics_per_type"])
            expected["macro"] = recorded["geovr_aggregate"]["average_all_8_types"]
        else:
            names = {name.removesuffix("_accuracy").removesuffix("_MRA:.5:.95:.05"): name for name in
                     recorded["lmms_aggregate"]}  # fmt: skip
            expected = {short: recorded["lmms_aggregate"][name] for short, name in names.items()}
            expected["macro"] = expected.pop("overall")
        found = {name: estimate.value for name, estimate in scores.scores.types.items()}
        found["macro"] = scores.scores.macro.value
        assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-15)
        assert all(not expected[name] for name in expected.keys() - found.keys())

    def test_parity_of_the_edge_cases_and_zero_where_the_original_raises(self, recorded, protocol):
        for case in recorded["edge_cases"]:
            answer = score_vsi_answer(case["pred"], case["ground_truth"], case["question_type"], protocol)
            if RECORDED[protocol] in case:
                assert answer.score == case[RECORDED[protocol]]
            else:
                # The original raises; a true zero is met by zero alone, anything else scores zero.
                right = case["pred"].strip() == case["ground_truth"]
                assert answer.score == float(right)


# ---- lmms-eval's own function ----


def predictions(strategies):
    """Texts that models write, near-misses of them, and any text at all."""
    numbers = strategies.one_of(
        strategies.integers(-5, 10_000).map(str),
        strategies.floats(0, 1e4, allow_nan=False).map(lambda x: f"{x:.2f}"),
        strategies.sampled_from(["0.5", ".5", "1,000", "1e3", "-3", "٣", "１２", "inf", "nan", "1_000", "2.", "0"]),
    )
    words = strategies.lists(
        strategies.sampled_from(
            ["zero", "one", "two", "eleven", "twenty", "ninety", "hundred", "thousand", "million", "and", "box"]
        ),
        max_size=6,
    ).map(" ".join)
    letters = strategies.sampled_from(["A", "b", "C.", "(D)", "A.chair", "A. chair", "\nB", " A", "D\n", "ſ", "ı"])
    part = strategies.one_of(numbers, words, letters, strategies.text(max_size=8))
    return strategies.lists(part, max_size=4).map(" ".join) | part


def test_parity_with_the_function_of_lmms_eval_on_generated_predictions(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    pytest.importorskip("hypothesis.configuration").set_hypothesis_home_dir(tmp_path)
    theirs = pytest.importorskip("lmms_eval.tasks.vsibench.utils")
    strategies = hypothesis.strategies
    truths = strategies.one_of(
        strategies.integers(1, 500).map(str),
        strategies.floats(0.01, 500, allow_nan=False).map(lambda x: f"{x:.2f}").filter(lambda x: float(x) != 0),
    )

    @hypothesis.settings(max_examples=1500, deadline=None, database=None, derandomize=True)
    @hypothesis.given(predictions(strategies), truths, strategies.sampled_from("ABCD"), strategies.data())
    def compare(prediction, number, letter, data):
        kind = data.draw(strategies.sampled_from(QUESTION_TYPES))
        truth = number if kind in theirs.NA_QUESTION_TYPES else letter
        if data.draw(strategies.booleans()) and kind in theirs.NA_QUESTION_TYPES:
            # Answers exactly on a threshold, whose last bit decides.
            factor = data.draw(strategies.integers(0, 40)) / 20
            prediction = repr(float(number) * factor)
        doc = {"question_type": kind, "ground_truth": truth}
        theirs.vsibench_process_results(doc, [prediction])
        expected = doc["accuracy" if kind in theirs.MCA_QUESTION_TYPES else "MRA:.5:.95:.05"]
        assert score_vsi_answer(prediction, truth, kind, "lmms-eval").score == expected
        assert parse_number(prediction) == theirs.extract_number(prediction)

    compare()


def test_parity_with_the_averages_of_lmms_eval():
    theirs = pytest.importorskip("lmms_eval.tasks.vsibench.utils")
    rng = np.random.default_rng(0)
    kinds = [str(kind) for kind in rng.choice(QUESTION_TYPES, 400)]
    truths = [str(rng.integers(1, 9)) if kind in theirs.NA_QUESTION_TYPES else "A" for kind in kinds]
    answers = [str(rng.integers(1, 9)) if truth != "A" else str(rng.choice(["A", "B"])) for truth in truths]
    docs = [{"question_type": kind, "ground_truth": truth} for kind, truth in zip(kinds, truths, strict=True)]
    for doc, answer in zip(docs, answers, strict=True):
        theirs.vsibench_process_results(doc, [answer])
    assert round(score_vsi_bench(answers, truths, kinds).scores.macro.value, 6) == theirs.vsibench_aggregate_overall(
        docs
    )


# ---- what is counted, refused, estimated ----


@pytest.mark.parametrize("protocol", RECORDED)
def test_empty_and_odd_answers_score_zero_and_are_counted(protocol):
    answers = ["", None, "  \n", "\x00", "I cannot tell", "4", "A"]
    kinds = ["object_counting", "route_planning"] * 3 + ["route_planning"]
    truths = ["4" if kind == "object_counting" else "B" for kind in kinds]
    scores = score_vsi_bench(answers, truths, kinds, protocol)
    assert scores.scores.micro.value == 0
    assert scores.num_empty == 3
    assert scores.answers[4].unreadable  # no number in it
    assert not scores.answers[6].unreadable  # wrong, but an answer


@pytest.mark.parametrize("protocol", RECORDED)
@pytest.mark.parametrize("prediction", ["hundred " * 160, 4, 0, 4.0, ["4"]])
def test_words_for_too_large_a_number_and_what_is_no_text_score_zero_and_are_odd(protocol, prediction):
    for truth, kind in (("4", "object_counting"), ("0", "object_counting"), ("A", "route_planning")):
        if kind == "route_planning" and isinstance(prediction, str):
            continue  # the published protocol reads its first letter
        answer = score_vsi_answer(prediction, truth, kind, protocol)
        assert answer.score == 0 and answer.unreadable and not answer.empty


def test_the_engine_survives_words_for_too_large_a_number():
    theirs = pytest.importorskip("lmms_eval.tasks.vsibench.utils")
    doc = {"question_type": "object_counting", "ground_truth": "4"}
    process = forgiving(theirs.vsibench_process_results)
    assert process(doc, ["hundred " * 160]) and doc["MRA:.5:.95:.05"] == 0
    assert process(doc, ["4"]) and doc["MRA:.5:.95:.05"] == 1


def test_what_cannot_be_scored_is_refused_by_name():
    with pytest.raises(ValueError, match="question_type.*'object_colour'"):
        score_vsi_answer("4", "4", "object_colour")
    with pytest.raises(ValueError, match="protocol.*'strict'"):
        score_vsi_answer("4", "4", "object_counting", "strict")
    with pytest.raises(ValueError, match=r"one length.*\[1, 2\]"):
        score_vsi_bench(["4", "5"], ["4"], ["object_counting"])


def test_the_protocols_average_directions_and_missing_types_each_in_its_own_way():
    kinds = [f"{DIRECTION}_easy", f"{DIRECTION}_hard", f"{DIRECTION}_hard", f"{DIRECTION}_hard", "object_counting"]
    answers, truths = ["A", "B", "B", "B", "2"], ["A", "A", "A", "A", "2"]
    lmms = score_vsi_bench(answers, truths, kinds, "lmms-eval").scores
    published = score_vsi_bench(answers, truths, kinds, "published").scores
    assert lmms.types[DIRECTION].value == 0.5 and lmms.macro.value == 0.75
    assert published.types[DIRECTION].value == 0.25 and published.macro.value == 1.25 / 8
    assert lmms.micro.value == published.micro.value == 0.4
    assert len(lmms.missing_types) == 6 and lmms.types[DIRECTION].count == 4


def answers_to_choices(rng, count):
    return [str(letter) for letter in rng.choice(["A", "B"], count)]


def test_intervals_have_the_width_that_theory_gives_and_repeat_with_their_seed():
    answers = answers_to_choices(np.random.default_rng(0), 2000)
    arguments = (answers, ["A"] * 2000, ["route_planning"] * 2000)
    scores = score_vsi_bench(*arguments, bootstrap=Bootstrap(replicates=4000)).scores
    p = scores.micro.value
    width = 2 * 1.96 * math.sqrt(p * (1 - p) / 2000)
    assert scores.micro.high - scores.micro.low == pytest.approx(width, rel=0.06)
    assert scores.micro.low < p < scores.micro.high
    again = score_vsi_bench(*arguments, bootstrap=Bootstrap(replicates=4000)).scores
    other = score_vsi_bench(*arguments, bootstrap=Bootstrap(replicates=4000, seed=1)).scores
    assert again.to_dict() == scores.to_dict() and other.micro != scores.micro


def test_asking_every_scene_the_same_question_again_makes_no_interval_narrower():
    answers = answers_to_choices(np.random.default_rng(0), 60)
    kinds = ["route_planning"] * 30 + ["obj_appearance_order"] * 30
    scenes = [f"scene{index % 30}" for index in range(60)]
    once = score_vsi_bench(answers, ["A"] * 60, kinds, clusters=scenes).scores
    often = score_vsi_bench(answers * 5, ["A"] * 300, kinds * 5, clusters=scenes * 5).scores
    assert (often.macro.low, often.macro.high) == pytest.approx((once.macro.low, once.macro.high))
    alone = score_vsi_bench(answers * 5, ["A"] * 300, kinds * 5).scores
    assert alone.macro.high - alone.macro.low < 0.7 * (often.macro.high - often.macro.low)
