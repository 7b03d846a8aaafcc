"""The controlled study: what each geometric objective adds to a small student on synthetic rooms.

    export PYTHONPATH=.:tests/benchmarks
    python -m study render                          # once a machine: all rooms, all cores
    python -m study warm-up                         # once a machine: the backbone all arms start from
    python -m study blind                           # guessers that see no clip
    python -m study cost                            # seconds and memory of a step of each arm, by itself
    python -m study run language:0 all:0 --minutes 9
    python -m study report results --out docs/study # tables and figures of all results there
    python -m study tiny --data runs/study-tiny     # everything, very small, on a CPU

`run` takes arms as NAME:SEED, trains up to --at-once of them side by side on each GPU, evaluates each and writes
OUT/NAME-SEED.json. Arms whose file exists are passed over. An arm that is not done when the minutes are over leaves a
checkpoint, and the same command goes on from there. Exit status 3: some arm is not done.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from .settings import ARMS, TINY, Study
from .stages import UNFINISHED, run_arm, run_blind, run_cost
from .training import warm_up


NUMBERS = (
    "steps",
    "rehearsed_questions",
    "warm_steps",
    "warm_rows",
    "warm_rooms",
    "train_rooms",
    "test_rooms",
    "shifted_rooms",
    "clips_per_batch",
    "curve_rooms",
    "longer",
    "learning_rate",
)


def read_arguments(words: list[str] | None) -> argparse.Namespace:
    """Take apart the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["render", "warm-up", "blind", "cost", "run", "report", "tiny"])
    parser.add_argument(
        "names", nargs="*", help="arms as NAME:SEED; rooms to render; arms to time; the folder of results to report"
    )
    parser.add_argument("--data", type=Path, default=Path("runs/study"), help="rooms, checkpoints: on this machine")
    parser.add_argument("--out", type=Path, default=Path("results"), help="result files, or the report's folder")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for training, from now")
    parser.add_argument("--at-once", type=int, default=3, help="arms that train side by side on each GPU")
    parser.add_argument("--workers", type=int, help="processes that render, or prepare batches for each arm")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="the tiny settings")
    parser.add_argument("--compile-layers", action="store_true", default=None, help="compile the student's layers")
    parser.add_argument("--profile", action="store_true", help="with `cost`: where the time goes, on a GPU")
    for name in NUMBERS:
        value = getattr(Study(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"instead of {value}")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Run a command."""
    arguments = read_arguments(words)
    changed = {name: value for name, value in vars(arguments).items() if hasattr(Study, name) and value is not None}
    study = replace(TINY if arguments.small or arguments.command == "tiny" else Study(), **changed)
    cores = len(os.sched_getaffinity(0))
    workers = min(cores - 1, 8) if arguments.workers is None else arguments.workers
    if arguments.command == "render":
        from .rendering import render

        render(study, arguments.names or list(study.sets()), arguments.data / "rooms", arguments.workers or cores)
    elif arguments.command == "warm-up":
        use_one_gpu()
        warm_up(study, arguments.data / "rooms", arguments.data / "models", workers)
    elif arguments.command == "blind":
        run_blind(study, arguments.data / "rooms", arguments.out)
    elif arguments.command == "cost":
        use_one_gpu()
        run_cost(study, arguments.names, arguments.data, arguments.out, workers, arguments.profile)
    elif arguments.command == "report":
        from .report import write_report

        (folder,) = arguments.names
        write_report(Path(folder), arguments.out)
    elif arguments.command == "tiny":
        return run_tiny(arguments.data)
    else:
        return run(arguments, study, words if words is not None else sys.argv[1:], cores)
    return 0


def run(arguments: argparse.Namespace, study: Study, words: list[str], cores: int) -> int:
    """Run the arms that have no result yet."""
    arms = [(arm, int(seed)) for arm, _, seed in (name.partition(":") for name in arguments.names)]
    unknown = [arm for arm, _ in arms if arm not in ARMS]
    if unknown or not arms:
        raise SystemExit(f"Name arms as NAME:SEED with a name of {', '.join(ARMS)}; got {arguments.names}.")
    deadline = arguments.deadline or time.time() + 60 * arguments.minutes
    missing = [arm for arm in arms if not (arguments.out / f"{arm[0]}-{arm[1]}.json").exists()]
    if not missing:
        return 0
    gpus = gpu_names()
    at_once = min(arguments.at_once * max(len(gpus), 1), len(missing))
    workers = max(cores // at_once - 1, 1) if arguments.workers is None else arguments.workers
    if len(arms) == 1:
        use_one_gpu()
        ((arm, seed),) = arms
        return run_arm(study, arm, seed, arguments.data, arguments.out, deadline, workers)
    options = [word for word in words[1:] if word not in arguments.names]
    common = ["--deadline", str(deadline), "--workers", str(workers)]
    commands = [["run", f"{arm}:{seed}", *options, *common] for arm, seed in missing]
    return run_side_by_side(commands, at_once, gpus, deadline)


def gpu_names() -> list[str]:
    """The GPUs of this machine as `CUDA_VISIBLE_DEVICES` names them; none on a CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(gpu) for gpu in range(torch.cuda.device_count())]


def use_one_gpu() -> None:
    """Let this process see the first of several GPUs: a run is for one."""
    if torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_names()[0]


def run_side_by_side(commands: list[list[str]], at_once: int, gpus: list[str], deadline: float) -> int:
    """Run commands of this program as processes, some at a time, spread over the GPUs.

    Returns:
        `int`: The worst exit status; that of an arm that is not done if the time is up before all have begun.
    """
    waiting, running, status = list(commands), {}, 0
    while waiting or running:
        if waiting and time.time() > deadline:
            status, waiting = max(status, UNFINISHED), []
        while waiting and len(running) < at_once:
            gpu = min(gpus, key=list(running.values()).count, default=None)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            if gpu is not None:
                environment["CUDA_VISIBLE_DEVICES"] = gpu
            words = [sys.executable, "-m", __package__, *waiting.pop(0)]
            running[subprocess.Popen(words, env=environment)] = gpu
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            del running[process]
            status = max(status, abs(process.returncode))
    return status


def run_tiny(data: Path) -> int:
    """Everything in small: rooms, warm-up, guessers, three arms, one of them stopped and gone on with, report."""
    results = data / "results"
    common = ["--small", "--data", str(data), "--out", str(results), "--workers"]
    for command in ("render", "warm-up", "blind"):
        main([command, *common, "1" if command == "render" else "0"])
    main(["cost", "language", "all", *common, "0"])
    stopped = main(["run", "all:0", *common, "0", "--minutes", "0"])
    if stopped != UNFINISHED or list(results.glob("all*")):
        raise RuntimeError("An arm without any time did not stop.")
    for arm in ("all:0", "language:0", "scale:0"):
        main(["run", arm, *common, "0"])
    return main(["report", str(results), "--out", str(data / "report")])


if __name__ == "__main__":
    sys.exit(main())
