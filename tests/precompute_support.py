"""What tests of `geovr precompute` share: a stand-in for the network, clips, and the command."""

import json

import pytest
from clip_files import write_video
from targets_support import PixelTeacher, image_folder

import geovr_hf.commands.clip_sources  # noqa: F401  (what it imports must not see the stand-in for a teacher)
import geovr_hf.teachers
from geovr_hf.cli import main


OPTIONS = ["--teacher", "pixels", "--num-frames", "3", "--workers", "0"]


@pytest.fixture
def teacher(monkeypatch):
    """The network that `--teacher` names. It is small, and computes from the pixels."""
    made = PixelTeacher()
    monkeypatch.setattr(geovr_hf.teachers, "load_teacher", lambda name, metric=None, **options: made)
    return made


@pytest.fixture
def media(tmp_path):
    root = tmp_path / "media"
    for number in range(3):
        image_folder(root / "scenes" / f"clip{number}", seed=number)
    for number in (5, 6):
        write_video(root / f"{number}.mp4", num_frames=number)
    return root


def rows_file(path, media_paths):
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "video", "video": video}, {"type": "text", "text": "How many?"}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "4"}]},
            ]
        }
        for video in media_paths
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(out, *words):
    return main(["precompute", "--out", str(out), *map(str, words)])
