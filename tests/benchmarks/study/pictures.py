"""Figures of the study."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from geovr_hf.modeling.geometry_geovr import pose_encoding_to_cameras, relative_to_first
from geovr_hf.visualization import accuracy_bars_figure, camera_paths_figure, save_figure
from geovr_hf.visualization.depth_files import colourise_depth, depth_range
from geovr_hf.visualization.plotting import (
    INK_COLOUR,
    NEUTRAL_COLOUR,
    add_legend,
    bare,
    new_figure,
    plot_style,
    series_colour,
)

from .settings import CONTROLS


def _colours(arms: dict[str, list]) -> dict[str, str]:
    coloured = [arm for arm in arms if arm not in CONTROLS]
    colours = {arm: series_colour(number) for number, arm in enumerate(coloured)}
    return colours | dict.fromkeys((*CONTROLS, "guesser"), NEUTRAL_COLOUR) | {"language-longer": INK_COLOUR}


def write_pictures(out: Path, arms: dict[str, list], scores: dict, blind: dict) -> dict[str, str]:
    """Draw what the results allow; captions by file name."""
    captions = {}

    def save(figure, name: str, caption: str) -> None:
        save_figure(figure, out / name)
        captions[name] = caption

    for name in ("test", "shifted"):
        save(
            _bars(scores, blind, name),
            f"types_{name}.png",
            f"Score by question type, {name} rooms; grey: the better guesser of the words",
        )
    save(_curves(arms), "learning_curves.png", "Answers on test rooms, and language loss, over training steps")
    save(_probes(arms), "probes.png", "Linear probes on frozen hidden states, layer by layer")
    arm = next((arm for arm in ("all", "depth") if arm in arms and arms[arm][0]["shown"]), None)
    if arm is not None:
        shown = arms[arm][0]["shown"]
        save(_depth(shown), "depth.png", f"Predicted and true depth of test rooms, arm `{arm}`")
    arm = next((arm for arm in ("all", "camera") if arm in arms and arms[arm][0]["shown"]), None)
    if arm is not None:
        paths = {f"test room {clip['room']}": _paths(clip) for clip in arms[arm][0]["shown"]}
        save(
            camera_paths_figure(paths), "camera_paths.png", f"Camera paths in test rooms, seen from above, arm `{arm}`"
        )
    return captions


def _bars(scores: dict, blind: dict, name: str):
    """Bars of the arms, language for longer among them, with the guesser in grey. Other controls are in the table."""
    shown = {a: found[f"{name}/clip"] for a, found in scores.items() if a == "language-longer" or a not in CONTROLS}
    values = {arm: {kind: e.value for kind, e in found.types.items()} for arm, found in shown.items()}
    ends = {arm: {kind: (e.low, e.high) for kind, e in found.types.items()} for arm, found in shown.items()}
    if blind:
        values = {"guesser": {kind: value for kind, value in blind[name].items() if kind != "macro"}} | values
    return accuracy_bars_figure(values, f"score, {name} rooms", ends, _colours(scores))


def _curves(arms: dict[str, list]):
    """Means over seeds as lines, each seed as a thin one."""
    colours = _colours(arms)
    panels = {
        "mean of the types, test rooms": lambda run: [(e["step"], 100 * e["score"]["macro"]) for e in run["curve"]],
        "language loss in training, after a tenth": lambda run: [
            (e["step"], e["lm_loss"]) for e in run["history"] if 10 * e["step"] >= run["history"][-1]["step"]
        ],
    }
    with plot_style():
        figure = new_figure(8.4, 3.4)
        for axes, (title, points) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for arm, runs in arms.items():
                curves = [np.array(points(run)) for run in runs if points(run)]
                for curve in curves:
                    axes.plot(*curve.T, color=colours[arm], linewidth=0.6, alpha=0.5)
                if curves and len({len(curve) for curve in curves}) == 1:
                    style = {"blind": ":"}.get(arm, "--" if arm in CONTROLS else "-")
                    axes.plot(*np.mean(curves, axis=0).T, style, color=colours[arm], linewidth=1.6, label=arm)
            axes.set_title(title)
            axes.set_xlabel("training step")
            axes.grid(True, axis="y")
        add_legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure


def _probes(arms: dict[str, list]):
    colours = _colours(arms)
    names = list(next(iter(arms.values()))[0]["probes"])
    with plot_style():
        figure = new_figure(3.3 * len(names), 3.3)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for arm, runs in arms.items():
                curves = np.array([run["probes"][name] for run in runs])
                layers = np.arange(curves.shape[1])
                style = ":" if arm == "start" else "--" if arm in CONTROLS else "-"
                axes.plot(layers, curves.mean(0), style, color=colours[arm], linewidth=1.6, label=arm)
                if len(runs) > 1:
                    axes.fill_between(
                        layers, curves.min(0), curves.max(0), color=colours[arm], alpha=0.15, linewidth=0
                    )
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("hidden state (0: embeddings)")
            axes.set_ylim(bottom=min(0, max(-0.5, axes.get_ylim()[0])))
            axes.grid(True, axis="y")
        figure.axes[0].set_ylabel("R² on test rooms")
        add_legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure


def _depth(shown: list[dict[str, Any]]):
    """First and last frame of each clip: true above predicted, in units of the clip's mean depth."""
    maps = {row: np.concatenate([np.array(clip[f"{row}_depth"]) for clip in shown]) for row in ("true", "predicted")}
    near, far = depth_range(maps["true"])
    with plot_style():
        count = len(maps["true"])
        figure = new_figure(1.9 * count, 3.2)
        grid = figure.subplots(2, count, squeeze=False)
        for axes_row, (title, depths) in zip(grid, maps.items(), strict=True):
            axes_row[0].set_ylabel(title)
            for axes, depth in zip(axes_row, depths, strict=True):
                axes.imshow(colourise_depth(depth, near, far), interpolation="nearest")
                bare(axes)
        for column, axes in enumerate(grid[0]):
            axes.set_title(f"room {shown[column // 2]['room']}, {('first', 'last')[column % 2]} frame", fontsize=8)
    return figure


def _paths(clip: dict[str, Any]) -> dict[str, np.ndarray]:
    """Cameras in the unit of the truth; a predicted scale is not applied."""
    paths = {}
    for title in ("true", "predicted"):
        cameras, _ = pose_encoding_to_cameras(torch.tensor(clip[f"{title}_pose"]), (48, 64))
        paths[title] = relative_to_first(cameras).numpy() * [1, 1, 1, clip["true_scale"]]
    return paths
