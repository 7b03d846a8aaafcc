# ruff: noqa: F811  (fixtures come from evaluation_runs)
"""`geovr evaluate` on a miniature VSI-Bench in the public layout, end to end through lmms-eval, on the CPU."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from clip_files import write_video
from evaluation_runs import (  # noqa: F401
    MINI,
    caches,
    mini,
    num_journalled,
    samples,
    save_random_checkpoint,
    settings_for,
)
from forked_client import Client
from hub_server import HubServer
from huggingface_hub import ModelCard
from tiny import tiny_config, tiny_processor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from geovr_hf.cli import main
from geovr_hf.data import read_clip
from geovr_hf.evaluation import Bootstrap
from geovr_hf.evaluation.journal import AnswerJournal
from geovr_hf.evaluation.views import VIEWS
from geovr_hf.hub_cards.markdown import plain


pytest.importorskip("lmms_eval")
pytest.importorskip("av")
pytest.importorskip("embreex")

from geovr_hf.evaluation import lmms_model, run  # noqa: E402
from geovr_hf.evaluation.lmms_model import GeoVRBenchmarkModel, generation_options  # noqa: E402
from geovr_hf.evaluation.report import card_records  # noqa: E402
from geovr_hf.evaluation.run import EvaluationSettings, evaluate_model  # noqa: E402
from geovr_hf.evaluation.scoring import score_samples  # noqa: E402
from geovr_hf.evaluation.tasks.vsi_family import PROMPTS  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save_random_checkpoint(tmp_path_factory.mktemp("geovr"))


@pytest.fixture(scope="module")
def finished(checkpoint, mini, tmp_path_factory):
    """A whole run by the command, and its folder."""
    out = tmp_path_factory.mktemp("runs") / "eval"
    words = ["evaluate", checkpoint, "--tasks", "vsibench", "--data", f"vsibench={mini}", "--out", str(out)]
    words += ["--frames", "4", "--batch-size", "4", "--max-new-tokens", "1", "--device", "cpu"]
    assert main([*words, "--trained-on", str(mini / "test.jsonl")]) == 0
    return out, json.loads((out / "results.json").read_text())


class TestRun:
    def test_the_engine_and_our_scorer_agree_and_intervals_hold_the_score(self, finished):
        seen = finished[1]["tasks"]["vsibench"]["views"]["seen"]
        scores = seen["scorers"]["lmms-eval"]
        assert scores["num_questions"] == 50 and scores["num_clusters"] == 5 and scores["missing_types"] == []
        assert scores["macro"]["value"] > 0
        assert seen["engine"]["vsibench_overall"] == round(scores["macro"]["value"], 6)
        for kind, estimate in scores["types"].items():
            theirs = next(value for name, value in seen["engine"].items() if name.startswith(kind))
            assert theirs == round(estimate["value"], 6)
            assert estimate["low"] <= estimate["value"] <= estimate["high"]

    def test_results_tell_prompt_frames_decoding_scorer_and_versions(self, finished, checkpoint):
        out, results = finished
        task = results["tasks"]["vsibench"]
        assert task["prompt_example"].startswith("These are frames of a video.\nWhat")
        assert task["generation"]["do_sample"] is False and task["generation"]["max_new_tokens"] == 1
        assert task["scorer"] == "VSI-Bench's protocol lmms-eval"
        assert results["frames"]["frames_per_question"] == [4, 4]
        assert results["model"]["name"] == checkpoint and results["model"]["kind"] == "geovr"
        assert {"lmms-eval", "transformers", "torch"} <= results["versions"].keys()
        assert results["settings"]["seed"] == 0
        assert {"report.md", "card.json", "vsibench.png"} <= {path.name for path in out.iterdir()}

    def test_the_blind_check_asks_the_same_questions_and_reports_what_survives(self, finished):
        out, results = finished
        by_view = {view: [row["answer"] for row in samples(out, view)] for view in VIEWS}
        assert by_view["seen"] != by_view["black"] and by_view["seen"] != by_view["shuffled"]
        scenes = [row["scene"] for row in samples(out, "black")]
        assert scenes == [row["scene"] for row in samples(out)]
        seen = results["tasks"]["vsibench"]["views"]["seen"]["headline"]["value"]
        for check in results["tasks"]["vsibench"]["blind"].values():
            assert check["survives"] == pytest.approx(check["score"] / seen)
            assert check["gain"]["value"] == pytest.approx(seen - check["score"])
            assert check["gain"]["low"] <= check["gain"]["value"] <= check["gain"]["high"]
        report = (out / "report.md").read_text()
        assert "With black frames," in report and "With shuffled clip," in report

    def test_clips_of_one_frame_are_not_shuffled_and_the_report_says_so(self, checkpoint, mini, tmp_path):
        results = evaluate_model(settings_for(checkpoint, mini, num_frames=1, limit=2), tmp_path / "out", device="cpu")
        task = results["tasks"]["vsibench"]
        assert [*task["views"]] == ["seen", "black"] and [*task["blind"]] == ["black"]
        report = (tmp_path / "out" / "report.md").read_text()
        assert "The shuffled clip was left out" in report and "With shuffled clip" not in report

    def test_numbers_that_are_undefined_are_null(self, checkpoint, mini, tmp_path):
        settings = settings_for(checkpoint, mini, limit=2, views=("seen",))
        results = evaluate_model(settings, tmp_path / "out", device="cpu", bootstrap=Bootstrap(replicates=0))
        assert results["tasks"]["vsibench"]["views"]["seen"]["headline"]["low"] is None
        assert json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail) == results

    def test_scenes_that_were_trained_on_are_told(self, finished):
        overlap = finished[1]["tasks"]["vsibench"]["scene_overlap"]
        assert len(overlap["shared"]) == 5 and overlap["affected_questions"] == 50
        assert "5 of 5 test scenes were trained on" in (finished[0] / "report.md").read_text()

    def test_pushed_results_stand_on_the_card_with_their_conditions(self, finished, checkpoint, tmp_path):
        out, results = finished
        folder = shutil.copytree(checkpoint, tmp_path / "model")
        command = ["push", str(folder), "me/model", "--results", str(out / "card.json")]
        with HubServer(tmp_path / "hub") as hub:
            program = "import sys; from geovr_hf.cli import main; sys.exit(main(sys.argv[1:]))"
            hub.run(program, *command, home=tmp_path / "home of the pusher")
            card = ModelCard(hub.files("me/model", "models")["README.md"].decode())
        seen = results["tasks"]["vsibench"]["views"]["seen"]["scorers"]
        found = {(r.metric_args["protocol"], r.metric_type, r.dataset_config): r for r in card.data.eval_results}
        assert len(found) == len(card.data.eval_results) == 2 * (1 + 2 + 8)
        decoding = {"do_sample": False, "max_new_tokens": 1, "dtype": "float32"}
        for protocol, scores in seen.items():
            result = found[protocol, "macro_accuracy", None]
            assert result.metric_value == scores["macro"]["value"]
            assert (result.dataset_name, result.dataset_type) == ("VSI-Bench", "nyu-visionx/VSI-Bench")
            assert result.dataset_split == "test"
            assert result.metric_args["prompt"] == "the task's own"
            assert result.metric_args["frames"] == "4, equally spaced by presentation time"
            assert result.metric_args["decoding"].items() >= decoding.items()
            assert result.metric_args["scorer"].startswith(f"geovr_hf {results['versions']['geovr_hf']} on lmms-eval")
            interval = [scores["macro"]["low"], scores["macro"]["high"]]
            assert result.metric_args["confidence_interval_95"] == interval
            blind = results["tasks"]["vsibench"]["views"]["black"]["scorers"][protocol]["macro"]["value"]
            assert found[protocol, "macro_score_on_black_frames", None].metric_value == blind
            count = found[protocol, "accuracy", "object_counting"]
            assert count.metric_value == scores["types"]["object_counting"]["value"]
            assert f"{plain(interval[0])} to {plain(interval[1])}" in card.text
        assert str(out.parent) not in str(card)

    def test_a_part_of_the_questions_does_not_stand_for_the_benchmark_on_a_card(self, finished):
        results = finished[1] | {"settings": finished[1]["settings"] | {"limit": 50, "system_prompt": "Be brief."}}
        for record in card_records(results):
            assert record.split == "test[:50]" and record.prompt.endswith("'Be brief.'")

    def test_an_interval_that_misses_its_mean_by_a_rounding_enters_the_card(self, finished):
        results = copy.deepcopy(finished[1])
        macro = results["tasks"]["vsibench"]["views"]["seen"]["scorers"]["lmms-eval"]["macro"]
        macro |= {"value": 0.1 + 0.2, "low": 0.3, "high": 0.3}
        assert card_records(results)[0].ci == [0.3, 0.1 + 0.2]

    def test_what_lmms_eval_alone_scores_enters_the_card_without_what_is_no_number(self, finished):
        results = copy.deepcopy(finished[1])
        for value, scores in zip((0.5, 0.25, 0.125), results["tasks"]["vsibench"]["views"].values(), strict=True):
            scores |= {"scorers": {}, "engine": {"acc": value, "acc_hard": None}}
        found = {record.metric: record.value for record in card_records(results)}
        assert found == {"acc": 0.5, "acc_on_black_frames": 0.25, "acc_on_shuffled_clip": 0.125}

    def test_a_finished_run_is_not_run_again_and_another_is_refused(self, finished, checkpoint, mini, tmp_path):
        out = shutil.copytree(finished[0], tmp_path / "copy")
        before = num_journalled(out)
        results = evaluate_model(settings_for(checkpoint, mini), out, device="cpu")
        assert num_journalled(out) == before == 150
        assert results["tasks"]["vsibench"]["views"] == finished[1]["tasks"]["vsibench"]["views"]
        with pytest.raises(ValueError, match="another run: num_frames 4, now 6.*--overwrite"):
            evaluate_model(settings_for(checkpoint, mini, num_frames=6), out, device="cpu")

    def test_a_stopped_run_goes_on_and_ends_with_the_same_results(self, finished, checkpoint, mini, tmp_path):
        out = shutil.copytree(finished[0], tmp_path / "stopped")
        (journal,) = (out / "answers").iterdir()
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:70]) + lines[70][:25])  # killed while it wrote
        (out / "results.json").unlink()
        results = evaluate_model(settings_for(checkpoint, mini), out, device="cpu")
        assert journal.read_bytes().splitlines(keepends=True)[:70] == lines[:70]
        assert num_journalled(out) == 150
        assert results["tasks"] == {"vsibench": {k: v for k, v in finished[1]["tasks"]["vsibench"].items()
                                                 if k != "scene_overlap"}}  # fmt: skip

    def test_a_model_that_was_trained_on_since_is_another_run(self, finished, checkpoint, mini, tmp_path):
        out = shutil.copytree(finished[0], tmp_path / "copy")
        trained = shutil.copytree(checkpoint, tmp_path / "trained")
        os.utime(trained / "model.safetensors", (1, 1))
        with pytest.raises(ValueError, match="another run: model "):
            evaluate_model(settings_for(str(trained), mini), out, device="cpu")

    def test_another_chat_template_is_another_run_and_asks_all_anew(self, checkpoint, mini, tmp_path):
        edited, out = shutil.copytree(checkpoint, tmp_path / "edited"), tmp_path / "out"
        settings = settings_for(str(edited), mini, views=("seen",), limit=2)
        evaluate_model(settings, out, device="cpu")
        template = edited / "chat_template.jinja"
        template.write_text("Be terse. " + template.read_text())
        with pytest.raises(ValueError, match="another run: model_files .*chat_template.jinja"):
            evaluate_model(settings, out, device="cpu")
        # Even if the files are taken for the same ones, answers belong to what the model read.
        begun = json.loads((out / "run.json").read_text()) | {"model_files": run._model_files(str(edited))}
        (out / "run.json").write_text(json.dumps(begun))
        evaluate_model(settings, out, device="cpu")
        assert num_journalled(out) == 4

    def test_a_model_of_the_hub_is_the_same_while_its_commit_is(self, monkeypatch):
        config = SimpleNamespace(_commit_hash="0123abcd")
        monkeypatch.setattr(run.AutoConfig, "from_pretrained", lambda name: config)
        assert run._model_files("someone/some-model") == "0123abcd"


def plain_export(checkpoint: str, folder: Path) -> str:
    """The checkpoint as plain Qwen3-VL, saved as transformers saves it."""
    config = tiny_config()
    shared = {name: getattr(config, name) for name in config.to_dict() if hasattr(Qwen3VLConfig, name)}
    parts = {"text_config": config.text_config.to_dict(), "vision_config": config.vision_config.to_dict()}
    plain = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**{**shared, **parts}))
    from geovr_hf import GeoVRForConditionalGeneration

    geovr = GeoVRForConditionalGeneration.from_pretrained(checkpoint)
    assert not plain.load_state_dict(geovr.state_dict(), strict=False).missing_keys
    plain.generation_config = geovr.generation_config
    plain.save_pretrained(folder)
    made = tiny_processor()
    Qwen3VLProcessor(
        made.image_processor, made.tokenizer, made.video_processor, chat_template=made.chat_template
    ).save_pretrained(folder)
    return str(folder)


class TestModels:
    def answers(self, checkpoint, mini, out, **fields):
        settings = settings_for(checkpoint, mini, views=("seen",), limit=12, **fields)
        results = evaluate_model(settings, out, device="cpu")
        return [row["answer"] for row in samples(out)], results

    def test_a_plain_export_answers_as_the_checkpoint_does_and_has_no_geometry_tokens(
        self, checkpoint, mini, finished, tmp_path
    ):
        export = plain_export(checkpoint, tmp_path / "export")
        answers, results = self.answers(export, mini, tmp_path / "out")
        assert answers == [row["answer"] for row in samples(finished[0])][:12]
        assert results["model"]["kind"] == "qwen3_vl"
        # Some types have no questions among the first: lmms-eval's own averages would raise, ours name them.
        assert results["tasks"]["vsibench"]["views"]["seen"]["scorers"]["lmms-eval"]["missing_types"]
        assert results["tasks"]["vsibench"]["blind"] == {}
        with pytest.raises(ValueError, match="has no geometry tokens"):
            evaluate_model(settings_for(export, mini, geometry_tokens=True, limit=2), tmp_path / "other", device="cpu")

    def test_geometry_tokens_and_frame_sizes_change_what_the_model_reads(self, checkpoint, mini, tmp_path):
        plain = self.answers(checkpoint, mini, tmp_path / "plain", batch_size=1)[1]["frames"]["prompt_tokens"]
        closed = self.answers(checkpoint, mini, tmp_path / "closed", batch_size=1, geometry_tokens=True)[1]
        small = self.answers(checkpoint, mini, tmp_path / "small", batch_size=1, tokens_per_frame=2)[1]
        # Frames of 64 x 96 pixels are 6 tokens. Four make two temporal patches, or four with a camera token each; at
        # most 2 tokens leave one, since sides are multiples of 32 pixels.
        assert closed["frames"]["prompt_tokens"][0] > plain[0] + 12
        assert small["frames"]["prompt_tokens"] == [tokens - 10 for tokens in plain]

    @pytest.mark.parametrize("geometry_tokens", [False, True])
    def test_questions_that_share_a_clip_are_answered_as_if_each_stood_alone(
        self, checkpoint, mini, tmp_path, geometry_tokens, monkeypatch
    ):
        read = []

        def counting(path, **sampling):
            read.append(path)
            return read_clip(path, **sampling)

        monkeypatch.setattr(lmms_model, "read_clip", counting)
        longer = {"generation": {"max_new_tokens": 4}, "geometry_tokens": geometry_tokens}
        alone, results = self.answers(checkpoint, mini, tmp_path / "alone", batch_size=4, **longer)
        shared, same = self.answers(checkpoint, mini, tmp_path / "shared", batch_size=1, **longer)
        assert shared == alone and len({*shared}) > 2
        assert same["frames"] == results["frames"]
        assert len(read) == 4  # two clips, twice

    def test_lmms_eval_itself_finds_the_model_by_name(self):
        # In a process of its own: what this one has registered must not help.
        code = "from lmms_eval.models import get_model; model = get_model('geovr'); print(model.__module__)"
        printed, complaints = Client(code, environment=os.environ).communicate()
        assert printed.split()[-1:] == [GeoVRBenchmarkModel.__module__], complaints[-3000:]

    def test_sampling_is_asked_for_and_repeats_with_its_seed(self, checkpoint, mini, tmp_path):
        assert generation_options({"temperature": 0, "top_p": 1.0})["do_sample"] is False
        assert generation_options({"until": ["\n\n"]})["do_sample"] is False
        wild = {"generation": {"max_new_tokens": 1, "do_sample": True, "temperature": 100.0}, "batch_size": 1}
        first, again, other = (
            self.answers(checkpoint, mini, tmp_path / str(number), seed=seed, **wild)[0]
            for number, seed in enumerate((0, 0, 1))
        )
        assert first == again != other
        # Nor does a sample depend on the batch size, or on which questions were answered before.
        wild["batch_size"] = 4
        assert self.answers(checkpoint, mini, tmp_path / "batches", **wild)[0] == first
        (journal,) = (tmp_path / "batches" / "answers").iterdir()
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
        assert self.answers(checkpoint, mini, tmp_path / "batches", **wild)[0] == first


class TestTasks:
    def test_synthetic_rooms_need_no_download(self, checkpoint, mini, tmp_path):
        settings = EvaluationSettings(
            checkpoint, ("synthetic-rooms",), num_frames=4, views=("seen",), generation={"max_new_tokens": 1}
        )
        results = evaluate_model(settings, tmp_path / "out", device="cpu", rooms=replace(MINI, num_rooms=1))
        task = results["tasks"]["synthetic-rooms"]
        assert task["num_questions"] == 10
        assert task["prompt_example"].splitlines()[-1].startswith("Answer with")

    def test_tasks_that_lmms_eval_lacks_run_on_local_copies(self, checkpoint, tmp_path):
        data = tmp_path / "data"
        for video in ("vstibench/scannet/a.mp4", "stibench/video/a.mp4", "dsrbench/videos/a.mp4"):
            (data / video).parent.mkdir(parents=True)
            write_video(data / video, num_frames=8)
        choice = {"question": "Which way?", "options": ["A. left", "B. right"]}
        vsti = [
            {"question_type": "camera_displacement", "question": "How far?", "options": None, "ground_truth": "2.0"},
            {"question_type": "obj_obj_relative_pos_lr", **choice, "ground_truth": "left", "mc_answer": "A"},
            {"question_type": "obj_obj_relative_pos_ud", **choice, "ground_truth": "left", "mc_answer": "B"},
        ]
        rows = [{"video_path": "scannet/a.mp4", "mc_answer": None, **row} for row in vsti]
        (data / "vstibench" / "test.json").write_text(json.dumps(rows))
        sti = {"Video": "a.mp4", "Question": "How fast?", "Candidates": '{"A": "1 m/s", "B": "2 m/s"}', "Answer": "B"}
        sti |= {"time_start": 0.0, "time_end": 0.2}
        self.write(data / "stibench" / "qa.parquet", [{**sti, "Task": task} for task in ("Speed", "Pose")])
        dsr = {"videoID": "a", **choice, "answer": "A"}
        self.write(data / "dsrbench" / "benchmark.parquet", [{**dsr, "type": kind} for kind in ("abs_dis", "rel_dir")])
        names = ("vstibench", "stibench", "dsrbench")
        settings = EvaluationSettings(
            checkpoint, names, {name: str(data / name) for name in names}, num_frames=2, views=("seen",),
            generation={"max_new_tokens": 1},
        )  # fmt: skip
        results = evaluate_model(settings, tmp_path / "out", device="cpu")
        for name, average in zip(names, ("macro", "micro", "micro"), strict=True):
            task = results["tasks"][name]
            scores = task["views"]["seen"]["scorers"][name]
            assert task["average"] == average
            assert {"num_empty", "num_unreadable"} <= task["views"]["seen"].keys()
            assert task["views"]["seen"]["headline"] == scores[average]
            assert task["views"]["seen"]["engine"] == {
                kind: pytest.approx(scores[kind]["value"]) for kind in ("macro", "micro")
            }
        families = results["tasks"]["vstibench"]["views"]["seen"]["scorers"]["vstibench"]
        assert {*families["types"]} == {"camera_displacement", "obj_obj_relative_pos"}
        assert results["tasks"]["stibench"]["prompt_example"].splitlines()[0].startswith("Between 0.0 s and 0.2 s")

    def write(self, path, rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    def test_prompts_are_those_of_lmms_eval_and_of_the_published_evaluation(self, mini):
        theirs = pytest.importorskip("lmms_eval.tasks.vsibench.utils")
        for line in (mini / "test.jsonl").read_text().splitlines():
            doc = json.loads(line)
            assert PROMPTS["lmms-eval"](doc) == theirs.vsibench_doc_to_text(doc)
            ending = "Arabic numeral." if doc["options"] is None else "letter directly."
            assert PROMPTS["published"](doc).endswith(ending)


def test_revsi_is_averaged_as_lmms_eval_averages_it():
    theirs = pytest.importorskip("lmms_eval.tasks.revsi.utils")
    rng = np.random.default_rng(0)
    samples = []
    for number in range(300):
        kind = str(rng.choice(theirs.MCQ_QUESTION_TYPES + theirs.NQ_QUESTION_TYPES))
        doc = {"question_type": kind, "scene_id": f"scene{number % 20}"}
        doc["ground_truth"] = "A" if kind in theirs.MCQ_QUESTION_TYPES else "4"
        answer = str(rng.choice(["A", "B", "3", "4", "5"]))
        logged = {"doc_id": number, "target": doc["ground_truth"], "filtered_resps": [answer]}
        samples.append({**logged, **theirs.revsi_process_results(doc, [answer])})
    scores = score_samples("revsi_32_frame", samples, {}, Bootstrap(100), "lmms-eval").scorers["lmms-eval"]
    docs = [sample["overall_acc"] for sample in samples]
    assert scores.macro.value == pytest.approx(theirs.revsi_aggregate_overall(docs))
    assert scores.types["object_counting"].value == pytest.approx(theirs.revsi_aggregate_object_counting_acc(docs))
    assert scores.num_clusters == 20 and len(scores.types) == 7


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--tasks", "vsibenhc"], "no task 'vsibenhc' in lmms-eval or here"),
            (["--tasks", "vsibench", "--data", "vsibench"], "--data takes TASK=DIR"),
            (["--tasks", "vsibench", "--data", "vsibench=nowhere"], "nowhere holds no test.jsonl"),
            (["--tasks", "vsibench", "--data", "revsi=here"], "data for revsi, but the tasks are vsibench"),
            (["--tasks", "vsibench", "--prompt", "rooms"], "Only synthetic-rooms has the prompt 'rooms'"),
            (["--tasks", ","], "at least one task"),
            (["--tasks", "vsibench", "--frames", "0"], "`num_frames` must be at least 1"),
            (["--tasks", "vsibench", "--top-k", "5"], "belong to sampling"),
            (["--tasks", "revsi_64_frame"], "right for 64 frames, not for 32. Give --frames 64"),
            (["--tasks", "revsi", "--frames", "63"], "right for 64 frames, not for 63. Give --frames 64"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_two(self, words, message, checkpoint, tmp_path, capsys):
        assert main(["evaluate", checkpoint, "--out", str(tmp_path / "out"), "--device", "cpu", *words]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]

    def test_a_missing_video_is_named_and_nothing_that_was_answered_is_lost(self, checkpoint, mini, tmp_path):
        data = shutil.copytree(mini, tmp_path / "data")
        (data / "scannet" / "room_3_0004.mp4").write_bytes(b"no video")
        with pytest.raises(ValueError, match="room_3_0004.mp4"):
            evaluate_model(settings_for(checkpoint, data, views=("seen",)), tmp_path / "out", device="cpu")
        assert num_journalled(tmp_path / "out") == 40
        assert not (tmp_path / "out" / "results.json").exists()

    def test_a_run_that_failed_before_its_first_answer_can_be_corrected(self, checkpoint, mini, tmp_path):
        wrong = settings_for(checkpoint, tmp_path / "nowhere", views=("seen",), limit=2)
        with pytest.raises(ValueError, match="nowhere holds no test.jsonl"):
            evaluate_model(wrong, tmp_path / "out", device="cpu")
        right = replace(wrong, data={"vsibench": str(mini)})
        assert evaluate_model(right, tmp_path / "out", device="cpu")["tasks"]["vsibench"]["num_questions"] == 2

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_folder_with_other_things_is_left_alone(self, checkpoint, mini, tmp_path, overwrite):
        for name in ("thesis.tex", "samples/voice.wav", "answers/mine.txt", "results.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("...")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match="not empty and holds no evaluation"):
            evaluate_model(settings_for(checkpoint, mini), tmp_path, overwrite=overwrite, device="cpu")
        assert sorted(tmp_path.rglob("*")) == before

    def test_another_run_is_overwritten_where_that_is_asked_for(self, checkpoint, mini, tmp_path):
        fields = {"views": ("seen",), "limit": 2}
        evaluate_model(settings_for(checkpoint, mini, **fields), tmp_path / "out", device="cpu")
        other = settings_for(checkpoint, mini, num_frames=2, **fields)
        results = evaluate_model(other, tmp_path / "out", overwrite=True, device="cpu")
        assert results["frames"]["frames_per_question"] == [2, 2] and num_journalled(tmp_path / "out") == 2


def test_views_are_black_or_out_of_order_and_the_same_each_time(mini):
    clip = read_clip(mini / "scannet" / "room_3_0000.mp4", num_frames=4)
    black, shuffled = VIEWS["black"](clip), VIEWS["shuffled"](clip)
    assert black.frames.shape == clip.frames.shape and not black.frames.any()
    assert not torch.equal(shuffled.frames, clip.frames)
    same = [sorted(frame.sum().item() for frame in view.frames) for view in (clip, shuffled)]
    assert same[0] == same[1]
    assert torch.equal(shuffled.frames, VIEWS["shuffled"](clip).frames)
    assert torch.equal(shuffled.timestamps, clip.timestamps)


def test_a_journal_drops_a_cut_line_and_names_a_damaged_one(tmp_path):
    journal = AnswerJournal(tmp_path)
    journal.add("a", {"answer": "é\n1"})
    journal.add("b", {"answer": ""})
    journal.close()
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "c", "ans')
    reopened = AnswerJournal(tmp_path, rank=1)
    assert len(reopened) == 2 and reopened["a"]["answer"] == "é\n1" and "c" not in reopened
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"rank0.jsonl, line 1 is damaged"):
        AnswerJournal(tmp_path)


def test_rooms_of_a_benchmark_can_be_read_back_as_they_were_rendered(mini):
    rendered = MINI.rooms.room_clip(0).clip
    read = read_clip(mini / "scannet" / "room_3_0000.mp4", num_frames=6)
    torch.testing.assert_close(read.timestamps, rendered.timestamps, atol=1e-3, rtol=0)
    assert (read.frames.float() - rendered.frames.float()).abs().mean() < 4
    rows = [json.loads(line) for line in (mini / "test.jsonl").read_text().splitlines()]
    assert len({row["question_type"] for row in rows}) == 10 and [row["id"] for row in rows] == [*np.arange(50)]


@pytest.mark.slow
def test_two_processes_share_the_questions(checkpoint, mini, finished, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["-m", "geovr_hf.cli", "evaluate", checkpoint, "--tasks", "vsibench", "--data", f"vsibench={mini}"]
    words += ["--out", str(out), "--frames", "4", "--batch-size", "4", "--max-new-tokens", "1", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    shares = {path.name: len(path.read_text().splitlines()) for path in (out / "answers").iterdir()}
    assert shares == {"rank0.jsonl": 75, "rank1.jsonl": 75}
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["vsibench"]["views"] == finished[1]["tasks"]["vsibench"]["views"]


@pytest.mark.gpu
def test_all_gpus_share_the_questions(checkpoint, mini, tmp_path):
    out, count = tmp_path / "out", torch.cuda.device_count()
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
    words += ["-m", "geovr_hf.cli", "evaluate", checkpoint, "--tasks", "vsibench", "--data", f"vsibench={mini}"]
    words += ["--out", str(out), "--frames", "4", "--max-new-tokens", "1", "--dtype", "bfloat16"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len([*(out / "answers").iterdir()]) == count and num_journalled(out) == 150
    results = json.loads((out / "results.json").read_text())
    assert results["hardware"].startswith(f"{count} x NVIDIA") and results["model"]["dtype"] == "bfloat16"
