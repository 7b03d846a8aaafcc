# ruff: noqa: F811  (fixtures come from precompute_support)
"""`geovr precompute` on clips that cannot be read or shown: listed with the reason, and the others computed."""

import json

import pytest
import torch
from clip_files import write_video
from PIL import Image
from precompute_support import OPTIONS, media, rows_file, run, teacher  # noqa: F401
from targets_support import PixelTeacher, spec

import geovr_hf.teachers
from geovr_hf.data import UnreadableClipError, VideoDataset
from geovr_hf.targets import TargetFolder
from geovr_hf.teachers import ImageRule, NetworkTeacher


pytest.importorskip("av")


class TestBadClips:
    @pytest.fixture
    def bad(self, media):
        (media / "broken.mp4").write_bytes(b"no video")
        (media / "scenes/clip1/2.png").write_bytes(b"no picture")
        return media

    def test_they_are_listed_with_the_reason_and_the_others_computed(self, bad, tmp_path, teacher, capsys):
        words = ["--data", bad, "--teacher", "pixels", "--num-frames", "4", "--workers", "1"]
        assert run(tmp_path / "out", *words) == 0
        listed = json.loads((tmp_path / "out/unreadable.json").read_text())
        assert str(tmp_path.parent) not in (tmp_path / "out/unreadable.json").read_text()  # it goes to the Hub
        assert [row["source"] for row in listed] == ["broken.mp4", "scenes/clip1"]
        assert "broken.mp4: cannot decode" in listed[0]["reason"] and "2.png" in listed[1]["reason"]
        printed = capsys.readouterr().out
        assert "4 clips computed, 0 there already, 2 unreadable" in printed
        assert "unreadable: broken.mp4: " in printed

    def test_they_are_tried_again(self, bad, tmp_path, teacher, capsys):
        run(tmp_path / "out", "--data", bad, *OPTIONS)
        write_video(bad / "broken.mp4", num_frames=9)
        assert run(tmp_path / "out", "--data", bad, *OPTIONS) == 0
        assert len(TargetFolder(tmp_path / "out")) == 5
        assert [row["source"] for row in json.loads((tmp_path / "out/unreadable.json").read_text())] == [
            "scenes/clip1"
        ]
        assert "1 clips computed, 4 there already, 1 unreadable" in capsys.readouterr().out

    def test_a_file_that_is_gone_is_a_bad_clip(self, media, tmp_path, teacher):
        rows = rows_file(tmp_path / "rows.jsonl", ["5.mp4", "gone.mp4"])
        words = ["--data", rows, "--format", "rows", "--media-root", media]
        for _ in range(2):
            assert run(tmp_path / "out", *words, *OPTIONS) == 0
            assert "gone.mp4" in json.loads((tmp_path / "out/unreadable.json").read_text())[0]["reason"]

    @pytest.fixture
    def elongated(self, media, monkeypatch):
        """A clip, `strip`, that can be read and that the network of `--teacher` could not be shown."""
        network = PixelTeacher()
        network.spec = spec(rule=ImageRule(84, 28))
        network.__class__ = type("Network", (PixelTeacher, NetworkTeacher), {})
        monkeypatch.setattr(geovr_hf.teachers, "load_teacher", lambda name, metric=None, **options: network)
        (media / "strip").mkdir()
        for number in range(3):
            Image.new("RGB", (400, 8)).save(media / "strip" / f"{number}.png")
        return media

    def test_a_clip_that_no_network_could_be_shown_is_a_bad_clip(self, elongated, tmp_path):
        assert run(tmp_path / "out", "--data", elongated, *OPTIONS) == 0
        (listed,) = json.loads((tmp_path / "out/unreadable.json").read_text())
        assert listed["source"] == "strip" and "8 x 400 pixels is too elongated" in listed["reason"]
        assert len(TargetFolder(tmp_path / "out")) == 5

    def test_one_that_rows_name_by_a_link_is_left_out_of_training(self, elongated, tmp_path):
        (elongated / "link").symlink_to("strip")
        path = rows_file(tmp_path / "rows.jsonl", ["5.mp4", "link"])
        words = ["--data", path, "--format", "rows", "--media-root", elongated]
        assert run(tmp_path / "out", *words, *OPTIONS) == 0
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        options = {"num_frames": 3, "teacher": TargetFolder(tmp_path / "out")}
        with pytest.raises(UnreadableClipError, match="row 1: .*unreadable.json there says why: strip: .*elongated"):
            VideoDataset(rows, elongated, **options)[1]
        assert len(VideoDataset(rows, elongated, **options, on_bad_sample="skip")) == 1

    @pytest.mark.parametrize("error", [ValueError, UnreadableClipError, RuntimeError])
    def test_a_failing_teacher_is_no_bad_clip(self, media, tmp_path, teacher, monkeypatch, error):
        def fail(clip):
            raise error("out of memory")

        monkeypatch.setattr(teacher, "targets", fail)
        with pytest.raises(error, match="out of memory"):
            run(tmp_path / "out", "--data", media, *OPTIONS, "--debug")

    def test_targets_that_are_not_sound_stop_the_run(self, media, tmp_path, teacher, monkeypatch, capsys):
        compute = teacher.targets

        def nan(clip):
            targets = compute(clip)
            targets.depth[:] = torch.nan
            return targets

        monkeypatch.setattr(teacher, "targets", nan)
        assert run(tmp_path / "out", "--data", media, *OPTIONS) == 2
        assert "`depth` of 5.mp4 holds NaN" in capsys.readouterr().err
        assert len(TargetFolder(tmp_path / "out")) == 0
