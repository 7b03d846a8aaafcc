"""Collects the facts of a model card while the model is trained."""

import csv
import os
import time
from collections.abc import Callable, Sized
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from geovr_hf import __version__
from geovr_hf.hub_cards.evaluations import CardEvaluation
from geovr_hf.hub_cards.licence import known_teachers
from geovr_hf.hub_cards.lineage import add_networks, checkpoint_networks
from geovr_hf.hub_cards.model_card import GeoVRModelCardData


logger = logging.get_logger(__name__)

REPORTED_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "seed",
)
REPORTED_LIBRARIES = ("transformers", "torch", "peft")
NOT_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class GeoVRCardCallback(TrainerCallback):
    """Writes the model card from the run itself, when training ends and again after each later evaluation.

    What the run knows is filled in: objectives and weights, teachers, trained parameters, training arguments, losses,
    hardware, time, and the metrics of `trainer.evaluate()`. What only the author knows (data, licence, pictures) is
    given in `data`; a fact that is already there is kept. An evaluation before the first step becomes the reference
    column "before training". Energy is that which CodeCarbon measured, if the run reports to it.

    An adapter's own `save_pretrained` and `Trainer.push_to_hub` replace `README.md` by a card of their own: call
    [`~GeoVRCardCallback.write`] after them.

    Args:
        data ([`GeoVRModelCardData`], *optional*):
            Facts known beforehand. By default none but the checkpoint's name.
        evaluation ([`CardEvaluation`], *optional*):
            Name, size and reference results of the evaluation set. Its metrics are those of the last evaluation.
        draw (`Callable`, *optional*):
            Draws pictures for the card when training ends: `draw(folder, model, log_history)` writes them below the
            folder of the checkpoint, and returns their captions by path, relative to it. If it fails, the card goes
            without them, and the error is logged.

    Examples:
        >>> facts = GeoVRModelCardData("me/geovr-flat", training_data="Videos of our own flat.")
        >>> trainer = GeoVRTrainer(model, args, callbacks=[GeoVRCardCallback(facts)], train_dataset=dataset)
    """

    def __init__(
        self,
        data: GeoVRModelCardData | None = None,
        evaluation: CardEvaluation | None = None,
        draw: Callable[[Path, nn.Module, list[dict[str, Any]]], dict[str, str]] | None = None,
    ):
        self.data = data
        self.draw = draw
        self.evaluation = evaluation or CardEvaluation(metrics={})
        self.teachers: list[Any] = []  # the trainer tells who sets the targets
        self._metrics: dict[str, float] = {}
        self._metrics_before: dict[str, float] = {}
        self._started: float | None = None
        self._finished = False

    def write(self, folder: str | os.PathLike, model_id: str | None = None) -> Path:
        """Write the card as it stands now.

        Args:
            folder (`str` or `os.PathLike`): folder of the checkpoint.
            model_id (`str`, *optional*): id on the Hub, once it is known.

        Returns:
            `Path`: The file written.
        """
        if model_id is not None:
            self.data.model_id = model_id
        data = self.data
        if self._metrics:
            before = {"before training": self._metrics_before} if self._metrics_before else {}
            references = before | self.evaluation.references
            evaluation = replace(self.evaluation, metrics=self._metrics, references=references)
            data = replace(data, evaluations=[*data.evaluations, evaluation])
        return data.save(folder)

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        """Take down what is known before the first step."""
        if self.data is None:
            self.data = GeoVRModelCardData(model_id=args.hub_model_id or Path(args.output_dir).absolute().name)
        from peft import PeftModel  # the other cards do not need it

        # Of a resumed run we only see the last part.
        self._started = time.monotonic() if state.global_step == 0 else None
        self._finished = False
        dataset = train_dataloader.dataset
        self._fill(
            base_model=base_model(model),
            is_adapter=isinstance(model, PeftModel),
            num_train_examples=len(dataset) if isinstance(dataset, Sized) else None,
            objectives=loss_weights(model.config),
            trained_parameters=trained_parameters(model),
            num_parameters=num_parameters(model),
            hyperparameters=reported_arguments(args),
            hardware=hardware(args),
            versions={"geovr_hf": __version__} | {name: version(name) for name in REPORTED_LIBRARIES},
        )
        for teacher in self.teachers:
            networks = {"teacher": getattr(teacher, "spec", None), "metric": getattr(teacher, "metric", None)}
            self._fill(**networks)
            add_networks(self.data, filter(None, networks.values()))
        add_networks(self.data, known_teachers(model.config.teacher))
        add_networks(self.data, checkpoint_networks(model.config._name_or_path))
        self.data.render()  # what is wrong with a card should stop a run before it starts, not before it is saved

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Take down losses, time and energy, draw, and write the card."""
        self._finished = True
        seconds = None if self._started is None else time.monotonic() - self._started
        energy, emissions = (
            (None, None) if seconds is None else measured_energy(args.output_dir, time.time() - seconds)
        )
        self._fill(
            log_history=list(state.log_history),
            train_seconds=seconds,
            energy_kwh=energy,
            emissions_kg=emissions,
        )
        if self.draw is not None and state.is_world_process_zero:
            try:
                self.data.images |= self.draw(Path(args.output_dir), model, list(state.log_history))
            except Exception:  # the model is not saved yet, and a picture is not worth a training
                logger.exception("The card gets no pictures: drawing them failed. The training is not affected.")
        self._write_once(args, state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Take down the metrics, and write the card again if training is over."""
        measured = {
            name.removeprefix("eval_"): value
            for name, value in (metrics or {}).items()
            if name.startswith("eval_") and name.removeprefix("eval_") not in NOT_METRICS
        }
        (self._metrics if state.global_step else self._metrics_before).update(measured)
        if self._finished:
            self._write_once(args, state)

    def _fill(self, **facts: Any) -> None:
        for name, fact in facts.items():
            if not getattr(self.data, name):
                setattr(self.data, name, fact)

    def _write_once(self, args, state) -> None:
        if state.is_world_process_zero:
            self.write(args.output_dir)


