"""A run that was killed and resumed is bit for bit the run that was never killed."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from clip_files import write_video
from killable_run import MODES, Server
from recording_files import write_noise_recording
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from training_support import trainer, uneven_rows
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from geovr_hf.cli import main
from geovr_hf.trainers import checkpoints
from geovr_hf.trainers.checkpoints import UNFINISHED, checkpoint_folders, find_fault, newest_whole_checkpoint


KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("media")
    for length in (1, 2, 3):
        write_video(folder / f"{length}.mp4", num_frames=length + 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kills"),
    [
        # In the first, second and third epoch; between updates and in a save: weights alone, all but the name.
        ("packed", [[4, "save_model"], [6, "publish"]]),
        ("padded", [[4, "_save_rng_state"], 7]),
        ("packed stream", [[4, "_save_optimizer_and_scheduler"], 7]),
        ("padded stream", [5]),
    ],
)
def test_killed_at_any_moment_and_resumed(server, media, tmp_path, mode, kills):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert server.run(straight, media, mode, kill_at=None) == [0]
    for count, kill in enumerate(kills):
        assert server.run(killed, media, mode, kill_at=kill, resume=count > 0) == [KILLED]
        assert all(find_fault(folder) is None for folder in checkpoint_folders(killed))
    assert server.run(killed, media, mode, kill_at=None, resume=True) == [0]
    expected, result = (json.loads((folder / "result.json").read_text()) for folder in (straight, killed))
    assert [log["step"] for log in expected["logs"]] == [3, 6]
    assert result == expected
    names = [[folder.name for folder in checkpoint_folders(run)] for run in (straight, killed)]
    assert names[0] == names[1] and len(names[0]) == MODES[mode].get("save_total_limit", 4)
    assert not (killed / UNFINISHED).exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["packed", "padded", "packed stream"])
def test_two_processes_resume_the_epoch_they_were_in(server, media, tmp_path, mode):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert server.run(straight, media, mode, num_processes=2, kill_at=None) == [0, 0]
    assert KILLED in server.run(killed, media, mode, num_processes=2, kill_at=7)
    assert server.run(killed, media, mode, num_processes=2, kill_at=None, resume=True) == [0, 0]
    expected, result = (json.loads((folder / "result.json").read_text()) for folder in (straight, killed))
    assert result == expected


@pytest.mark.slow
def test_the_command_killed_from_outside_while_it_saves(server, tmp_path):
    recording = tmp_path / "recording"
    write_noise_recording(recording)
    words = ["train", "rgbd", "--path", str(recording), "--eval_fraction", "0", "--num_frames", "2", "--hop", "2"]
    words += ["--depth_tiles", "1,1", "--max_clip_pixels", "4096", "--hidden_size", "32"]
    words += ["--eval_strategy", "no", "--eval_on_start", "false", "--use_cpu", "true", "--disable_tqdm", "true"]
    words += ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "1", "--logging_steps", "1"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    server.start(*words, "--output", str(straight))
    assert server.wait() == [0]
    [process] = server.start(*words, "--output", str(killed))
    until = time.monotonic() + 60
    while not any((killed / UNFINISHED / f"checkpoint-{step}").exists() for step in (2, 3, 4, 5)):
        assert time.monotonic() < until
    os.kill(process, signal.SIGKILL)
    assert server.wait() == [KILLED]
    server.start(*words, "--output", str(killed), "--resume")
    assert server.wait() == [0]
    losses = [[log["loss"] for log in read_state(run)["log_history"] if "loss" in log] for run in (straight, killed)]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    weights = [load_file(run / "model.safetensors") for run in (straight, killed)]
    assert {*weights[0]} == {*weights[1]}
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def read_state(folder):
    return json.loads((folder / "trainer_state.json").read_text())


class FirstIsBest(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_order"] = -state.global_step


class TestCheckpoints:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        """A run with its best checkpoint, its last, and none in between."""
        folder = tmp_path_factory.mktemp("run")
        trained = trainer(
            folder,
            eval_dataset=uneven_rows()[:1],
            metric_for_best_model="order",
            callbacks=[FirstIsBest()],
            max_steps=3,
            eval_strategy="steps",
            eval_steps=1,
            eval_answers=False,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=2,
            load_best_model_at_end=True,
        )
        trained.train()
        return trained

    def test_the_best_and_the_last_stay_and_the_best_is_loaded(self, run, tmp_path):
        folder = Path(run.args.output_dir)
        best, last = checkpoint_folders(folder)
        assert (best.name, last.name) == ("checkpoint-1", "checkpoint-3")
        assert run.state.best_model_checkpoint == read_state(last)["best_model_checkpoint"] == str(best)
        assert read_state(best)["best_model_checkpoint"] == str(best)
        saved = load_file(best / "model.safetensors")
        state = run.model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in saved.items())

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("model.safetensors", "model.safetensors is damaged"),
            ("optimizer.pt", "optimizer.pt is damaged"),
            ("trainer_state.json", "trainer_state.json is damaged"),
            ("-trainer_state.json", "written last, is missing"),
            ("-model.safetensors", "no weights"),
            ("-optimizer.pt", "its optimizer is missing"),
        ],
    )
    def test_a_damaged_one_is_passed_over_and_all_damaged_is_an_error(
        self, run, tmp_path, name, message, monkeypatch, capsys
    ):
        folder = tmp_path / "run"
        shutil.copytree(run.args.output_dir, folder)
        warnings = []
        monkeypatch.setattr(checkpoints.logger, "warning", warnings.append)
        damage(folder / "checkpoint-3", name)
        assert newest_whole_checkpoint(folder) == folder / "checkpoint-1"
        assert len(warnings) == 1 and "checkpoint-3: " in warnings[0] and message in warnings[0]
        with pytest.raises(ValueError, match=rf"checkpoint-3: .*{message}"):
            run.train(resume_from_checkpoint=str(folder / "checkpoint-3"))

        damage(folder / "checkpoint-1", name)
        assert main(["train", "rgbd", "--output", str(folder), "--resume"]) == 2
        complaint = capsys.readouterr().err.strip().splitlines()[-1]
        assert complaint.startswith("geovr train: Nothing to resume: ") and complaint.count(message) == 2

    def test_a_finished_run_is_over_when_it_is_resumed(self, run, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(run.args.output_dir, folder)
        again = trainer(folder, max_steps=3, save_strategy="steps", save_steps=1)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 3
        saved = load_file(folder / "checkpoint-3" / "model.safetensors")
        assert all(torch.equal(again.model.state_dict()[name], value) for name, value in saved.items())

    def test_a_sampler_without_epochs_draws_the_order_of_the_epoch_in_which_a_run_goes_on(self, run):
        def orders(epochs):
            sampler = LengthGroupedSampler(2, lengths=list(range(20)))
            loader = DataLoader(range(20), batch_size=2, sampler=sampler)
            found = []
            for epoch in epochs:
                run._set_epoch(loader, epoch, first=epoch == epochs[0])
                found.append(list(sampler))
            return found

        straight = orders([0, 1, 2, 3])
        assert orders([2, 3]) == straight[2:] and straight[1] != straight[2] != straight[3]


def damage(checkpoint, name):
    """Cut a file off in the middle, or remove it."""
    path = checkpoint / name.removeprefix("-")
    if name.startswith("-"):
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
