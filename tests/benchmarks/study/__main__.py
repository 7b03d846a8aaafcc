"""The controlled study: what each geometric objective adds to a small student on synthetic rooms.

    export PYTHONPATH=.:tests/benchmarks
    python -m study render --data /tmp/rooms                          # once a machine: all sets, all cores
    python -m study run language:0 all:0 --data /tmp/rooms --out results --minutes 9
    python -m study report docs/study/results --out docs/study        # tables and figures of all results there
    python -m study tiny --out /tmp/study                             # everything, very small, on a CPU

`run` takes arms as NAME:SEED, trains up to --at-once of them side by side, evaluates each and writes
results/NAME-SEED.json. Arms whose file exists are passed over. An arm that is not done when the minutes are over
leaves a checkpoint in --work, and the same command goes on from there. Exit status 3: some arm is not done.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from .settings import ARMS, TINY, VIEWS, Study


UNFINISHED = 3


def run_arm(
    study: Study, arm: str, seed: int, data: Path, work: Path, out: Path, deadline: float, workers: int
) -> int:
    """Train and evaluate one arm; its result file is written last, whole."""
    from geovr_hf.visualization.atomic_files import atomic_path

    from . import answers, probes, training

    trainer, clock = training.train(study, arm, seed, data, work, deadline, workers)
    if clock.out_of_time:
        print(f"{arm}:{seed} is not done: step {trainer.state.global_step} of {study.steps_of(arm)}", flush=True)
        return UNFINISHED
    began = time.perf_counter()
    test, shifted = answers.open_set(data, "test"), answers.open_set(data, "shifted")
    sets = {f"test/{view}": answers.open_set(data, "test", view) for view in VIEWS} | {"shifted/clip": shifted}
    errors, shown = answers.geometry(trainer, test)
    result = {
        "arm": arm,
        "seed": seed,
        "objectives": ARMS[arm],
        "study": study.to_dict(),
        "answers": {name: answers.answer(trainer, rooms, workers) for name, rooms in sets.items()},
        "geometry": {"test": errors, "shifted": answers.geometry(trainer, shifted)[0]},
        "shown": shown,
        "probes": probes.probe(trainer, answers.StoredRooms(data / "train", study.probe_rooms), test),
        "history": trainer.state.log_history,
        "cost": training.cost(trainer, clock, study, arm) | {"evaluation_seconds": time.perf_counter() - began},
    }
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / f"{arm}-{seed}.json") as temporary:
        temporary.write_text(json.dumps(result))
    print(f"{arm}:{seed} done", flush=True)
    return 0


def run_blind(study: Study, data: Path, out: Path) -> None:
    """What guessers score that see no clip: by questions, and by the geometry of the training rooms."""
    from geovr_hf.data.rooms.blind import blind_scores
    from geovr_hf.visualization.atomic_files import atomic_path

    from . import answers

    train = answers.open_set(data, "train")
    found = {}
    for name in ("test", "shifted"):
        rooms = answers.open_set(data, name)
        found[name] = {
            "answers": blind_scores(rooms.questions()),
            "geometry": answers.guessed_geometry(train, rooms),
        }
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "blind.json") as temporary:
        temporary.write_text(json.dumps(found | {"study": study.to_dict()}))


def run_side_by_side(words: list[list[str]], at_once: int) -> int:
    """Run commands of this program as processes of their own, some at a time; the worst exit status."""
    waiting, running, status = list(words), [], 0
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(subprocess.Popen([sys.executable, "-m", __package__, *waiting.pop(0)]))
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            status = max(status, abs(process.returncode))
    return status


def main(words: list[str] | None = None) -> int:
    """Take apart the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["render", "run", "blind", "report", "tiny"])
    parser.add_argument("names", nargs="*", help="arms as NAME:SEED, or the folder of results to report")
    parser.add_argument("--data", type=Path, default=Path("/tmp/study/rooms"), help="rendered rooms")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/study/checkpoints"), help="checkpoints, on this machine"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="result files, or the report's folder")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for training, from now")
    parser.add_argument("--at-once", type=int, default=1, help="arms that train side by side on this machine")
    parser.add_argument("--workers", type=int, help="processes that prepare batches, for each arm")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="the tiny settings")
    for name in ("steps", "train_rooms", "test_rooms", "shifted_rooms", "clips_per_batch", "longer", "learning_rate"):
        kind = type(getattr(Study(), name))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"instead of {getattr(Study(), name)}")
    arguments = parser.parse_args(words)
    changed = {name: value for name, value in vars(arguments).items() if hasattr(Study, name) and value is not None}
    study = replace(TINY if arguments.small or arguments.command == "tiny" else Study(), **changed)
    cores = os.cpu_count() or 1

    if arguments.command == "render":
        from .shards import render

        for rooms in study.sets().values():
            render(study, rooms, arguments.data / rooms.name, cores)
    elif arguments.command == "blind":
        run_blind(study, arguments.data, arguments.out)
    elif arguments.command == "report":
        from .report import write_report

        (folder,) = arguments.names
        write_report(Path(folder), arguments.out)
    elif arguments.command == "tiny":
        return run_tiny(arguments.out)
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
    workers = arguments.workers
    if workers is None:
        workers = max((cores - 2) // max(min(arguments.at_once, len(missing)), 1) - 1, 0)
    if len(arms) == 1:
        (arm, seed), place = arms[0], (arguments.data, arguments.work, arguments.out)
        return run_arm(study, arm, seed, *place, deadline, workers) if missing else 0
    options = [word for word in words[1:] if word not in arguments.names]
    common = ["--deadline", str(deadline), "--workers", str(workers)]
    return run_side_by_side([["run", f"{arm}:{seed}", *options, *common] for arm, seed in missing], arguments.at_once)


def run_tiny(out: Path) -> int:
    """Everything in small: rooms, guessers, three arms, one of them stopped and gone on with, report."""
    common = ["--small", "--data", str(out / "rooms"), "--work", str(out / "work"), "--out", str(out / "results")]
    main(["render", *common])
    main(["blind", *common])
    stopped = main(["run", "all:0", *common, "--minutes", "0", "--workers", "0"])
    if stopped != UNFINISHED:
        raise RuntimeError("An arm without any time did not stop.")
    for arm in ("all:0", "language:0", "untrained:0"):
        main(["run", arm, *common, "--workers", "0"])
    main(["report", str(out / "results"), "--out", str(out)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
