"""Charts of how training went: losses over steps, scores per question type."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .plotting import INK_COLOUR, NEUTRAL_COLOUR, add_legend, new_figure, plot_style, series_colour


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS_TITLES = {
    "loss": "total",
    "lm_loss": "language",
    "camera_loss": "camera",
    "depth_loss": "depth",
    "scale_loss": "metric scale",
    "alignment_loss": "feature alignment",
}
PANELS_PER_ROW = 3
# What the trained models are measured against stays grey.
BASELINE_COLOURS = {
    "before": "#cfd3d9",
    "blind": NEUTRAL_COLOUR,
    "black frames": NEUTRAL_COLOUR,
    "shuffled clip": "#cfd3d9",
}


def loss_curves_figure(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Small multiples of the loss components over training steps.

    Args:
        runs (`Mapping[str, Sequence[Mapping[str, float]]]`): logs by run label, each as the Trainer's
            `state.log_history`: entries with `step` and any of `loss`, `lm_loss`, `camera_loss`, `depth_loss`,
            `scale_loss`, `alignment_loss`. Components are unweighted, `loss` is their weighted sum. A panel is drawn
            for each component that any run logged.

    Raises:
        ValueError: if no run logged any loss.
    """
    curves = {
        name: {label: [(entry["step"], entry[name]) for entry in log if name in entry] for label, log in runs.items()}
        for name in LOSS_TITLES
    }
    curves = {name: series for name, series in curves.items() if any(series.values())}
    if not curves:
        raise ValueError(f"No run of {list(runs)} logged any of {list(LOSS_TITLES)}.")
    columns = min(PANELS_PER_ROW, len(curves))
    rows = -(-len(curves) // columns)
    with plot_style():
        figure = new_figure(2.9 * columns, 2.0 * rows + 0.4)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for axes, (name, series) in zip(panels, curves.items(), strict=False):
            for number, (label, points) in enumerate(series.items()):
                if points:
                    axes.plot(*zip(*points, strict=True), color=series_colour(number), linewidth=1.4, label=label)
            axes.set_title(LOSS_TITLES[name])
            axes.set_ylim(bottom=0)
            axes.grid(True, axis="y")
        for axes in panels:
            axes.set_visible(False)
        figure.supxlabel("training step", fontsize=9)
        if len(runs) > 1:
            # The language panel is the one that every run has.
            handles, labels = max(
                (axes.get_legend_handles_labels() for axes in figure.axes), key=lambda pair: len(pair[1])
            )
            add_legend(figure, handles, labels)
    return figure


def accuracy_bars_figure(
    scores: Mapping[str, Mapping[str, float]],
    ylabel: str = "score (0 to 1)",
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    colours: Mapping[str, str] | None = None,
) -> "Figure":
    """Grouped bars: one group per question type, one bar per series; what others are measured against is grey.

    Args:
        scores (`Mapping[str, Mapping[str, float]]`): by series label, score by question type. A type that a series
            lacks leaves a gap.
        ylabel (`str`, *optional*): what the scores are.
        intervals (`Mapping[str, Mapping[str, tuple[float, float]]]`, *optional*): lower and upper ends of confidence
            intervals, by series and type.
        colours (`Mapping[str, str]`, *optional*): colours of series, for other ones than they would get.
    """
    types = list(dict.fromkeys(name for series in scores.values() for name in series))
    if not types:
        raise ValueError("`scores` holds no question type.")
    width = 0.8 / len(scores)
    given = BASELINE_COLOURS | dict(colours or {})
    others = [label for label in scores if label not in given]
    given |= {label: series_colour(number) for number, label in enumerate(others)}
    with plot_style():
        figure = new_figure(max(4.5, 1.15 * len(types) + 1.0), 3.4)
        axes = figure.subplots()
        for number, (label, series) in enumerate(scores.items()):
            centres = np.arange(len(types)) + (number - (len(scores) - 1) / 2) * width
            heights = [series.get(name, np.nan) for name in types]
            axes.bar(centres, heights, width * 0.92, label=label, color=given[label])
            ends = [(intervals or {}).get(label, {}).get(name, (np.nan, np.nan)) for name in types]
            axes.vlines(centres, *zip(*ends, strict=True), color=INK_COLOUR, linewidth=0.8)
        axes.set_xticks(range(len(types)), [name.replace("_", "\n") for name in types], fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_ylabel(ylabel)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", length=0)
        add_legend(figure, *axes.get_legend_handles_labels())
    return figure
