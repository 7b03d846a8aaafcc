"""One arm from training to its result file, and the guessers."""

import json
import time
from pathlib import Path

from geovr_hf.data.rooms.blind import blind_scores
from geovr_hf.visualization.atomic_files import atomic_path

from . import answers, cost, probes, training
from .rooms import StoredRooms
from .settings import ARMS, CONTROLS, VIEWS, Study


UNFINISHED = 3


def run_arm(study: Study, arm: str, seed: int, data: Path, out: Path, deadline: float, workers: int) -> int:
    """Train and evaluate one arm; its result file is written last, whole.

    Returns:
        `int`: 0, or `UNFINISHED` if the time was up before the last step.
    """
    rooms = data / "rooms"
    trainer, clock = training.train(study, arm, seed, rooms, data / "models", deadline, workers)
    if clock.out_of_time:
        print(f"{arm}:{seed} is not done: step {trainer.state.global_step} of {study.steps_of(arm)}", flush=True)
        return UNFINISHED
    began = time.perf_counter()
    test, shifted = StoredRooms(rooms / "test"), StoredRooms(rooms / "shifted")
    sets = {f"test/{view}": StoredRooms(rooms / "test", view=view) for view in VIEWS} | {"shifted/clip": shifted}
    answered = {name: answers.answer(trainer, asked, workers) for name, asked in sets.items()}
    trainer.model.eval()
    errors, shown = answers.geometry(trainer, test)
    result = {
        "arm": arm,
        "seed": seed,
        "objectives": ARMS[arm],
        "study": study.to_dict(),
        "warm_up": training.warm_up_facts(data / "models"),
        "answers": answered,
        "skills": answers.flat_skills(trainer, rooms, workers),
        "geometry": {"test": errors, "shifted": answers.geometry(trainer, shifted)[0]},
        "shown": shown,
        "probes": probes.probe(trainer, StoredRooms(rooms / "train", study.probe_rooms), test),
        "curve": clock.curve,
        "history": [entry for entry in trainer.state.log_history if "lm_loss" in entry],
        "seconds": {"training": clock.seconds, "evaluation": time.perf_counter() - began},
    }
    with atomic_path(out / f"{arm}-{seed}.json") as temporary:
        temporary.write_text(json.dumps(result))
    means = answers.mean_scores(result["answers"]["test/clip"])
    seconds = ", ".join(f"{value:.0f} s of {name}" for name, value in result["seconds"].items())
    print(f"{arm}:{seed} done, {seconds}; {', '.join(f'{k} {100 * v:.1f}' for k, v in means.items())}", flush=True)
    return 0


def run_blind(study: Study, data: Path, out: Path) -> None:
    """What guessers score that see no clip: of the words of questions, and of the geometry of training rooms."""
    train, found = StoredRooms(data / "train"), {}
    for name in ("test", "shifted"):
        rooms = StoredRooms(data / name)
        asked = [rooms.asked(room) for room in range(rooms.num_rooms)]
        found[name] = {"answers": blind_scores(asked), "geometry": answers.guessed_geometry(train, rooms)}
    with atomic_path(out / "blind.json") as temporary:
        temporary.write_text(json.dumps(found | {"study": study.to_dict()}))


def run_cost(study: Study, arms: list[str], data: Path, out: Path, workers: int, profiled: bool) -> None:
    """What a step of the named arms, or of all that are no controls, costs."""
    arms = arms or [arm for arm in ARMS if arm not in CONTROLS]
    found = cost.measure_costs(study, arms, data / "rooms", data / "models", workers, profiled)
    with atomic_path(out / "cost.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2))
