"""Training runs in processes of their own that can be killed: the program of test_resume.py.

A server has imported everything and computed nothing. It forks off each run, which so costs no import.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import torch
from multi_process import free_port
from training_support import row, targets, tiny_model, tiny_processor, training_args, uneven_rows, video
from transformers import TrainerCallback

from geovr_hf import GeometryTargets, GeoVRDataCollator, GeoVRTrainer
from geovr_hf.cli import main
from geovr_hf.data import StreamingVideoDataset
from geovr_hf.trainers import geovr_lora_config, resumable
from geovr_hf.trainers.geovr_trainer import LOSS_ITEMS


# Three or four updates are an epoch, and the last batch of one stands alone. Checkpoints cut logging windows in two.
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
    "packed": {
        "max_questions_per_clip": 2,
        "dataloader_persistent_workers": True,
        "save_total_limit": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "eval_answers": False,
    },
    "padded": {"packing": False},
    "packed stream": {"max_questions_per_clip": 2, "dataloader_persistent_workers": True},
    "padded stream": {"packing": False, "per_device_train_batch_size": 2},
}
CLIPS = [1, 2, 3, 2, 1, 3, 1, 2, 3, 1, 2, 3, 1]  # each so many frames long


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


def train(folder, media, mode, kill_at=None, resume=False, rank=None, port=None):
    """Train, from the start or the newest whole checkpoint, and write down losses and a digest of what was learnt.

    `kill_at` is a step, or the step and the name of what is done last in saving it.
    """
    processes = {}
    if rank is not None:
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
        processes = {"ddp_backend": "gloo", "gradient_accumulation_steps": 1, "dataloader_persistent_workers": False}
        processes |= {"dataloader_num_workers": 0, "eval_strategy": "no"}
    model = tiny_model(objectives=["camera", "depth", "scale"])
    trainer = GeoVRTrainer(
        model,
        training_args(folder, **COMMON | MODES[mode] | processes),
        GeoVRDataCollator(tiny_processor()),
        train_dataset=streamed_rows(media) if "stream" in mode else indexed_rows(),
        eval_dataset=uneven_rows()[:1],
        peft_config=geovr_lora_config(model, r=4, lora_dropout=0.3),  # which draws in every step
        callbacks=[Kill(kill_at)] if isinstance(kill_at, int) else [],
    )
    if isinstance(kill_at, list):
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
    """Two clips with three questions each, and a row without a clip."""
    shared = [(video(2, seed=seed), targets(2, seed=seed)) for seed in (11, 12)]
    asked = [
        row(answer, clip, clip_targets=[target], question=f"{answer} chairs?")
        for answer in ("4", "seven", "B")
        for clip, target in shared
    ]
    return [uneven_rows()[1], *asked]


def streamed_rows(media):
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
        for number, clip in enumerate(CLIPS, start=1)
    ]
    return StreamingVideoDataset(
        rows, media, num_frames=2, min_frames=1, shuffle_buffer=8, seed=3, teacher=ScaleReader()
    )


class Server:
    """Where runs are forked off, from `with Server() as server:` to the end of the block."""

    def __enter__(self):
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait(60)

    def start(self, *arguments, num_processes=1, **options) -> list[int]:
        """Begin a run of `train`, or with arguments alone of the command line; tells the ids of its processes."""
        runs = [[arguments, options]]
        if num_processes > 1:
            port = free_port()
            runs = [[arguments, options | {"rank": rank, "port": port}] for rank in range(num_processes)]
        print(json.dumps(runs), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def wait(self) -> list[int]:
        """Exit codes of the run begun last, -9 for a process that was killed."""
        return json.loads(self._process.stdout.readline())

    def run(self, *arguments, **options) -> list[int]:
        """Do a run of `train`, in one or more processes, to its end."""
        self.start(*map(str, arguments), **options)
        return self.wait()


def serve():
    """Run what the lines of standard input say."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        processes = [fork(*run) for run in json.loads(line)]
        print(json.dumps(processes), flush=True)
        codes = []
        for process in processes:
            if any(codes):  # without the first, the others would wait for ever
                os.kill(process, signal.SIGKILL)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        print(json.dumps(codes), flush=True)


def fork(arguments, options) -> int:
    process = os.fork()
    if process:
        return process
    os.dup2(2, 1)  # standard output tells of processes alone
    try:
        code = train(*arguments, **options) if "kill_at" in options else main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve()
