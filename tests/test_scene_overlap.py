"""Scenes that training and test share are found whatever the data sets call them."""

import json

import pytest

from geovr_hf.evaluation.overlap import Scene, load_trained_videos, scene_of, scene_overlap, videos_of


def test_rescans_and_other_names_of_a_data_set_are_the_same_scene():
    assert scene_of("scannet/scene0191_00.mp4") == scene_of("videos/ScanNet/scene0191_02.mp4")
    assert scene_of("scannetppv2/0a1b2c3d4e.mp4") == scene_of("scannetpp/0A1B2C3D4E.mp4")
    assert scene_of("arkitscenes/41069021.mp4") == Scene("arkitscenes", "41069021")
    assert scene_of("adt/41069021.mp4") != scene_of("arkitscenes/41069021.mp4")


def test_questions_about_shared_scenes_are_counted():
    train = ["scannet/scene0001_00.mp4"] * 3 + ["arkitscenes/7.mp4"]
    test = ["scannet/scene0001_01.mp4"] * 2 + ["scannet/scene0002_00.mp4", "scannetpp/7.mp4"]
    overlap = scene_overlap(train, test)
    assert overlap.shared == ["scannet/scene0001"]
    assert (overlap.train_scenes, overlap.test_scenes) == (2, 3)
    assert (overlap.test_questions, overlap.affected_questions) == (4, 2)
    assert "1 of 3 test scenes were trained on (scannet/scene0001): 2 of 4 questions" in str(overlap)
    assert str(scene_overlap([], test)).startswith("None of the 3 test scenes")


def conversation(answer):
    return [{"from": "human", "value": "<image>\nHow many chairs?"}, {"from": "gpt", "value": answer}]


def test_published_training_files_are_read(tmp_path):
    row = {"conversations": conversation("4"), "question_type": "absolute_count"}
    rows = [{**row, "video": "scannet/scene0001_00.mp4"}, {**row, "image": "hypersim/a.jpg"}]
    vsi_590k = tmp_path / "vsi_590k.jsonl"
    vsi_590k.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_trained_videos(str(vsi_590k)) == ["scannet/scene0001_00.mp4"]

    row |= {"id": "1", "data_source": "scannetpp", "scene_name": "0a1b", "video": "x/0a1b.mp4"}
    vlm_3r = tmp_path / "vlm3r.json"
    vlm_3r.write_text(json.dumps([row]))
    assert [scene_of(video) for video in load_trained_videos(str(vlm_3r))] == [Scene("scannetpp", "0a1b")]

    (tmp_path / "notes.json").write_text('[{"text": "hello"}]')
    with pytest.raises(ValueError, match=r"no known training file(.|\n)*load_vlm_3r(.|\n)*load_vsi_590k"):
        load_trained_videos(str(tmp_path / "notes.json"))


def test_a_bare_name_is_compared_by_name_alone():
    overlap = scene_overlap(
        ["arkitscenes/41069021.mp4", "scannet/scene0001_00.mp4", "scannetppv2/0a1b.mp4"],
        ["41069021.mp4", "scene0001_01.mp4", "0A1B.mp4", "other.mp4"],
    )
    assert overlap.shared == ["arkitscenes/41069021", "scannet/scene0001", "scannetpp/0a1b"]
    assert (overlap.test_scenes, overlap.affected_questions) == (4, 3)


def test_videos_of_rows_in_every_form():
    content = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}]
    rows = [{"messages": [{"role": "user", "content": content}]}, {"prompt": [{"role": "user", "content": content}]}]
    rows.append({"messages": [{"role": "user", "content": "?"}], "videos": ["b.mp4"]})
    assert list(videos_of(rows)) == ["a.mp4", "a.mp4", "b.mp4"]
