"""The demo's runs: one training with geometry and the same one without, each evaluated before and after."""

import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from geovr_hf.commands.build_data import RunData
from geovr_hf.commands.progress import show_one_line
from geovr_hf.commands.rendered_rooms import RenderedRooms
from geovr_hf.commands.train import build_trainer
from geovr_hf.data.rooms.blind import blind_scores
from geovr_hf.modeling import GeometryTargets, GeoVRGeometry, GeoVRProcessor
from geovr_hf.modeling.prediction_geovr import metric_geometry
from geovr_hf.recipe import Recipe
from geovr_hf.trainers import GeoVRTrainer
from geovr_hf.trainers.metrics import average_scores, geometry_errors, name_geometry_means


NOT_METRICS = ("_runtime", "_per_second", "epoch", "model_preparation_time")
NOT_INPUTS = ("labels", "geometry_targets")


@dataclass
class Run:
    """One training of the demo.

    Args:
        trainer ([`GeoVRTrainer`], *optional*): with the trained model; not of a run in another process.
        history (`list[dict]`): what was logged.
        before (`dict[str, float]`): metrics on the held-out rooms of the model as it was made.
        after (`dict[str, float]`): the same after training.
        shown (`dict[str, list[GeoVRGeometry]]`): geometry of the rooms to be drawn, `"before"` and `"after"`.
        seconds (`float`): duration of the training.
    """

    trainer: GeoVRTrainer | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    shown: dict[str, list[GeoVRGeometry]] = field(default_factory=dict)
    seconds: float = 0.0


def train_with_geometry(recipe: Recipe, data: RunData, processor: GeoVRProcessor, shown: list[dict[str, Any]]) -> Run:
    """Train with all objectives of the recipe.

    Args:
        recipe ([`Recipe`]): the demo's recipe.
        data (`RunData`): its rooms.
        processor ([`GeoVRProcessor`]): its processor.
        shown (`list[dict]`): rows of the rooms whose predictions are to be drawn.
    """
    run = Run(_build_trainer(recipe, data, processor))
    run.before = _evaluate(run.trainer)
    run.shown["before"] = predict_rows(run.trainer, shown)
    _train(run)
    run.after = _evaluate(run.trainer)
    run.shown["after"] = predict_rows(run.trainer, shown)
    return run


def start_language_only(recipe: Recipe, data: RunData, processor: GeoVRProcessor) -> Callable[[], Run]:
    """Begin the training without geometry on cores of its own, beside the one with it.

    Small matrices keep one core busy, not two: side by side, both trainings take hardly longer than one.

    Returns:
        A function that waits for the run and returns it, without its trainer.
    """
    if "fork" not in multiprocessing.get_all_start_methods():  # Windows: one after the other
        return lambda: train_language_only(recipe, data, processor)
    context = multiprocessing.get_context("fork")  # shares the rendered rooms
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_language_only, args=(sender, recipe, data, processor))
    process.start()
    sender.close()

    def wait() -> Run:
        try:
            return receiver.recv()
        except EOFError:
            raise RuntimeError("The training without geometry broke off; its own error stands above.") from None
        finally:
            process.join()

    return wait


def _send_language_only(sender: Connection, recipe: Recipe, data: RunData, processor: GeoVRProcessor) -> None:
    recipe = copy.deepcopy(recipe)
    recipe.training["disable_tqdm"] = True
    run = train_language_only(recipe, data, processor)
    run.trainer = None
    sender.send(run)


def train_language_only(recipe: Recipe, data: RunData, processor: GeoVRProcessor) -> Run:
    """The same training without geometry: same initial backbone, same rows in the same order, same number of steps.

    It is only measured, not kept.
    """
    recipe = copy.deepcopy(recipe)
    recipe.model.config["objectives"] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe.output = folder
        run = Run(_build_trainer(recipe, data, processor))
        _train(run)
        run.after = _evaluate(run.trainer)
    return run


def _build_trainer(recipe: Recipe, data: RunData, processor: GeoVRProcessor) -> GeoVRTrainer:
    trainer = build_trainer(recipe, data, processor)
    show_one_line(trainer)
    return trainer


def _train(run: Run) -> None:
    started = time.perf_counter()
    run.trainer.train()
    run.seconds = time.perf_counter() - started
    run.history = run.trainer.state.log_history


def _evaluate(trainer: GeoVRTrainer) -> dict[str, float]:
    """Metrics on the held-out rooms, without prefix and without timings."""
    metrics = trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in metrics.items() if not name.endswith(NOT_METRICS)}


@torch.no_grad()
def predict_rows(trainer: GeoVRTrainer, rows: list[dict[str, Any]]) -> list[GeoVRGeometry]:
    """The model's metric geometry of the rows' clips, on the CPU."""
    trainer.model.eval()
    predicted = []
    for row in rows:
        batch = trainer.data_collator([row])
        inputs = {name: batch[name].to(trainer.model.device) for name in batch if name not in NOT_INPUTS}
        (geometry,) = trainer.model.predict_geometry(**inputs)
        predicted.append(GeoVRGeometry(**{name: value.cpu() for name, value in vars(geometry).items()}))
    return predicted


def true_geometry(targets: GeometryTargets) -> GeoVRGeometry:
    """Exact targets in metres, in the form of a prediction."""
    return metric_geometry(targets.pose_enc, targets.depth, targets.metric_scale)


def blind_answers(rooms: RenderedRooms) -> dict[str, float]:
    """What a guesser scores who reads the held-out questions and never sees a clip, named as the trainer's metrics.

    It is the better of two guessers of `geovr_hf.data.rooms.blind`, one of which even knows the answer that scores
    best on these very questions: the bar is rather too high than too low.
    """
    scores = blind_scores(rooms.questions)
    return average_scores((kind, max(found["constant"], found["words"])) for kind, found in scores.items())


def blind_geometry(train: RenderedRooms, rows: RenderedRooms) -> dict[str, float]:
    """Errors on held-out rooms of one guess for all: median depth map, camera path and scale of the training rooms."""
    # Rows of one room share their targets.
    targets = list({id(row["geometry_targets"]): row["geometry_targets"] for row in train.rows}.values())
    pose = torch.stack([target.pose_enc for target in targets]).median(dim=0).values
    depth = torch.stack([target.depth for target in targets]).median(dim=0).values
    scale = torch.stack([target.metric_scale for target in targets]).median()
    errors: dict[str, list[float]] = {}
    for index in range(len(rows)):
        for name, error in geometry_errors(rows[index]["geometry_targets"], pose, depth, scale).items():
            errors.setdefault(name, []).append(float(error))
    return name_geometry_means({name: float(np.mean(values)) for name, values in errors.items()})
