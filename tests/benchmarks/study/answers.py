"""Questions answered by a trained arm, and the geometry that it predicts, on clips it never saw."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from geovr_hf import GeoVRTrainer
from geovr_hf.evaluation import evaluate_geometry
from geovr_hf.modeling import GeometryTargets
from geovr_hf.trainers.evaluation import answer_questions

from .shards import StoredRooms


BATCH = 128
SHOWN_ROOMS = 2  # of which predictions are kept for pictures


def answer(trainer: GeoVRTrainer, rooms: StoredRooms, workers: int) -> list[dict[str, Any]]:
    """Answer every question of a set, greedily, with clips read as in training."""
    loader = DataLoader(
        rooms,
        batch_size=BATCH,
        collate_fn=trainer.data_collator.for_answering(geometry_tokens=True),
        num_workers=workers,
    )
    answers = answer_questions(
        trainer.model,
        trainer.processing_class.tokenizer,
        trainer.accelerator.prepare_data_loader(loader),
        trainer.accelerator,
        max_new_tokens=8,
        show_progress=False,
    )
    return [
        {"id": one.id, "type": one.question_type, "prediction": one.prediction, "answer": one.answer}
        for one in answers
    ]


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
        with trainer.accelerator.autocast():
            output = trainer.model(**inputs, geometry_targets=[t.to(trainer.model.device) for t in targets],
                                   output_geometry=True)  # fmt: skip
        for place, (number, target) in enumerate(zip(numbers, targets, strict=True)):
            found = {
                name: None if output[name] is None else output[name][place].float().cpu()
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


def open_set(data: Path, name: str, view: str = "clip") -> StoredRooms:
    """A rendered set, seen in one of the three ways."""
    return StoredRooms(data / name, view=view)
