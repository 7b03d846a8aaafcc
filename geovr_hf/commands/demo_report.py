"""What the demo leaves behind: pictures, metrics and the last table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from geovr_hf import visualization as viz
from geovr_hf.commands.demo_runs import Run, true_geometry
from geovr_hf.commands.tables import format_table
from geovr_hf.data import Clip
from geovr_hf.hub_cards import CardEvaluation, GeoVRModelCardData
from geovr_hf.modeling import GeoVRGeometry


# Rows of the table: metric, what it is, and whether more is better.
GEOMETRY_ROWS = {
    "depth_abs_rel": ("depth, relative error", False),
    "depth_delta_1.25": ("depth, share within 25 %", True),
    "rotation_error_deg": ("camera rotation error, degrees", False),
    "translation_error_m": ("camera position error, metres", False),
    "scale_ratio": ("metric scale, off by a factor of", False),
}
ACCURACY_ROW = "answers, mean of the types"


def columns_of(blind: dict[str, float], full: Run, language_only: Run) -> dict[str, dict[str, float]]:
    """Metrics by column, as tables, bars and card show them."""
    return {
        "before": full.before,
        "blind": blind,
        "language only": language_only.after,
        "all objectives": full.after,
    }


def question_types(columns: dict[str, dict[str, float]]) -> list[str]:
    """Names of the question types among the metrics: what the blind guesser was scored on and is no geometry."""
    known = {"answer_accuracy", *GEOMETRY_ROWS}
    return [name for name in columns["blind"] if name in columns["all objectives"] and not _is_geometry(name, known)]


def _is_geometry(name: str, known: set[str]) -> bool:
    return name in known or name.startswith(("depth_", "rotation_", "translation_", "scale_"))


def final_table(columns: dict[str, dict[str, float]]) -> str:
    """The table that ends the demo."""
    names = {"answer_accuracy": ACCURACY_ROW} | {name: f"  {name}" for name in question_types(columns)}
    names |= {name: f"{title} ({'↑' if more else '↓'})" for name, (title, more) in GEOMETRY_ROWS.items()}
    renamed = {
        title: {names[name]: value for name, value in metrics.items() if name in names}
        for title, metrics in columns.items()
    }
    return format_table("held-out rooms", renamed, list(names.values()))


def card_evaluation(columns: dict[str, dict[str, float]], num_questions: int) -> CardEvaluation:
    """The same numbers for the model card."""
    shown = ["answer_accuracy", *question_types(columns), *GEOMETRY_ROWS]
    picked = {title: {name: metrics[name] for name in shown if name in metrics} for title, metrics in columns.items()}
    return CardEvaluation(
        metrics=picked.pop("all objectives"),
        dataset_name="Synthetic rooms, held out",
        num_examples=num_questions,
        references=picked,
    )


def write_card(folder: Path, facts: GeoVRModelCardData, captions: dict[str, str], evaluation: CardEvaluation) -> None:
    """Write the model card, which shows the pictures that lie in the checkpoint's folder `pictures`."""
    card = replace(
        facts,
        images={f"pictures/{name}": caption for name, caption in captions.items()},
        evaluations=[evaluation],
        limitations="A toy: it knows small synthetic rooms and the few questions it was trained on, nothing else.",
    )
    card.save(folder)


def write_pictures(
    folder: Path,
    columns: dict[str, dict[str, float]],
    full: Run,
    language_only: Run,
    shown: list[dict[str, Any]],
    clip: Clip,
    unseen: tuple[GeoVRGeometry, GeoVRGeometry],
) -> dict[str, str]:
    """Draw everything.

    Args:
        folder (`Path`): where to write.
        columns (`dict`): metrics by column.
        full ([`Run`]): the training with geometry.
        language_only ([`Run`]): the training without.
        shown (`list[dict]`): rows of the held-out rooms that `full.shown` predicts.
        clip ([`Clip`]): the clip of the fresh process.
        unseen (`tuple`): its true geometry and what the fresh process predicted.

    Returns:
        `dict[str, str]`: Captions by file name.
    """
    truth, predicted = unseen
    times = clip.timestamps.tolist()
    viz.save_figure(viz.frames_figure(clip.frames, times), folder / "frames.png")
    depth = viz.depth_figure(clip.frames, {"predicted": predicted.depth}, truth.depth, timestamps=times)
    viz.save_figure(depth, folder / "depth.png")
    paths = {
        f"held-out room {number}": {
            "true": true_geometry(row["geometry_targets"]).cam_from_world,
            "after training": after.cam_from_world,
            "before": before.cam_from_world,
        }
        for number, (row, before, after) in enumerate(
            zip(shown, full.shown["before"], full.shown["after"], strict=True), start=1
        )
    }
    viz.save_figure(viz.camera_paths_figure(paths), folder / "camera_paths.png")
    logs = {
        "all objectives": full.history,
        "language only": language_only.history,
    }
    viz.save_figure(viz.loss_curves_figure(logs), folder / "losses.png")
    scores = {title: {name: metrics[name] for name in question_types(columns)} for title, metrics in columns.items()}
    viz.save_figure(viz.accuracy_bars_figure(scores), folder / "answers.png")
    return {
        "frames.png": "A room that training never saw",
        "depth.png": "Its true depth, and the depth predicted by the saved checkpoint in a fresh process",
        "camera_paths.png": "Camera paths in held-out rooms, seen from above",
        "losses.png": "Losses during training",
        "answers.png": "Score per question type: accuracy, and mean relative accuracy for numbers",
    }
