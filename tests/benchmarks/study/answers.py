"""Questions answered by a trained arm, and the geometry that it predicts, on clips it never saw."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from geovr_hf import GeoVRTrainer
from geovr_hf.evaluation import evaluate_geometry, score_vsi_answer
from geovr_hf.evaluation.vsi_bench import FAMILIES
from geovr_hf.modeling import GeometryTargets
from geovr_hf.trainers.metrics import average_scores

from .rooms import StoredRooms


PROTOCOL = "lmms-eval"
CLIPS = 16  # of a batch
LONGEST = 5  # tokens of an answer: "123.4"
SHOWN_ROOMS = 2  # of which predictions are kept for pictures


@contextmanager
def eager(model: torch.nn.Module) -> Iterator[None]:
    """Run layers as they are, also if they are compiled for training: other shapes would compile them again."""
    compiled = {module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl}
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


class _Blanks:
    """Rows whose answers are blanks to fill in, as many tokens as the longest answer has."""

    def __init__(self, rooms: StoredRooms):
        self.rooms = rooms

    def __len__(self) -> int:
        return len(self.rooms)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rooms[index]
        blank = {"role": "assistant", "content": [{"type": "text", "text": "0" * LONGEST}]}
        return {**row, "messages": [row["messages"][0], blank]}


@torch.no_grad()
def answer(trainer: GeoVRTrainer, rooms: StoredRooms, workers: int) -> list[dict[str, str]]:
    """Answer every question of a set, greedily, with clips and questions read as in training.

    All questions about a clip share it, and all are answered at once: each pass fills in the next token of every
    answer. What comes later changes nothing before, so these are the answers that generation gives. The model's mode
    is left alone: it has no dropout, and another mode would have the attention of packed rows compiled once more.
    """
    model, tokenizer = trainer.model, trainer.processing_class.tokenizer
    collator = trainer.data_collator.for_packing()
    collator.keep_columns = ("id", "question_type", "answer")
    loader = DataLoader(_Blanks(rooms), CLIPS * rooms.per_room, collate_fn=collator, num_workers=workers)
    answers = []
    for batch in loader:
        facts = [batch.pop(name) for name in collator.keep_columns]
        batch.pop("geometry_targets")
        batch = trainer._prepare_inputs(batch)
        # A question teaches its blanks, the end of the turn and the line break behind it.
        before = batch["layout"].supervised.view(-1, LONGEST + 2)[:, :LONGEST]
        for place in range(LONGEST):
            with eager(model), trainer.accelerator.autocast():
                logits = model(**batch, logits_to_keep=before[:, place]).logits[0]
            batch["input_ids"][0, before[:, place] + 1] = logits.argmax(-1)
        for row, row_id, kind, truth in zip(batch["input_ids"][0, before + 1].tolist(), *facts, strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else LONGEST
            answers.append({"id": row_id, "type": kind, "prediction": tokenizer.decode(row[:end]), "answer": truth})
    return answers


def score(answered: dict[str, str]) -> float:
    """VSI-Bench's score of an answer."""
    return score_vsi_answer(answered["prediction"], answered["answer"], answered["type"], PROTOCOL).score


def flat_skills(trainer: GeoVRTrainer, rooms: Path, workers: int) -> dict[str, float]:
    """Share of the flat questions about test rooms that are answered right, by kind: what the warm-up teaches."""
    answers = answer(trainer, StoredRooms(rooms / "test", about=("flat",)), workers)
    return average_scores((one["type"], one["prediction"].strip() == one["answer"]) for one in answers)


def mean_scores(answers: list[dict[str, str]]) -> dict[str, float]:
    """Mean score of each of VSI-Bench's types, and their mean as `macro`."""
    kinds = {one["type"] for one in answers}
    return by_family({kind: float(np.mean([score(one) for one in answers if one["type"] == kind])) for kind in kinds})


def by_family(scores: dict[str, float]) -> dict[str, float]:
    """Scores of VSI-Bench's eight types from those of question types, and their mean as `macro`."""
    families = {
        family: float(np.nanmean([scores[kind] for kind in kinds if kind in scores]))
        for family, kinds in FAMILIES.items()
        if any(kind in scores for kind in kinds)
    }
    return families | {"macro": float(np.mean(list(families.values())))}


def clip_batches(trainer: GeoVRTrainer, rooms: StoredRooms, size: int = 8):
    """Batches of one row per clip, on the model's device, with the numbers of their rooms."""
    for start in range(0, rooms.num_rooms, size):
        numbers = list(range(start, min(start + size, rooms.num_rooms)))
        batch = trainer.data_collator([rooms[number * rooms.per_room] for number in numbers])
        inputs = {
            name: value.to(trainer.model.device) for name, value in batch.items() if isinstance(value, torch.Tensor)
        }
        inputs.pop("labels")
        yield numbers, inputs, batch["geometry_targets"]


@torch.no_grad()
def geometry(trainer: GeoVRTrainer, rooms: StoredRooms) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Errors of each clip's predicted geometry, in what the arm has heads for, and the first predictions."""
    errors, shown = [], []
    if not trainer.model.config.objectives:
        return errors, shown
    for numbers, inputs, targets in clip_batches(trainer, rooms):
        with eager(trainer.model), trainer.accelerator.autocast():
            output = trainer.model(**inputs, geometry_targets=[t.to(trainer.model.device) for t in targets],
                                   output_geometry=True)  # fmt: skip
        for place, (number, target) in enumerate(zip(numbers, targets, strict=True)):
            found = {
                name: None if output.get(name) is None else output[name][place].float().cpu()
                for name in ("pose_enc", "depth", "metric_scale")
            }
            prediction = GeometryTargets(**found)
            errors.append(evaluate_geometry(prediction, target))
            if number < SHOWN_ROOMS:
                shown.append({"room": number, **_plain(prediction, target)})
    return errors, shown


def _plain(prediction: GeometryTargets, target: GeometryTargets) -> dict[str, Any]:
    """A prediction and its truth for a JSON file: every path, two depth maps."""
    plain: dict[str, Any] = {}
    for title, clip in (("predicted", prediction), ("true", target)):
        if clip.pose_enc is not None:
            plain[f"{title}_pose"] = clip.pose_enc.numpy().round(4).tolist()
        if clip.depth is not None:
            picked = [0, len(clip.depth) - 1]
            plain[f"{title}_depth"] = clip.depth[picked].numpy().round(3).astype(float).round(3).tolist()
        if clip.metric_scale is not None:
            plain[f"{title}_scale"] = float(clip.metric_scale)
    return plain


def guessed_geometry(train: StoredRooms, test: StoredRooms, limit: int = 2000) -> list[dict[str, float]]:
    """Errors of one guess for all clips: median depth map, camera path and scale of the training rooms."""
    arrays, rows = train.arrays(), slice(0, min(limit, train.num_rooms))
    guess = GeometryTargets(
        pose_enc=torch.from_numpy(np.median(arrays["pose"][rows], axis=0)).float(),
        depth=torch.from_numpy(np.median(arrays["depth"][rows], axis=0).astype(np.float32)),
        metric_scale=torch.tensor(float(np.median(arrays["scale"][rows]))),
    )
    guess.depth_confidence = torch.ones_like(guess.depth)
    targets = [test[number * test.per_room]["geometry_targets"] for number in range(test.num_rooms)]
    return [evaluate_geometry(guess, target) for target in targets]
