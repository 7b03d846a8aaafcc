# ruff: noqa: F811  (fixtures come from evaluation_runs)
"""Tasks that only lmms-eval knows, on made data in their public layouts, with a random model on the CPU."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from evaluation_runs import caches, mini, save_random_checkpoint  # noqa: F401
from PIL import Image


pytest.importorskip("lmms_eval")
pytest.importorskip("av")
pytest.importorskip("embreex")

from lmms_eval.api.task import ConfigurableMessagesTask  # noqa: E402
from lmms_eval.utils import load_yaml_config  # noqa: E402

from geovr_hf.evaluation import Bootstrap, task_loading  # noqa: E402
from geovr_hf.evaluation.run import EvaluationSettings, evaluate_model  # noqa: E402
from geovr_hf.evaluation.scoring import score_samples  # noqa: E402


@pytest.fixture
def run_task(tmp_path_factory, tmp_path, monkeypatch, mini):
    """Runs a task of lmms-eval, its data replaced by rows, on all views; gives its results and the report."""

    def run(name, file, rows, num_frames=2, **config):
        data = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data)
        local = {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(data)}},
        }
        engine = load_yaml_config(str(task_loading.ENGINE_TASKS / file))
        task = ConfigurableMessagesTask(config=engine | local | {"test_split": "test"} | config, model_name="geovr")
        monkeypatch.setattr(task_loading, "_engine_tasks", lambda _: {name: task})
        checkpoint = save_random_checkpoint(tmp_path / "checkpoint")
        settings = EvaluationSettings(checkpoint, (name,), num_frames=num_frames, generation={"max_new_tokens": 1})
        trained_on = (str(mini / "test.jsonl"),)
        evaluate_model(settings, tmp_path / "out", device="cpu", trained_on=trained_on)
        # Strict JSON: NaN is none.
        results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
        return results["tasks"][name], (tmp_path / "out" / "report.md").read_text()

    return run


def test_a_task_of_pictures_has_its_average_no_nan_and_no_shuffled_view(run_task):
    def picture(seed):
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()

    kinds = ["Motion (Cam.)", "Motion (Cam.)", "Attribute (Appr.)"]
    rows = [
        {"id": number, "images": [picture(2 * number), picture(2 * number + 1)], "question_type": kind}
        | {"question": "Which? A: x, B: y", "answer": "A", "thought": ""}
        for number, kind in enumerate(kinds)
    ]
    task, report = run_task("mmsi_bench", "mmsi_bench/msr_bench.yaml", rows)
    seen = task["views"]["seen"]
    assert seen["headline"]["value"] == seen["engine"]["average"]
    assert seen["headline"]["low"] is None and seen["headline"]["high"] is None
    assert seen["num_empty"] == 0
    assert task["scorer"] == "lmms-eval's own average"
    assert [*task["blind"]] == ["black"] and task["left_out"] == ["shuffled"]
    assert "The shuffled clip was left out" in report
    # Which scenes its pictures show is not known, and the report does not pass over that.
    assert task["scene_overlap"] is None and "Scenes: not checked" in report


def test_revsi_compares_its_scenes_and_counts_odd_answers(run_task, mini):
    docs = [json.loads(line) for line in (mini / "test.jsonl").read_text().splitlines()]
    known = ("object_abs_distance", "object_size_estimation", "route_planning")
    rows = [
        {"id": doc["id"], "scene_id": doc["scene_name"], "num_frames": "16", "question_type": doc["question_type"]}
        | {"question": doc["question"], "options": doc["options"], "ground_truth": doc["ground_truth"]}
        for doc in docs
        if doc["question_type"] in known
    ]
    task, report = run_task(
        "revsi_16_frame", "revsi/revsi_16_frame.yaml", rows, num_frames=16,
        doc_to_messages=None, doc_to_visual=lambda doc: [str(mini / "scannet" / f"{doc['scene_id']}.mp4")],
    )  # fmt: skip
    assert task["scene_overlap"]["affected_questions"] == len(rows)
    assert "5 of 5 test scenes were trained on" in report
    seen = task["views"]["seen"]
    assert seen["num_empty"] == 0
    assert f"0 answers are empty, {seen['num_unreadable']} unreadable; they score 0." in report
    assert [*task["blind"]] == ["black", "shuffled"]


@pytest.mark.parametrize(
    ("names", "headline"),
    [
        (("Motion (Cam.)", "MSR", "average"), "average"),
        (("camera_accuracy", "overall_accuracy"), "overall_accuracy"),
        (("easy_acc", "overall_easy_acc", "overall"), "overall"),
        (("exact_match", "coverage"), "exact_match"),
    ],
)
def test_the_number_of_a_task_is_its_average_and_else_the_first(names, headline):
    engine = {f"{name},none": number / 10 for number, name in enumerate(names)}
    samples = [{"doc_id": 0, "target": "A", "filtered_resps": ["A"]}]
    scores = score_samples("some_task", samples, engine, Bootstrap(10), "lmms-eval")
    assert scores.headline.value == engine[f"{headline},none"]
    assert scores.scorer == f"lmms-eval's own {headline}"


def test_odd_answers_of_revsi_are_those_that_lmms_eval_could_not_score():
    theirs = pytest.importorskip("lmms_eval.tasks.revsi.utils")
    number, letter = "object_abs_distance", "object_rel_distance_closest"
    answers = [("", number), ("3 m", number), ("three", number), ("B.", letter), ("the left", letter), (" ", letter)]
    samples = []
    for doc_id, (answer, kind) in enumerate(answers):
        doc = {"question_type": kind, "scene_id": "a", "ground_truth": "3" if kind == number else "B"}
        logged = {"doc_id": doc_id, "target": doc["ground_truth"], "filtered_resps": [answer]}
        samples.append(logged | theirs.revsi_process_results(doc, [answer]))
    scores = score_samples("revsi_16_frame", samples, {}, Bootstrap(10), "lmms-eval")
    assert scores.counts == {"num_empty": 2, "num_unreadable": 2}
    assert [row["score"] for row in scores.samples] == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("task", "doc"),
    [
        ("vstibench", {"question_type": "obj_obj_relative_pos_lr", "mc_answer": "B", "video_path": "a.mp4"}),
        ("stibench", {"Task": "Speed", "Answer": "B", "Video": "a.mp4"}),
        ("dsrbench", {"type": "abs_dis", "answer": "B", "videoID": "a"}),
        ("vstibench", {"question_type": "camera_displacement", "ground_truth": "2", "video_path": "a.mp4"}),
    ],
)
def test_our_benchmarks_count_empty_and_odd_answers(task, doc):
    right, odd = ("2 m", "B") if doc.get("ground_truth") else ("(B)", "left")
    samples = [
        {"doc_id": number, "doc": doc, "target": "", "filtered_resps": [answer]}
        for number, answer in enumerate([right, odd, "", "hundred " * 160])
    ]
    scores = score_samples(task, samples, {}, Bootstrap(10), "lmms-eval")
    assert scores.counts == {"num_empty": 1, "num_unreadable": 2}
    assert [row["score"] for row in scores.samples] == [1, 0, 0, 0]
