"""The study from rooms to report, very small: an arm that was stopped goes on, and answers are those of generation."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F


pytest.importorskip("embreex")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from study import __main__ as study  # noqa: E402
from study.answers import answer  # noqa: E402
from study.flat_questions import Sight, ask_flat_questions  # noqa: E402
from study.grounding import COLUMN, GroundingTrainer  # noqa: E402
from study.rooms import NAMING, StoredRooms, WarmUpRows  # noqa: E402
from study.settings import TINY  # noqa: E402
from study.student import make_processor, make_student  # noqa: E402
from study.training import make_arm, make_trainer, train  # noqa: E402

from geovr_hf.data.rooms.furniture import CATEGORIES  # noqa: E402
from geovr_hf.trainers.evaluation import answer_questions  # noqa: E402


PICTURES = ("types_test", "types_shifted", "learning_curves", "probes", "depth", "camera_paths")


def test_the_study_runs_from_rooms_to_report(tmp_path):
    assert study.run_tiny(tmp_path) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert all(f"| {arm} |" in report for arm in ("language", "all", "scale"))
    assert all((tmp_path / "report" / f"{name}.png").stat().st_size > 0 for name in PICTURES)

    language, everything = (
        json.loads((tmp_path / "results" / f"{arm}-0.json").read_text()) for arm in ("language", "all")
    )
    assert language["warm_up"] == everything["warm_up"]
    # All arms read the same clips and questions in the same order: their first loss, before any step, is the same.
    assert language["history"][0]["lm_loss"] == pytest.approx(everything["history"][0]["lm_loss"], rel=1e-4)
    assert [entry["step"] for entry in everything["history"]] == [1, 2, 3]  # stopped after the first, and gone on with
    ids = {name: [one["id"] for one in found] for name, found in everything["answers"].items()}
    assert ids["test/clip"] == ids["test/black"] and len(ids["test/clip"]) == TINY.test_rooms * TINY.questions_per_room
    assert len(everything["probes"]["depth"]) == TINY.student["num_layers"] + 1

    # An arm that was cut off after its last step is evaluated; arms that have a result are passed over.
    (tmp_path / "results" / "all-0.json").unlink()
    common = ["--small", "--data", str(tmp_path), "--out", str(tmp_path / "results"), "--workers", "0"]
    assert study.main(["run", "all:0", *common, "--minutes", "0"]) == 0
    again = json.loads((tmp_path / "results" / "all-0.json").read_text())
    for name in ("answers", "geometry", "probes", "curve", "history"):  # in text, where NaN is NaN
        first, second = (json.dumps(result[name], sort_keys=True) for result in (everything, again))
        assert first == second, name
    assert study.main(["run", "all:0", "language:0", *common, "--minutes", "0"]) == 0

    trainer, _ = train(TINY, "start", 0, tmp_path / "rooms", tmp_path / "models", 0, 0)
    rooms = StoredRooms(tmp_path / "rooms" / "test")
    collate = trainer.data_collator.for_answering(geometry_tokens=True)
    generated = answer_questions(
        trainer.model, trainer.processing_class.tokenizer, [collate([rooms[i] for i in range(len(rooms))])],
        trainer.accelerator, max_new_tokens=5, show_progress=False,
    )  # fmt: skip
    assert [one["prediction"] for one in answer(trainer, rooms, 0)] == [one.prediction for one in generated]


def test_the_warm_up_names_and_asks_about_frames_and_clips(tmp_path):
    study.main(["render", "warm-up", "--small", "--data", str(tmp_path), "--workers", "1"])
    rows = WarmUpRows(tmp_path / "rooms" / "warm-up")
    found = {}
    for index in range(len(rows)):
        clip, question = rows[index]["messages"][0]["content"]
        kind = "name" if question["text"] == NAMING else "ask"
        found.setdefault((len(clip["video"]), kind), set()).add(rows.clip_key(index))
    clips, frames = {(room, None) for room in range(TINY.warm_rooms)}, TINY.warm_rooms * TINY.num_frames
    assert found[TINY.num_frames, "name"] == found[TINY.num_frames, "ask"] == clips
    assert len(found[1, "name"]) == frames and len(found[1, "ask"]) > frames / 2
    assert found.keys() == {(1, "name"), (1, "ask"), (TINY.num_frames, "name"), (TINY.num_frames, "ask")}


def test_questions_about_pictures_are_right():
    frames = [[Sight("chair", 0.2, 0.1), Sight("bed", 0.81, 0.3)], [Sight("lamp", 0.5, 0.02), Sight("bed", 0.6, 0.2)]]
    asked = ask_flat_questions(frames, np.random.default_rng(0), 12)
    said = {
        question.text: dict(option.split(". ") for option in question.options)[question.answer]
        if question.options
        else question.answer
        for question in asked
    }
    truths = {
        "Which comes into view first, the chair or the lamp?": "chair",
        "In the picture at 0.0 seconds, is the bed to the left or to the right of the chair?": "right",
        "Which covers more of the picture at 0.5 seconds, the bed or the lamp?": "bed",
        "At how many seconds does the lamp come into view first?": "0.5",
        "Where in the picture at 0.0 seconds are these, from 0 (left) to 9 (right): bed, chair?": "8 2",
        "Where in the picture at 0.0 seconds are these, from 0 (left) to 9 (right): chair, bed?": "2 8",
    }
    assert {text: said[text] for text in truths if text in said} == {t: a for t, a in truths.items() if t in said}
    assert len(truths.keys() & said.keys()) >= 2
    alone = ask_flat_questions(frames[:1], np.random.default_rng(0), 6)
    assert not any("seconds" in question.text for question in alone)


def test_arms_go_on_being_asked_about_pictures(tmp_path):
    common = ["--small", "--data", str(tmp_path), "--workers", "1"]
    asked = ["--rehearsed-questions", "3"]
    study.main(["render", "warm-up", "train", *common, *asked])
    settings = replace(TINY, rehearsed_questions=3)
    (tmp_path / "models" / "warm-up").mkdir(parents=True)
    student = make_student(settings, "language", 0, make_processor(settings, tmp_path / "rooms"))
    student.save_pretrained(tmp_path / "models" / "warm-up")
    trainer = make_arm(settings, "language", 0, tmp_path / "rooms", tmp_path / "models", 1, 0)
    layout = next(iter(trainer.get_train_dataloader()))["layout"]
    assert [len(questions) for questions in layout.question_lengths] == [11, 11]  # 8 and 3 to a clip
    kinds = [trainer.train_dataset[index]["question_type"] for index in range(11)]
    assert sum(kind.startswith("picture") for kind in kinds) == 3
    with pytest.raises(ValueError, match="other settings"):
        study.main(["render", "train", *common])


def test_rooms_that_are_not_rendered_are_missed(tmp_path):
    study.main(["render", "test", "--small", "--data", str(tmp_path), "--workers", "1"])
    (tmp_path / "rooms" / "test" / "words-000000.jsonl").unlink()
    with pytest.raises(ValueError, match="0 of 2 rooms"):
        StoredRooms(tmp_path / "rooms" / "test")
    with pytest.raises(ValueError, match="other settings"):
        study.main(["render", "test", "--small", "--test-rooms", "3", "--data", str(tmp_path), "--workers", "1"])


def test_each_visual_token_learns_what_it_shows_itself(tmp_path):
    common = ["--small", "--data", str(tmp_path), "--workers", "1"]
    study.main(["render", "warm-up", *common])
    rooms = WarmUpRows(tmp_path / "rooms" / "warm-up")
    shown = rooms.arrays()[COLUMN]
    assert len(np.unique(shown[..., 0])) > 5
    for room in range(TINY.warm_rooms):
        for frame, names in enumerate(rooms.names(room)):
            found = {("nothing", *CATEGORIES)[word] + str(place) for word, place in shown[room, frame].reshape(-1, 2)}
            assert found - {"nothing0"} <= set(names.split(" "))

    processor = make_processor(TINY, tmp_path / "rooms")
    trainer = make_trainer(
        TINY, tmp_path / "run", make_student(TINY, "language", 0, processor), processor, rooms, 0, 1, 0,
        GroundingTrainer, per_device_train_batch_size=4, max_questions_per_clip=4,
    )  # fmt: skip
    # Frames alone and whole clips, with one question or some, in one batch.
    keys = [rooms.clip_key(index) for index in range(len(rooms))]
    chosen = [(0, 1, 1), (1, None, 2), (0, 2, 2), (2, None, 1)]
    rows = [[rooms[i] for i, key in enumerate(keys) if key == (room, frame)][:count] for room, frame, count in chosen]
    batch = trainer.data_collator.for_packing()([row for group in rows for row in group])
    shown = np.concatenate([group[0][COLUMN].reshape(-1, 2) for group in rows])
    words, places = torch.from_numpy(shown).long().unbind(-1)

    vectors = trainer._vectors()
    truth = vectors[words] + vectors[-10:][places]

    def show_the_truth(module, inputs, output):
        assert len(output.pooler_output) == len(truth)
        trainer._tokens = truth

    trainer.model.model.visual.register_forward_hook(show_the_truth)
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    language = trainer.model(**{name: value for name, value in batch.items() if name != COLUMN}).loss.item()
    logits = F.rms_norm(truth, truth.shape[-1:]) @ vectors.T
    seen = words > 0
    expected = F.cross_entropy(logits[:, :-10], words) + F.cross_entropy(logits[seen, -10:], places[seen])
    assert loss - language == pytest.approx(expected.item(), rel=1e-3)
