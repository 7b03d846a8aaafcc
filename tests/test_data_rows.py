import numpy as np
import pytest
import torch
from clip_files import numbered_frame, read_number, write_video
from PIL import Image

from geovr_hf.data import FrameSampling, RowDecoder, UnreadableClipError, normalize_row, resolve_media
from geovr_hf.modeling.targets_geovr import GeometryTargets


pytest.importorskip("av")

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "4"}]}


def question(*media):
    return {"role": "user", "content": [*media, {"type": "text", "text": "How many chairs?"}]}


@pytest.fixture
def media_root(tmp_path):
    root = tmp_path / "media"
    (root / "scannet").mkdir(parents=True)
    write_video(root / "scannet" / "scene.mp4")
    Image.fromarray(numbered_frame(9)).save(root / "picture.png")
    return root


@pytest.fixture
def decoder(media_root):
    return RowDecoder(media_root, FrameSampling(num_frames=3))


def test_rows_about_the_same_share_all_of_it(media_root, monkeypatch):
    write_video(media_root / "other.mp4")
    parts = [
        {"type": "video", "video": "scannet/scene.mp4"},
        {"type": "image", "image": "picture.png"},
        {"type": "video", "video": "other.mp4"},
    ]
    decoder = RowDecoder(media_root, FrameSampling(num_frames=3))
    read, paths = RowDecoder.read_clip, []
    monkeypatch.setattr(RowDecoder, "read_clip", lambda self, path: (paths.append(path.name), read(self, path))[1])
    rows = [decoder.decode({"messages": [question(*map(dict, parts)), ANSWER]}, "row") for _ in range(3)]
    held = [tuple(id(part[part["type"]]) for part in row["messages"][0]["content"][:3]) for row in rows]
    assert held[0] == held[1] == held[2] and paths == ["scene.mp4", "other.mp4"]
    decoder.decode({"messages": [question(dict(parts[2])), ANSWER]}, "row")
    assert paths == ["scene.mp4", "other.mp4"]
    decoder.decode({"messages": [question(dict(parts[0])), ANSWER]}, "row")
    assert paths[2:] == ["scene.mp4"]  # only the last row's media stay


