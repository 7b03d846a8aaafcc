"""A run that was killed, resumed, is bit for bit the run that was never killed."""

import json
import logging
import shutil

import pytest
from killable_run import MODES, start, write_media
from training_support import trainer

from geovr_hf.commands.train import starting_point
from geovr_hf.trainers.checkpoints import UNFINISHED, checkpoint_folders, find_fault, newest_whole_checkpoint


KILLED = -9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kills"),
    [
        # In the second and in the third epoch; weights without optimizer; all but the name.
        ("packed", [(4, "save_model"), 5, (6, "publish"), 8]),
        ("padded", [(4, "_save_rng_state"), 7]),
        ("packed stream", [3, (6, "_save_optimizer_and_scheduler"), 7]),
        ("padded stream", [5]),
    ],
)
def test_killed_at_any_moment_and_resumed(tmp_path, mode, kills):
    pytest.importorskip("av")
    write_media(tmp_path)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight, mode) == [0]
    for count, kill in enumerate(kills):
        assert start(killed, mode, kill_at=kill, resume=count > 0) == [KILLED]
        assert all(find_fault(folder) is None for folder in checkpoint_folders(killed))
    assert start(killed, mode, resume=True) == [0]
    expected, result = (json.loads((folder / "result.json").read_text()) for folder in (straight, killed))
    assert [log["step"] for log in expected["logs"]] == [3, 6]
    assert result == expected
    assert [folder.name for folder in checkpoint_folders(killed)] == [
        folder.name for folder in checkpoint_folders(straight)
    ]
    assert len(checkpoint_folders(killed)) == MODES[mode].get("save_total_limit", 4)
    assert not (killed / UNFINISHED).exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["packed", "padded"])
def test_two_processes_resume_the_epoch_they_were_in(tmp_path, mode):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight, mode, num_processes=2) == [0, 0]
    assert start(killed, mode, kill_at=7, num_processes=2) == [KILLED, KILLED]
    assert start(killed, mode, resume=True, num_processes=2) == [0, 0]
    expected, result = (json.loads((folder / "result.json").read_text()) for folder in (straight, killed))
    assert result == expected
