"""See the whole path once: train, save, reload and question a tiny model, in a few minutes on two CPU cores.

A model of about a million parameters of Qwen3-VL's architecture, random weights, learns from synthetic furnished rooms
with all four geometric objectives. Held-out rooms are evaluated before and after, beside the same training without
geometry and a guesser that never sees a clip. The saved checkpoint is loaded in a fresh process, which answers
questions about a room it never saw and predicts its depth, camera path and metric scale.

The folder gets model/ (checkpoint and card), pictures/, unseen-room/ (frames, questions, answers) and metrics.json.
Options of the demo's recipe can be overridden as in `geovr train`:

  geovr demo --out my-demo --seed 3 --training.max_steps 100
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from geovr_hf.commands.output_folder import check_output_folder


TAKES_OVERRIDES = True


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr demo`."""
    parser.add_argument(
        "--out", default="geovr-demo", metavar="DIR", help="folder for the results (default: geovr-demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed: other rooms, other weights (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo in DIR")


def run(arguments: Namespace) -> None:
    """Run the demo from end to end."""
    import torch
    from transformers.utils import logging

    from geovr_hf.commands import demo_reload, demo_report, demo_runs
    from geovr_hf.commands.build_data import build_data
    from geovr_hf.commands.build_model import build_processor
    from geovr_hf.commands.train import card_writer
    from geovr_hf.visualization.plotting import import_matplotlib

    started = time.perf_counter()
    out = check_output_folder(arguments.out, arguments.overwrite)
    recipe = seeded_recipe(arguments)
    import_matplotlib()  # needed last, after the training
    logging.set_verbosity_error()  # the heads that start from scratch are no news here

    _say("1/6  Rooms", "rendering training and held-out rooms; their seeds are disjoint")
    data = build_data(recipe.data, recipe.teacher)
    unseen = build_data(unseen_room(recipe), None).train
    processor = build_processor(recipe.model, recipe.processor, data.texts())
    shown = first_rows_of_rooms(data.evaluation, 3)

    _say("2/6  Training with geometry", "and beside it, the same without: same backbone, rows, order and steps")
    # Half of the cores for each of the two trainings.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    wait_for_language_only = demo_runs.start_language_only(recipe, data, processor)
    full = demo_runs.train_with_geometry(recipe, data, processor, shown)
    _say("3/6  Without geometry", "waiting for the other training")
    language_only = wait_for_language_only()
    blind = demo_runs.blind_answers(data.evaluation) | demo_runs.blind_geometry(data.train, data.evaluation)

    _say("4/6  Saving", str(out / "model"))
    full.trainer.save_model(str(out / "model"))

    _say("5/6  A fresh process", "loads the checkpoint, answers and reconstructs a room never seen")
    answers, predicted = ask_fresh_process(out / "model", out / "unseen-room", unseen.rows)
    truth = demo_runs.true_geometry(unseen[0]["geometry_targets"])

    _say("6/6  Pictures, metrics, model card", str(out))
    columns = demo_report.columns_of(blind, full, language_only)
    clip, _ = demo_reload.read_room(out / "unseen-room")
    captions = demo_report.write_pictures(
        out / "pictures", columns, full, language_only, shown, clip, (truth, predicted)
    )
    shutil.copytree(out / "pictures", out / "model" / "pictures", dirs_exist_ok=True)
    demo_report.write_card(
        out / "model",
        card_writer(full.trainer).data,
        captions,
        demo_report.card_evaluation(columns, len(data.evaluation)),
    )
    metrics = {
        "seed": arguments.seed,
        "held_out_rooms": columns,
        "unseen_room": {
            **answers,
            "true_metric_scale": float(truth.metric_scale),
            "predicted_metric_scale": float(predicted.metric_scale),
        },
        "seconds": {
            "training with geometry": full.seconds,
            "training without": language_only.seconds,
            "everything": time.perf_counter() - started,
        },
        "torch_threads": torch.get_num_threads(),
    }
    demo_reload.write_json(out / "metrics.json", metrics)
    print_results(demo_report.final_table(columns), metrics, out)


def ask_fresh_process(checkpoint: Path, room: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """Let a new Python process answer and reconstruct from the saved files alone.

    Returns:
        What it answered, and the [`GeoVRGeometry`] that it predicted.
    """
    from geovr_hf.commands import demo_reload

    demo_reload.write_room(room, rows[0], [_question(row) for row in rows])
    subprocess.run([sys.executable, "-m", "geovr_hf.commands.demo_reload", str(checkpoint), str(room)], check=True)
    answers = json.loads((room / "answers.json").read_text(encoding="utf-8"))
    return answers, demo_reload.read_geometry(room)


def seeded_recipe(arguments: Namespace):
    """The demo's recipe with `--out` and `--seed` filled in.

    A seed stands for three seeds of rooms (training, evaluation, the unseen room) that no other seed shares.
    """
    from geovr_hf.recipe import load_recipe

    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}.")
    recipe = load_recipe("demo", arguments.overrides)
    recipe.output = str(Path(arguments.out) / "model")
    (rooms,) = recipe.data.sources
    rooms.seed, rooms.eval_seed = rooms.seed + 3 * arguments.seed, rooms.eval_seed + 3 * arguments.seed
    recipe.training["seed"] = arguments.seed
    return recipe


def unseen_room(recipe):
    """The recipe's data with one room only, of a seed that neither training nor evaluation uses."""
    import copy

    data = copy.deepcopy(recipe.data)
    (rooms,) = data.sources
    rooms.seed, rooms.num_rooms, rooms.num_eval_rooms, rooms.turns = rooms.eval_seed + 1, 1, 0, 1
    return data


def first_rows_of_rooms(rows, count: int) -> list[dict[str, Any]]:
    """One row of each of the first rooms."""
    found: dict[str, dict[str, Any]] = {}
    for index in range(len(rows)):
        found.setdefault(rows[index]["room"], rows[index])
    return list(found.values())[:count]


def print_results(table: str, metrics: dict[str, Any], out: Path) -> None:
    """Say what came out, and what to try next."""
    room = metrics["unseen_room"]
    print(f"\n{table}\n")
    print(f"A room never seen, asked in a fresh process ({room['model_class']}):")
    for entry in room["answers"]:
        print(f"  {entry['question_type']}: {entry['model']} (true: {entry['answer']})")
    predicted, true = room["predicted_metric_scale"], room["true_metric_scale"]
    print(f"  metric scale: {predicted:.2f} m per unit (true: {true:.2f})")
    minutes, seconds = divmod(round(metrics["seconds"]["everything"]), 60)
    print(f"\n{minutes} min {seconds} s. Pictures: {out / 'pictures'}. Card: {out / 'model' / 'README.md'}. Try next:")
    print(f"  geovr reconstruct {out / 'model'} {out / 'unseen-room' / 'frames'} --out {out / 'reconstruction'}")


def _question(row: dict[str, Any]) -> dict[str, str]:
    return {
        "question_type": row["question_type"],
        "question": row["messages"][0]["content"][1]["text"],
        "answer": row["answer"],
    }


def _say(stage: str, detail: str) -> None:
    print(f"\n{stage}: {detail}", flush=True)
