"""The benchmark on a real recording, run on a very small made one: every column is measured on frames it never saw."""

import json
import sys
from pathlib import Path

import pytest
from test_rgbd import write_frames_layout


pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import real_video  # noqa: E402


def frames_in(rows):
    """Numbers of the recorded frames that rows show. The made recording tells them by their red."""
    clips = [part["video"] for row in rows for part in row["messages"][0]["content"] if part["type"] == "video"]
    return {int(red) // 10 for clip in clips for red in clip[:, 0, 0, 0]}


def test_all_columns_are_measured_on_the_held_out_clips_and_drawn(tmp_path, monkeypatch):
    shown = {}

    def run_models(recipe, data, clips, run=real_video.run_models):
        shown.update(trained=frames_in(data.train), held_out=frames_in(clips))
        return run(recipe, data, clips)

    monkeypatch.setattr(real_video, "run_models", run_models)
    recording, out = write_frames_layout(tmp_path / "recording"), tmp_path / "out"
    words = [str(recording), "--out", str(out), "--frames", "3", "--steps", "1", "--train-frames", "8"]
    results = real_video.main(words)
    assert results["held_out_clips"] == 2  # 12 frames, of which 4 are held out
    assert shown == {"trained": set(range(8)), "held_out": set(range(8, 12))}  # played backwards, too
    assert results == json.loads((out / "results.json").read_text())
    assert list(results["errors"]) == ["constant", "mean", "frozen, random", "frozen, language", "geometry"]
    for errors in results["errors"].values():
        assert {"depth_abs_rel_raw", "pose_auc_5", "ate_sim3", "log_scale_error"} <= errors.keys()
    # A camera that stands still has no direction, and moves nowhere between the views of one depth.
    assert results["errors"]["constant"]["direction_error_deg"] == pytest.approx(180)
    assert all((out / name).stat().st_size > 0 for name in ("report.md", "depth.png", "camera_paths.png"))
    with pytest.raises(SystemExit):
        real_video.main(words)
