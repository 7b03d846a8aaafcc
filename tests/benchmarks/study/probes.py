"""Linear probes: what can be read off an arm's frozen hidden states, layer by layer, by a ridge regression.

| probe | reads | says |
|---|---|---|
| `depth` | the state of one visual token | log of its cell's mean depth in metres |
| `pose` | the mean state of a frame's visual tokens | camera position in metres and two columns of its rotation, in the first camera's frame |
| `object_distance` | the states of the cells that a frame's largest object covers, averaged by how much of each it covers | log of its distance in metres |

Probes are fitted on training rooms and scored on test rooms by R^2, 0 for the training mean and 1 for perfect. The
strength of the ridge is chosen on a fifth of the training rooms. All arms are read at the same places, also those
without heads.
"""  # noqa: E501

import torch

from geovr_hf import GeoVRTrainer
from geovr_hf.modeling.clip_layout_geovr import locate_clips
from geovr_hf.modeling.geometry_geovr import quaternion_to_matrix
from geovr_hf.modeling.objectives_geovr import patch_states

from .answers import clip_batches, eager
from .rooms import StoredRooms


RIDGES = (1e-2, 1e0, 1e2, 1e4)
SPARSE = 7  # of so many visual tokens one is asked for its depth; no divisor of a row or frame


@torch.no_grad()
def collect(trainer: GeoVRTrainer, rooms: StoredRooms) -> dict[str, tuple[list[torch.Tensor], torch.Tensor]]:
    """Inputs of each probe, one matrix per layer, and what they are to say."""
    config = trainer.model.config
    inputs_of: dict[str, list[list[torch.Tensor]]] = {"depth": [], "pose": [], "object_distance": []}
    truths: dict[str, list[torch.Tensor]] = {name: [] for name in inputs_of}
    for numbers, inputs, targets in clip_batches(trainer, rooms):
        with eager(trainer.model), trainer.accelerator.autocast():
            output = trainer.model(**inputs, output_hidden_states=True, logits_to_keep=1)
        merge = config.vision_config.spatial_merge_size
        layouts = locate_clips(
            inputs["input_ids"], inputs["video_grid_thw"], config.geometry_token_ids, config.video_token_id, merge
        )
        layers = [torch.stack(patch_states(state, layouts)).float().cpu() for state in output.hidden_states]
        cells = torch.from_numpy(rooms.arrays()["object_cells"][numbers]).float()
        distance = torch.from_numpy(rooms.arrays()["object_distance"][numbers])
        seen = distance.isfinite()
        weight = cells / cells.sum((2, 3), keepdim=True).clamp(min=1e-6)
        inputs_of["depth"].append([layer.flatten(0, 3)[::SPARSE] for layer in layers])
        inputs_of["pose"].append([layer.mean((2, 3)).flatten(0, 1) for layer in layers])
        inputs_of["object_distance"].append([(layer * weight[..., None]).sum((2, 3))[seen] for layer in layers])
        truths["depth"].append(
            torch.stack([_cell_depth(target, layers[0].shape[1:4]) for target in targets]).flatten()[::SPARSE]
        )
        truths["pose"].append(torch.cat([_pose(target) for target in targets]))
        truths["object_distance"].append(distance[seen].log())
    return {
        name: (
            [torch.cat(parts) for parts in zip(*batches, strict=True)],
            torch.cat([truth if truth.ndim == 2 else truth[:, None] for truth in truths[name]]),
        )
        for name, batches in inputs_of.items()
    }


def _cell_depth(target, grid: tuple[int, int, int]) -> torch.Tensor:
    """Log of the mean depth in metres of each visual token's cell, `(T, h, w)`."""
    frames, rows, columns = grid
    blocks = (target.depth * target.metric_scale).reshape(
        frames, rows, target.depth.shape[1] // rows, columns, target.depth.shape[2] // columns
    )
    return blocks.mean((2, 4)).clamp(min=1e-2).log()


def _pose(target) -> torch.Tensor:
    """Position in metres and two columns of the rotation of each frame's camera, `(T, 9)`."""
    rotation = quaternion_to_matrix(target.pose_enc[:, 3:7])
    centre = -(rotation.transpose(1, 2) @ target.pose_enc[:, :3, None]).squeeze(-1) * target.metric_scale
    return torch.cat([centre, rotation[..., :2].flatten(1)], dim=1)


def probe(trainer: GeoVRTrainer, fit: StoredRooms, test: StoredRooms) -> dict[str, list[float]]:
    """R^2 on the test rooms of each probe, one value per hidden state: the embeddings, then each layer."""
    known, new = collect(trainer, fit), collect(trainer, test)
    return {
        name: [
            _score(x, known[name][1], other, new[name][1])
            for x, other in zip(known[name][0], new[name][0], strict=True)
        ]
        for name in known
    }


def _score(x: torch.Tensor, y: torch.Tensor, x_test: torch.Tensor, y_test: torch.Tensor) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y, x_test, y_test = (value.double().to(device) for value in (x, y, x_test, y_test))
    kept = max(int(0.8 * len(x)), 1)  # rows stand in the order of the rooms: the last fifth are other rooms
    if kept == len(x):
        return float("nan")
    strength = max(RIDGES, key=lambda ridge: _r2(_fit(x[:kept], y[:kept], ridge), x[kept:], y[kept:]))
    return _r2(_fit(x, y, strength), x_test, y_test)


def _fit(x: torch.Tensor, y: torch.Tensor, ridge: float) -> tuple[torch.Tensor, ...]:
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    middle = y.mean(0)
    normed = (x - mean) / spread
    gram = normed.T @ normed + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(gram, normed.T @ (y - middle)), mean, spread, middle


def _r2(fitted: tuple[torch.Tensor, ...], x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over outputs of 1 - squared error / squared error of the training mean."""
    weight, mean, spread, middle = fitted
    error = (y - middle - (x - mean) / spread @ weight).square().sum(0)
    return float((1 - error / (y - middle).square().sum(0).clamp(min=1e-9)).mean())
