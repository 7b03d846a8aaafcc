"""Training runs in processes of their own that can be killed: the program of test_resume.py.

A server process has imported everything but computed nothing; each run is forked from it, so it costs no import.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import torch
from clip_files import write_video
from transformers import TrainerCallback
from training_support import row, targets, tiny_model, tiny_processor, training_args, uneven_rows, video

from geovr_hf import GeometryTargets, GeoVRDataCollator, GeoVRTrainer
from geovr_hf.data import StreamingVideoDataset
from geovr_hf.trainers import geovr_lora_config, resumable
from geovr_hf.trainers.geovr_trainer import LOSS_ITEMS


# Three updates make an epoch of rows by index, and of a stream. No checkpoint but the second ends a logging window.
COMMON = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 3,
    "lr_scheduler_type": "cosine",
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "dataloader_num_workers": 2,
}
MODES = {
    "packed": {"max_questions_per_clip": 2, "dataloader_persistent_workers": True, "save_total_limit": 1},
    "padded": {"packing": False},
    "packed stream": {"max_questions_per_clip": 2, "dataloader_persistent_workers": True},
    "padded stream": {"packing": False},
}


class Kill(TrainerCallback):
    """Kills the process at the end of an update, before it is logged and saved."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


class ScaleReader:
    def targets(self, clip):
        return GeometryTargets(metric_scale=1 + torch.tensor(float(len(clip.frames))))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder, mode, kill_at=None, resume=False, rank=None, port=None):
    """Train, from the start or the newest whole checkpoint, and write down losses and a digest of what was learnt.

    `kill_at` is a step, or the step and the name of what is done last in saving it.
    """
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers; the server's own is inherited
    processes = {}
    if rank is not None:
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
        processes = {"ddp_backend": "gloo", "gradient_accumulation_steps": 1, "dataloader_num_workers": 0}
    arguments = training_args(folder, **COMMON | MODES[mode] | processes)
    stream = "stream" in mode
    model = tiny_model(seed=int(resume), **{"objectives": ["scale"]} if stream else {})
    adapter = None
    if not stream:  # its dropout draws in every step
        model = tiny_model()
        adapter = geovr_lora_config(model, r=4, lora_dropout=0.3)
    trainer = GeoVRTrainer(
        model,
        arguments,
        GeoVRDataCollator(tiny_processor()),
        train_dataset=streamed_rows(folder) if stream else indexed_rows(),
        peft_config=adapter,
        callbacks=[Kill(kill_at)] if isinstance(kill_at, int) else [],
    )
    if isinstance(kill_at, tuple):
        kill_after(trainer, *kill_at)
    trainer.train(resume_from_checkpoint=resume)
    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    names = ("step", "loss", "grad_norm", *LOSS_ITEMS)
    logs = [{name: log[name] for name in names if name in log} for log in trainer.state.log_history if "loss" in log]
    if trainer.is_world_process_zero():
        (Path(folder) / "result.json").write_text(json.dumps({"logs": logs, "parameters": digest.hexdigest()}))
    trainer.end()


def kill_after(trainer, step, name):
    """Let the process die when a part of saving a step's checkpoint is done."""
    owner = trainer if hasattr(trainer, name) else resumable
    part = getattr(owner, name)

    def last(*args, **kwargs):
        if trainer.state.global_step != step:
            return part(*args, **kwargs)
        if name != "publish":  # else before it: all is written, nothing is named
            part(*args, **kwargs)
        return die()

    setattr(owner, name, last)


def indexed_rows():
    shared = [(video(2, seed=seed), targets(2, seed=seed)) for seed in (11, 12)]
    asked = [
        row(answer, clip, clip_targets=[target], question=f"{answer} chairs?")
        for answer in ("4", "seven", "B")
        for clip, target in shared
    ]
    return [*uneven_rows()[:2], *asked] if len(asked) == 6 else asked


def streamed_rows(folder):
    root = Path(folder).parent / "media"
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "video", "video": f"{clip}.mp4"}, {"type": "text", "text": "How many?"}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "4 " * number}]},
            ]
        }
        for number, clip in enumerate([1, 2, 3, 2, 1, 3, 1, 2, 3, 1, 2, 3], start=1)
    ]
    return StreamingVideoDataset(
        rows, root, num_frames=2, min_frames=1, shuffle_buffer=8, seed=3, teacher=ScaleReader()
    )


def write_media(folder):
    root = Path(folder) / "media"
    root.mkdir()
    for length in (1, 2, 3):
        write_video(root / f"{length}.mp4", num_frames=length + 1)


def start(*arguments, num_processes=1, **options) -> list[int]:
    """Do a run in one or two processes of their own.

    Returns:
        `list[int]`: Exit codes, -9 for a process that was killed.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["killable_run"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = [{}] if num_processes == 1 else [{"rank": rank, "port": port} for rank in range(num_processes)]
    processes = [server.Process(target=run, args=arguments, kwargs=options | rank) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]
