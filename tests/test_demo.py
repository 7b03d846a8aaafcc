"""The demo from end to end, made very small: everything runs and is written; how well it learns is the demo's own."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from geovr_hf.cli import main
from geovr_hf.commands.rendered_rooms import RenderedRooms, join_turns
from geovr_hf.data.rooms import RoomsDataset


pytest.importorskip("embreex")
pytest.importorskip("matplotlib")

SMALL = {
    "num_rooms": 6,
    "num_eval_rooms": 3,
    "num_frames": 3,
    "max_steps": 2,
    "hidden_size": 32,
    "vision_hidden_size": 16,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": "false",
}
ROOMS = {"num_frames": 3, "image_size": (32, 64), "num_objects": (4, 5), "question_types": ("room_size_estimation",)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    overrides = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main(["demo", "--out", str(folder), "--seed", "5", *overrides, "--debug"]) == 0
    return folder


class TestDemo:
    def test_metrics_compare_four_columns_on_the_same_rooms(self, out):
        metrics = json.loads((out / "metrics.json").read_text())
        columns = metrics["held_out_rooms"]
        assert list(columns) == ["before", "blind", "language only", "all objectives"]
        for column in columns.values():
            assert 0 <= column["answer_accuracy"] <= 1
        for name in ("before", "blind", "all objectives"):
            assert columns[name]["depth_abs_rel"] > 0 and columns[name]["scale_ratio"] >= 1
        assert "depth_abs_rel" not in columns["language only"]

    def test_the_fresh_process_answers_and_reconstructs(self, out):
        answers = json.loads((out / "unseen-room/answers.json").read_text())
        assert answers["model_class"] == "GeoVRForConditionalGeneration"
        assert all(entry.keys() >= {"question", "answer", "model"} for entry in answers["answers"])
        assert json.loads((out / "metrics.json").read_text())["unseen_room"]["predicted_metric_scale"] > 0

    def test_pictures_and_a_card_that_shows_them_are_written(self, out):
        card = (out / "model/README.md").read_text()
        for name in ("frames", "depth", "camera_paths", "losses", "answers"):
            assert (out / f"pictures/{name}.png").stat().st_size > 0
            assert (out / f"model/pictures/{name}.png").exists() and f"pictures/{name}.png" in card
        assert "synthetic furnished rooms" in card and "language only" in card

    def test_the_checkpoint_loads_and_tells_its_objectives(self, out):
        model = AutoModelForImageTextToText.from_pretrained(out / "model")
        assert model.config.objectives == ["camera", "depth", "scale", "alignment"]
        assert model.config.teacher == "synthetic-coordinate-fourier"

    def test_reconstruct_takes_the_frames_that_the_demo_leaves(self, out, tmp_path):
        words = ["reconstruct", str(out / "model"), str(out / "unseen-room/frames"), "--out", str(tmp_path / "3d")]
        assert main(words) == 0
        assert len(list((tmp_path / "3d/depth").iterdir())) == SMALL["num_frames"]

    def test_a_second_demo_does_not_overwrite_the_first(self, out, capsys):
        assert main(["demo", "--out", str(out)]) == 2
        assert "is not empty" in capsys.readouterr().err


class TestRenderedRooms:
    def test_rows_are_those_of_the_rooms(self):
        rooms = RoomsDataset(2, seed=3, questions_per_room=1, **ROOMS)
        rendered = RenderedRooms(rooms)
        assert len(rendered) == 2 and len(rendered.questions) == 2
        for index in range(2):
            mine, original = rendered[index], rooms[index]
            assert mine["id"] == original["id"] and mine["answer"] == original["answer"]
            frames = [row["messages"][0]["content"][0]["video"] for row in (mine, original)]
            assert torch.equal(*frames)
            assert torch.equal(mine["geometry_targets"].depth, original["geometry_targets"].depth)

    def test_turns_share_one_clip_and_keep_every_question(self):
        rooms = RoomsDataset(1, seed=3, questions_per_room=2, **(ROOMS | {"question_types": ("center_depth",)}))
        rows = [rooms[0], rooms[1]]
        joined = join_turns(rows)
        assert [message["role"] for message in joined["messages"]] == ["user", "assistant"] * 2
        parts = [part["type"] for message in joined["messages"] for part in message["content"]]
        assert parts.count("video") == 1
        assert [m["content"][-1]["text"] for m in joined["messages"]] == [
            message["content"][-1]["text"] for row in rows for message in row["messages"]
        ]