def measured_energy(folder: str | os.PathLike, since: float) -> tuple[float | None, float | None]:
    """What CodeCarbon has measured of a run that reports to it (`report_to="codecarbon"`).

    Args:
        folder (`str` or `os.PathLike`): the run's folder, where it keeps `emissions.csv`.
        since (`float`): Unix time at which the run began; what was written before is another run's.

    Returns:
        `tuple[float | None, float | None]`: Energy in kWh and carbon dioxide in kg, of the last run; `None` without.
    """
    path = Path(folder) / "emissions.csv"
    if not path.is_file() or path.stat().st_mtime < since:
        return None, None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None, None
    return tuple(float(rows[-1][name]) if rows[-1].get(name) else None for name in ("energy_consumed", "emissions"))


def base_model(model: nn.Module) -> str | None:
    """Id on the Hub of the checkpoint that a model was loaded from; `None` for a local folder or a fresh model."""
    name = model.config._name_or_path
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not Path(name).exists() else None


def loss_weights(config: Any) -> dict[str, float]:
    """Weights of the loss terms that a GeoVR configuration switches on, by the terms' names."""
    return {term: getattr(config, f"{term}_loss_weight") for term in ("lm", *config.objectives)}


def trained_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters that are trained, by the part of the model they belong to.

    Args:
        model (`nn.Module`): a GeoVR model, bare or inside a PEFT model.

    Returns:
        `dict[str, int]`: Counts by part, e.g. `{"language_model": ..., "visual.merger": ..., "camera_head": ...}`.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path = name.removeprefix("base_model.model.").removeprefix("model.").split(".")
            part = ".".join(path[:2]) if path[0] == "visual" else path[0]
            counts[part] = counts.get(part, 0) + _num_elements(parameter)
    return counts


def num_parameters(model: nn.Module) -> int:
    """Count all parameters of a model; where ZeRO-3 has shared one out, all its parts."""
    return sum(_num_elements(parameter) for parameter in model.parameters())


def _num_elements(parameter: nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def reported_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Choose the training arguments that shape the result: the usual ones, and those that a subclass adds.

    Loss weights have a table of their own; paths, tokens and logging options concern nobody else.
    """
    inherited = {argument.name for argument in fields(TrainingArguments)}
    added = [argument.name for argument in fields(args) if argument.name not in inherited]
    own = [name for name in added if not name.endswith("_loss_weight")]
    values = {name: getattr(args, name) for name in (*REPORTED_ARGUMENTS, *own)}
    del values["num_train_epochs" if args.max_steps > 0 else "max_steps"]  # only one of them is in force
    return {name: value for name, value in values.items() if value is not None and value is not False}


def hardware(args: TrainingArguments) -> str:
    """Name the devices that a run is spread over."""
    if args.device.type == "cuda":
        return f"{args.world_size} × {torch.cuda.get_device_name(args.device)}"
    return f"{args.world_size} × {args.device.type}, {torch.get_num_threads()} threads each"