class TestMediaRoot:
    @pytest.mark.parametrize("path", ["/etc/passwd", "../secret.mp4", "scannet/../../secret.mp4", "..", "", None, 3])
    def test_a_path_out_of_the_root_is_refused_with_row_and_path(self, path, media_root):
        with pytest.raises(ValueError, match="row 7") as error:
            resolve_media(path, media_root, "row 7")
        assert repr(path) in str(error.value) or path in ("", None, 3)

    def test_a_symlink_out_of_the_root_is_refused(self, media_root, tmp_path):
        (tmp_path / "secret.mp4").write_bytes(b"")
        (media_root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
        (media_root / "folder").symlink_to(tmp_path)
        for path in ("link.mp4", "folder/secret.mp4"):
            with pytest.raises(ValueError, match=rf"row 7.*{path}.*symbolic link"):
                resolve_media(path, media_root, "row 7")

    def test_a_symlink_inside_the_root_and_a_root_that_is_a_symlink_are_fine(self, media_root, tmp_path):
        (media_root / "again.mp4").symlink_to(media_root / "scannet" / "scene.mp4")
        (tmp_path / "root").symlink_to(media_root)
        resolved = resolve_media("again.mp4", tmp_path / "root", "row 7")
        assert resolved == (media_root / "scannet" / "scene.mp4").resolve()


class TestDecoding:
    def test_a_stored_row_becomes_frames_with_times_and_keeps_what_scoring_needs(self, decoder):
        row = {
            "messages": [question({"type": "video", "video": "scannet/scene.mp4"}), ANSWER],
            "id": "17",
            "question_type": "object_counting",
            "answer": "4",
            "options": None,
            "something_else": 1,
        }
        decoded = decoder.decode(row, "row 0")
        part = decoded["messages"][0]["content"][0]
        assert part["type"] == "video" and part["video"].dtype == torch.uint8
        assert [read_number(frame) for frame in part["video"]] == [0, 20, 39]
        assert part["timestamps"] == pytest.approx([0, 20 / 30, 39 / 30])
        assert {key: decoded[key] for key in ("id", "question_type", "answer")} == {
            "id": "17",
            "question_type": "object_counting",
            "answer": "4",
        }
        assert set(decoded) == {"messages", "id", "question_type", "answer"}
        assert row["messages"][0]["content"][0]["video"] == "scannet/scene.mp4", "the stored row is left as it was"

    def test_pictures_become_rgb_images(self, decoder):
        decoded = decoder.decode({"messages": [question({"type": "image", "image": "picture.png"}), ANSWER]}, "row 0")
        assert np.array_equal(np.asarray(decoded["messages"][0]["content"][0]["image"]), numbered_frame(9))

    def test_trl_placeholders_are_filled_from_the_media_columns_in_order(self, decoder):
        row = {
            "prompt": [question({"type": "image"}, {"type": "video"})],
            "completion": [{"role": "assistant", "content": "4"}],
            "videos": ["scannet/scene.mp4"],
            "images": [Image.fromarray(numbered_frame(3))],
        }
        decoded = decoder.decode(row, "row 0")
        image, video, _ = decoded["prompt"][0]["content"]
        assert read_number(image["image"]) == 3 and len(video["video"]) == 3
        assert decoded["completion"][0]["content"] == [{"type": "text", "text": "4"}]

    def test_structures_filled_with_none_by_arrow_mean_the_same(self, decoder):
        filled = {"text": None, "image": None, "video": None}
        row = {
            "messages": [
                {"role": "user", "content": [filled | {"type": "video", "video": "scannet/scene.mp4"}]},
                {"role": "assistant", "content": [filled | {"type": "text", "text": "4"}]},
            ],
            "prompt": None,
        }
        assert len(decoder.decode(row, "row 0")["messages"][0]["content"][0]["video"]) == 3

    def test_a_teacher_is_asked_once_per_clip_in_reading_order(self, media_root):
        class Scale:
            def targets(self, clip):
                return GeometryTargets(metric_scale=torch.tensor(float(read_number(clip.frames[-1]))))

        write_video(media_root / "other.mp4", num_frames=11)
        decoder = RowDecoder(media_root, FrameSampling(num_frames=2), teacher=Scale())
        clips = [{"type": "video", "video": path} for path in ("other.mp4", "scannet/scene.mp4")]
        decoded = decoder.decode({"messages": [question(*clips), ANSWER]}, "row 0")
        assert [float(targets.metric_scale) for targets in decoded["geometry_targets"]] == [10, 39]

    def test_an_unreadable_clip_is_named_with_its_row(self, decoder):
        row = {"messages": [question({"type": "video", "video": "scannet/gone.mp4"}), ANSWER]}
        with pytest.raises(UnreadableClipError, match=r"row 5.*gone\.mp4"):
            decoder.decode(row, "row 5")


class TestMalformedRows:
    @pytest.mark.parametrize(
        "row,reason",
        [
            ({"text": "hello"}, "columns"),
            ({"messages": [ANSWER], "prompt": [ANSWER]}, "columns"),
            ({"completion": [ANSWER]}, "columns"),
            ({"messages": [{"role": "human", "content": "hi"}]}, "role"),
            ({"messages": ["hi"]}, "role"),
            ({"messages": [{"role": "user", "content": 3}]}, "content"),
            ({"messages": [question({"type": "audio", "audio": "a.wav"})]}, "audio"),
            ({"messages": [question({"type": "video", "video": "a.mp4", "speed": 2})]}, "speed"),
            ({"messages": [question({"type": "video"})]}, "videos"),
            ({"messages": [question({"type": "video"})], "videos": ["a.mp4", "b.mp4"]}, "b.mp4"),
            ({"messages": [ANSWER], "images": ["a.png"]}, "a.png"),
        ],
    )
    def test_the_error_names_row_and_reason(self, row, reason):
        with pytest.raises(ValueError, match=f"row 3.*{reason}"):
            normalize_row(row, "row 3")
