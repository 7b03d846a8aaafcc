"""The pictures on a trained model's card: its losses, and the depth and camera path that it sees in one clip."""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geovr_hf.commands.checkpoints import Checkpoint, clip_inputs
from geovr_hf.data.clip import Clip
from geovr_hf.modeling import GeoVRProcessor
from geovr_hf.modeling.prediction_geovr import metric_geometry


PICTURES = "pictures"
_METRIC = {"camera", "depth", "scale"}

Draw = Callable[[Path, nn.Module, list[dict[str, Any]]], dict[str, str]]


def card_pictures(processor: GeoVRProcessor, rows: Sequence[dict[str, Any]], held_out: bool) -> Draw:
    """What [`~geovr_hf.hub_cards.GeoVRCardCallback`] draws by.

    Args:
        processor ([`GeoVRProcessor`]): Of the model.
        rows (`Sequence[dict]`): Decoded rows; the first one's clip is shown.
        held_out (`bool`): Whether training never saw them.

    Returns:
        `Callable`: `draw(folder, model, log_history)`, which writes to the folder's `pictures`.
    """

    def draw(folder: Path, model: nn.Module, log_history: list[dict[str, Any]]) -> dict[str, str]:
        if find_spec("matplotlib") is None:
            print("The card gets no pictures: they need `pip install geovr_hf[viz]`.", file=sys.stderr)
            return {}
        captions = draw_losses(folder, log_history)
        # Sharded weights would need every process here, and only the first one writes cards.
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        if alone and {*model.config.objectives} >= _METRIC:
            captions |= draw_geometry(folder, Checkpoint(model, processor), rows[0], held_out)
        return captions

    return draw


def draw_losses(folder: Path, log_history: list[dict[str, Any]]) -> dict[str, str]:
    """Draw the losses, if there is a curve to draw; return captions by path."""
    from geovr_hf.visualization import loss_curves_figure, save_figure

    if sum("loss" in entry for entry in log_history) < 2:
        return {}
    save_figure(loss_curves_figure({"training": log_history}), folder / PICTURES / "losses.png")
    return {f"{PICTURES}/losses.png": "Losses during training; the total is their weighted sum"}


def draw_geometry(folder: Path, checkpoint: Checkpoint, row: dict[str, Any], held_out: bool) -> dict[str, str]:
    """Draw depth and camera path of a row's clip, beside its targets if they are metric; return captions by path."""
    from geovr_hf.visualization import camera_paths_figure, depth_figure, save_figure

    part = next(part for message in row["messages"] for part in message["content"] if part["type"] == "video")
    frames, times = torch.as_tensor(part["video"]), torch.as_tensor(part["timestamps"], dtype=torch.float64)
    clip = Clip(frames, times, "the card's clip", tuple(range(len(frames))))
    was_training = checkpoint.model.training
    checkpoint.model.eval()
    try:
        inputs = clip_inputs(checkpoint, clip, geometry_tokens=True)
        predicted = checkpoint.model.predict_geometry(**inputs)[0]
    finally:
        checkpoint.model.train(was_training)
    true, confidence, paths = None, None, {"predicted": predicted.cam_from_world}
    targets = row.get("geometry_targets")
    if isinstance(targets, list):  # one entry for each clip of the row
        targets = targets[0]
    if targets is not None and all(targets.has(objective) for objective in _METRIC):
        geometry = metric_geometry(targets.pose_enc, targets.depth, targets.metric_scale)
        true, confidence = geometry.depth, targets.depth_confidence
        paths = {"target": geometry.cam_from_world} | paths
    depth = depth_figure(frames, {"predicted": predicted.depth}, true, confidence, times.tolist())
    save_figure(depth, folder / PICTURES / "depth.png")
    save_figure(camera_paths_figure({"": paths}), folder / PICTURES / "camera_path.png")
    shown = "a clip that training never saw" if held_out else "a training clip"
    beside = "" if true is None else ", beside its target"
    return {
        f"{PICTURES}/depth.png": f"Depth of {shown}, as the model sees it{beside}",
        f"{PICTURES}/camera_path.png": f"Its camera path, seen from above{beside}",
    }
