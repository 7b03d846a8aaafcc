"""What geometry a model learns from a real recording, beside guesses that see nothing and frozen features.

    python tests/benchmarks/real_video.py RECORDING --out runs/real-video

RECORDING is an RGB-D folder in one of the layouts of `geovr_hf.data.rgbd_layouts`. The first frames train, the rest
are evaluated on; no frame is on both sides. Columns of the table:

    constant         one depth, a camera that stands still, one scale: medians of the training clips
    mean             mean depth map, mean camera path and mean scale of the training clips
    frozen, random   heads alone are trained, on the features of the untrained backbone
    frozen, language heads alone are trained, on the features of a backbone that learnt the recording's questions
    geometry         backbone and heads are trained together, on questions and geometry (the recipe `rgbd`)

All models have the same shape, seed, clips, order and number of steps. Writes results.json, report.md, depth.png and
camera_paths.png.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from geovr_hf.commands.build_data import GROUND_TRUTH_TILE, RunData
from geovr_hf.commands.build_model import build_processor
from geovr_hf.commands.progress import show_one_line
from geovr_hf.commands.tables import format_table
from geovr_hf.commands.train import build_trainer
from geovr_hf.data import RGBDRecording
from geovr_hf.data.rgbd_rows import RGBDRows, rgbd_rows
from geovr_hf.evaluation import evaluate_geometry
from geovr_hf.modeling import GeometryTargets
from geovr_hf.modeling.prediction_geovr import metric_geometry
from geovr_hf.recipe import Recipe, load_recipe
from geovr_hf.teachers import load_teacher
from geovr_hf.trainers import GeoVRTrainer
from geovr_hf.visualization import camera_paths_figure, depth_figure, save_figure
from geovr_hf.visualization.atomic_files import atomic_path


FROZEN = {"freeze_vision_tower": True, "freeze_merger": True, "freeze_language_model": True}
# Rows of the table.
ROWS = {
    "depth_abs_rel_raw": "depth AbsRel, raw (↓)",
    "depth_abs_rel_median": "depth AbsRel, median-aligned (↓)",
    "depth_abs_rel_scale-and-shift": "depth AbsRel, scale-and-shift-aligned (↓)",
    "depth_rmse_raw": "depth RMSE, raw, units (↓)",
    "depth_delta_raw": "depth δ < 1.25, raw (↑)",
    "depth_metric_abs_rel_raw": "depth in metres, AbsRel (↓)",
    "depth_metric_rmse_raw": "depth in metres, RMSE (↓)",
    "depth_metric_delta_raw": "depth in metres, δ < 1.25 (↑)",
    "rotation_error_deg": "relative rotation, degrees off (↓)",
    "direction_error_deg": "relative translation direction, degrees off (↓)",
    "pose_auc_5": "pose AUC@5 (↑)",
    "pose_auc_15": "pose AUC@15 (↑)",
    "pose_auc_30": "pose AUC@30 (↑)",
    "ate_sim3": "ATE after Sim(3), units (↓)",
    "log_scale_error": "metric scale, |log ratio| (↓)",
    "consistency_reprojection_px": "own consistency, reprojection px (↓)",
    "consistency_depth_error": "own consistency, depth (↓)",
}


def clips_of(rows: RGBDRows) -> list[dict[str, Any]]:
    """One row of each clip."""
    firsts = {rows.clip_key(index): index for index in reversed(range(len(rows)))}
    return [rows[index] for index in sorted(firsts.values())]


def guesses(targets: list[GeometryTargets]) -> dict[str, GeometryTargets]:
    """The same answer for every clip, learnt from the training clips, never from the clip itself."""
    depth = torch.stack([target.depth for target in targets])
    measured = torch.stack([target.depth_confidence for target in targets])
    scales = torch.stack([target.metric_scale for target in targets])
    paths = torch.stack([target.pose_enc for target in targets])
    still = torch.zeros_like(paths[0])
    still[:, 6] = 1.0
    still[:, 7:] = paths[..., 7:].flatten(0, 1).median(0).values
    seen = measured.sum(0).clamp(min=1)
    mean_depth = torch.where(measured.sum(0) > 0, (depth * measured).sum(0) / seen, depth[measured > 0].mean())
    return {
        "constant": GeometryTargets(
            still,
            depth[measured > 0].median().expand(depth.shape[1:]).clone(),
            torch.ones(depth.shape[1:]),
            scales.median(),
        ),
        "mean": GeometryTargets(paths.mean(0), mean_depth, torch.ones(depth.shape[1:]), scales.mean()),
    }


@torch.no_grad()
def predict(trainer: GeoVRTrainer, row: dict[str, Any]) -> GeometryTargets:
    """The model's raw geometry of one clip, depth at the size of the measured."""
    trainer.model.eval()
    batch = trainer.data_collator([row])
    inputs = {name: value.to(trainer.model.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    inputs.pop("labels")
    output = trainer.model(**inputs, geometry_targets=batch["geometry_targets"], output_geometry=True)
    depth = output.depth[0].float().cpu()
    return GeometryTargets(
        output.pose_enc[0].float().cpu(), depth, torch.ones_like(depth), output.metric_scale[0].float().cpu()
    )


def mean_errors(clips: list[dict[str, Any]], predictions: list[GeometryTargets]) -> dict[str, float]:
    """Means over clips of every error."""
    errors = [
        evaluate_geometry(prediction, row["geometry_targets"])
        for row, prediction in zip(clips, predictions, strict=True)
    ]
    names = dict.fromkeys(name for clip in errors for name in clip)
    return {name: float(np.mean([clip[name] for clip in errors if name in clip])) for name in names}


def train(recipe: Recipe, data: RunData, name: str, **changes: Any) -> tuple[GeoVRTrainer, float]:
    """Train a variant of the recipe; how long it took, in seconds."""
    recipe = copy.deepcopy(recipe)
    recipe.output = str(Path(recipe.output) / "models" / name)
    recipe.training |= changes.pop("training", {})
    for key, value in changes.items():
        setattr(recipe.model, key, value)
    processor = build_processor(recipe.model, recipe.processor, data.texts())
    trainer = build_trainer(recipe, data, processor)
    show_one_line(trainer)
    started = time.perf_counter()
    trainer.train()
    return trainer, time.perf_counter() - started


def run_models(recipe: Recipe, data: RunData, clips: list[dict[str, Any]]) -> tuple[dict, dict]:
    """Train all variants; their predictions of the held-out clips and their training seconds, by column."""
    learner = recipe.model.config
    # The backbone that only learns language keeps its heads out; the frozen ones get theirs from the same seed.
    variants = {
        "frozen, random": {"training": FROZEN},
        "language": {"config": {**learner, "objectives": []}},
        "frozen, language": {"training": FROZEN, "tiny": None},
        "geometry": {},
    }
    predictions, seconds = {}, {}
    for title, changes in variants.items():
        print(f"\n{title}", flush=True)
        if title == "frozen, language":
            changes["base"] = str(Path(recipe.output) / "models" / "language")
        folder = title.replace(", ", "-")
        trainer, seconds[title] = train(recipe, data, folder, **changes)
        if title == "language":
            trainer.save_model()
        else:
            predictions[title] = [predict(trainer, row) for row in clips]
        if title == "geometry":
            trainer.save_model()
    return predictions, seconds


def draw(
    folder: Path, recording: RGBDRecording, window: tuple[int, ...], shown: dict, target: GeometryTargets
) -> None:
    """Depth in metres and the camera path of one clip."""
    metric = {title: metric_geometry(p.pose_enc, p.depth, p.metric_scale) for title, p in shown.items()}
    truth = metric_geometry(target.pose_enc, target.depth, target.metric_scale)
    frames = recording.clip(window).frames
    depth = {title: geometry.depth for title, geometry in metric.items()}
    save_figure(depth_figure(frames, depth, truth.depth, target.depth_confidence), folder / "depth.png")
    paths = {
        title: {"measured": truth.cam_from_world, "predicted": geometry.cam_from_world}
        for title, geometry in metric.items()
    }
    save_figure(camera_paths_figure(paths), folder / "camera_paths.png")


def report(results: dict[str, Any]) -> str:
    """The table as Markdown."""
    columns = results["errors"]
    lines = [f"| held-out clips | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, title in ROWS.items():
        cells = [f"{errors[name]:.3f}" if name in errors else "-" for errors in columns.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(f"`{results['command']}`")
    lines.append("")
    lines.append(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", help="RGB-D folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, pictures and models")
    parser.add_argument("--train-frames", type=int, help="frames that train, from the start; 70 %% by default")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--stride", type=int, default=1, help="recorded frames from one frame of a clip to the next")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each model")
    parser.add_argument("--seed", type=int, default=0, help="seed of all weights and of the order of the clips")
    arguments = parser.parse_args(words)
    if (arguments.out / "results.json").exists():
        parser.error(f"{arguments.out} holds results already. Choose another --out.")

    recipe = load_recipe("rgbd", ["--output", str(arguments.out), "--path", arguments.recording])
    recipe.training |= {
        "max_steps": arguments.steps,
        "seed": arguments.seed,
        "eval_strategy": "no",
        "eval_on_start": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "logging_steps": max(arguments.steps // 10, 1),
    }
    recording = RGBDRecording(arguments.recording)
    split = arguments.train_frames or round(0.7 * len(recording))
    rows_tall, columns_wide = recipe.data.sources[0].depth_tiles
    cut = {
        "clip_length": arguments.frames,
        "stride": arguments.stride,
        "depth_size": (rows_tall * GROUND_TRUTH_TILE, columns_wide * GROUND_TRUTH_TILE),
    }
    rows = rgbd_rows(recording, frames=(0, split), **cut)
    played_back = rgbd_rows(recording.backwards(), frames=(len(recording) - split, len(recording)), **cut)
    held_out = rgbd_rows(recording, frames=(split, len(recording)), **cut)
    data = RunData(
        train=torch.utils.data.ConcatDataset([rows, played_back]),
        evaluation=None,
        description=f"Frames 0 to {split - 1} of {len(recording)} of `{recording.folder.name}`.",
        teacher_spec=load_teacher("rgbd", folder=arguments.recording).spec,
        online_teacher=None,
        metric=None,
        num_frames=arguments.frames,
    )
    clips = clips_of(held_out)
    # Forwards alone, as the held-out clips go: paths of both directions would average out.
    blind = guesses([row["geometry_targets"] for row in clips_of(rows)])
    trained, seconds = run_models(recipe, data, clips)
    predictions = {title: [guess] * len(clips) for title, guess in blind.items()} | trained

    results = {
        "command": f"python tests/benchmarks/real_video.py {arguments.recording} --out {arguments.out} "
        f"--train-frames {split} --frames {arguments.frames} --stride {arguments.stride} --steps {arguments.steps} "
        f"--seed {arguments.seed}",
        "train_frames": split,
        "held_out_frames": len(recording) - split,
        "held_out_clips": len(clips),
        "errors": {title: mean_errors(clips, found) for title, found in predictions.items()},
        "training_seconds": seconds,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    window = held_out.clip_key(len(held_out) - 1)
    target = clips[-1]["geometry_targets"]
    draw(arguments.out, recording, window, {title: found[-1] for title, found in predictions.items()}, target)
    for name, text in (("report.md", report(results)), ("results.json", json.dumps(results, indent=2) + "\n")):
        with atomic_path(arguments.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    named = {
        title: {ROWS[k]: v for k, v in errors.items() if k in ROWS} for title, errors in results["errors"].items()
    }
    print(format_table(f"{len(clips)} held-out clips", named, list(ROWS.values())))
    return results


if __name__ == "__main__":
    main()
