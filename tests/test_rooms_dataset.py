"""Rows of synthetic rooms: their form, and that a seed decides them whatever the order or process."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from geovr_hf.data.rooms import QUESTION_TYPES, FeatureSpec, RoomsDataset, RoomsIterableDataset
from geovr_hf.data.rooms.shapes import _template


ROOT = Path(__file__).parents[1]
OPTIONS = {"image_size": (48, 64), "questions_per_room": 3, "num_frames": 4}


def digest(row):
    content = row["messages"][0]["content"]
    targets = row["geometry_targets"]
    tensors = [content[0]["video"], targets.pose_enc, targets.depth, targets.metric_scale]
    text = repr((row["id"], content[0]["timestamps"], content[1]["text"], row["answer"], row["options"]))
    return hashlib.sha256(text.encode() + b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def test_rows_are_decoded_conversations_with_targets():
    dataset = RoomsDataset(2, features=FeatureSpec(num_layers=2), **OPTIONS)
    assert len(dataset) == 6
    row = dataset[4]
    user, assistant = row["messages"]
    video, text = user["content"]
    assert video["video"].dtype == torch.uint8
    assert video["video"].shape == (4, 48, 64, 3)
    assert len(video["timestamps"]) == 4
    assert all(a < b for a, b in zip(video["timestamps"], video["timestamps"][1:], strict=False))
    assert text["text"].startswith("These are frames of a video.\n")
    assert assistant["content"] == [{"type": "text", "text": row["answer"]}]
    assert row["question_type"] in QUESTION_TYPES
    assert row["options"] is None or row["answer"] in "ABCD"[: len(row["options"])]
    assert row["id"].startswith(row["room"] + "-")
    targets = row["geometry_targets"].validate()
    assert targets.depth.shape == (4, 56, 56)  # 28 pixels for each 32 of the picture, rounded to whole tokens
    assert [tuple(layer.shape) for layer in targets.features] == [(4, 2, 2, 48)] * 2


def test_ids_are_distinct_and_rows_of_a_room_share_its_clip():
    dataset = RoomsDataset(3, **OPTIONS)
    rows = [dataset[i] for i in range(9)]
    assert len({row["id"] for row in rows}) == 9
    assert [row["room"] for row in rows] == [rows[i - i % 3]["room"] for i in range(9)]
    assert rows[3]["geometry_targets"] is rows[5]["geometry_targets"]
    assert rows[2]["room"] != rows[3]["room"]


def test_rows_do_not_depend_on_the_order_in_which_they_are_read():
    forward = RoomsDataset(4, **OPTIONS)
    backward = RoomsDataset(4, cached_rooms=1, **OPTIONS)
    there = [digest(forward[i]) for i in range(12)]
    back = [digest(backward[i]) for i in reversed(range(12))]
    assert there == back[::-1]
    assert len(set(there)) == 12


def test_rows_are_the_same_in_another_process_without_datasets_and_av():
    program = (
        "import sys; sys.modules['datasets'] = sys.modules['av'] = None; sys.path.insert(0, 'tests')\n"
        "from test_rooms_dataset import OPTIONS, digest\n"
        "from geovr_hf.data.rooms import RoomsDataset\n"
        "from geovr_hf.teachers import load_teacher\n"
        "dataset = RoomsDataset(3, seed=2, **OPTIONS)\n"
        "load_teacher('synthetic', rooms=dataset.spec).targets(dataset.room_clip(0).clip)\n"
        "print(digest(dataset[7]))\n"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert there.returncode == 0, there.stderr
    assert there.stdout.strip() == digest(RoomsDataset(3, seed=2, **OPTIONS)[7])


def test_seeds_have_no_room_in_common():
    ids = {RoomsDataset(1, seed=seed, **OPTIONS)[0]["id"] for seed in range(3)}
    frames = {digest(RoomsDataset(1, seed=seed, **OPTIONS)[0]) for seed in range(3)}
    assert len(ids) == len(frames) == 3


def test_questions_do_not_depend_on_the_size_of_pictures():
    small = RoomsDataset(1, image_size=(48, 64))
    large = RoomsDataset(1, image_size=(96, 128))
    assert [small[i]["answer"] for i in range(8)] == [large[i]["answer"] for i in range(8)]


def test_data_set_can_be_pickled_after_use():
    dataset = RoomsDataset(2, **OPTIONS)
    before = digest(dataset[5])
    assert digest(pickle.loads(pickle.dumps(dataset))[5]) == before


def test_stream_gives_the_rows_of_the_map_style_data_set():
    rows = list(RoomsIterableDataset(2, **OPTIONS))
    dataset = RoomsDataset(2, **OPTIONS)
    assert [digest(row) for row in rows] == [digest(dataset[i]) for i in range(6)]


def test_workers_share_the_rooms_of_a_stream():
    stream = RoomsIterableDataset(4, **OPTIONS)
    alone = {row["id"] for row in stream}
    shared = [row["id"] for row in DataLoader(stream, batch_size=None, num_workers=2)]
    assert len(shared) == 12
    assert set(shared) == alone


def test_epochs_of_a_stream_have_new_rooms_and_an_endless_one_goes_on():
    stream = RoomsIterableDataset(1, **OPTIONS)
    first = next(iter(stream))["id"]
    stream.set_epoch(1)
    endless = iter(RoomsIterableDataset(first_room=1, **OPTIONS))
    second = next(endless)["id"]
    assert next(iter(stream))["id"] == second != first


def test_small_rooms_for_small_models():
    dataset = RoomsDataset(3, num_objects=(4, 7), question_types=("object_rel_direction_easy",), **OPTIONS)
    assert all(len(dataset.room_clip(i).room.furniture) <= 7 for i in range(3))
    assert {dataset[i]["question_type"] for i in range(9)} == {"object_rel_direction_easy"}


def test_a_clip_may_have_one_frame():
    row = RoomsDataset(1, image_size=(48, 64), num_frames=1, questions_per_room=1)[0]
    assert row["messages"][0]["content"][0]["video"].shape[0] == 1
    assert row["geometry_targets"].pose_enc.shape == (1, 9)


def test_supersampling_changes_colours_only():
    plain, smooth = (RoomsDataset(1, supersampling=n, **OPTIONS)[0] for n in (1, 2))
    video, smoother = (row["messages"][0]["content"][0]["video"].float() for row in (plain, smooth))
    assert not torch.equal(video, smoother)
    assert (video - smoother).abs().mean() < 12
    assert torch.equal(plain["geometry_targets"].depth, smooth["geometry_targets"].depth)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_rooms": 0}, "num_rooms"),
        ({"seed": -1}, "seed"),
        ({"question_types": ("object_smell",)}, "object_smell"),
        ({"question_types": ()}, "question_types"),
        ({"questions_per_room": 0}, "questions_per_room"),
        ({"image_size": (8, 8)}, "image_size"),
        ({"depth_size": (0, 4)}, "depth_size"),
        ({"supersampling": 0}, "supersampling"),
        ({"cached_rooms": 0}, "cached_rooms"),
        ({"num_objects": (20, 30)}, "num_objects"),
        ({"question_types": ("obj_appearance_order",), "num_frames": 3}, "3 frames"),
    ],
)
def test_wrong_options_are_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        RoomsDataset(**{"num_rooms": 1, **options})


def test_unknown_room_option_is_refused():
    with pytest.raises(TypeError, match="colour"):
        RoomsDataset(1, colour="red")


def test_rows_outside_are_refused():
    dataset = RoomsDataset(2, **OPTIONS)
    with pytest.raises(IndexError):
        dataset[6]
    with pytest.raises(IndexError):
        dataset.room_clip(2)


def test_impossible_demands_name_the_cure(monkeypatch):
    monkeypatch.setattr("geovr_hf.data.rooms.clips._ATTEMPTS", 5)
    options = {"image_size": (48, 64), "num_frames": 1}
    with pytest.raises(ValueError, match="Ask fewer questions"):
        RoomsDataset(1, question_types=("room_size_estimation",), questions_per_room=2, **options)[0]


@pytest.mark.parametrize("module", ["embreex.rtcore_scene", "trimesh"])
def test_missing_extra_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    _template.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "geovr_hf\[rooms\]"'):
        RoomsDataset(1, **OPTIONS)  # before a worker of a loader would miss it
