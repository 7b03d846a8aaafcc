"""The common look of all figures, and how one is made and saved.

Figures are built with matplotlib's object interface on the Agg canvas: no pyplot, so no global state, no window, no
display needed, and safe in threads and tests.
"""

import math
import os
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING

from geovr_hf.extras import import_extra

from .atomic_files import atomic_path


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH_COLORMAP = "viridis_r"
# Okabe and Ito's palette, then brown, wine and olive: told apart with any colour vision and in print.
SERIES_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6F4E37", "#882255", "#999933",
)  # fmt: skip
NEUTRAL_COLOUR = "#8a8f98"
INK_COLOUR = "#2b2f36"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": NEUTRAL_COLOUR,
    "axes.labelcolor": INK_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK_COLOUR,
    "ytick.color": INK_COLOUR,
    "text.color": INK_COLOUR,
    "legend.frameon": False,
    "grid.color": "#e3e5e9",
}
DOTS_PER_INCH = 150


def series_colour(number: int) -> str:
    """Colour of a series: [`SERIES_COLOURS`], and from their end on the same ones again, half as strong each time."""
    rounds, place = divmod(number, len(SERIES_COLOURS))
    strength = 0.5**rounds
    channels = bytes.fromhex(SERIES_COLOURS[place][1:])
    return "#" + bytes(round(255 - strength * (255 - channel)) for channel in channels).hex()


def import_matplotlib() -> ModuleType:
    """The module `matplotlib`.

    Raises:
        ImportError: if it is not installed, naming the extra that brings it.
    """
    return import_extra("matplotlib", "viz", "Figures need matplotlib")


def plot_style() -> AbstractContextManager:
    """Context manager: matplotlib settings of this project; the caller's own settings come back afterwards."""
    return import_matplotlib().rc_context(STYLE)


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure of `width` x `height` inches that lays itself out and draws without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: "Axes") -> None:
    """Strip ticks and frame from axes that show a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Write `figure` to `path` (PNG, PDF or SVG by suffix), atomically, creating the folder."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="white")


def add_legend(figure: "Figure", handles: list, labels: list[str], loc: str = "outside upper center"):
    """Name series beside a figure's panels, on as many lines as the figure's width takes."""
    if not labels:
        return
    letter, key = 0.075, 0.7  # inches: of a letter of the legend's size, and of a key with its gaps
    lines = 1
    while lines < len(labels):
        columns = (labels[start : start + lines] for start in range(0, len(labels), lines))
        if sum(key + letter * max(map(len, column)) for column in columns) <= figure.get_figwidth():
            break
        lines += 1
    figure.legend(handles, labels, loc=loc, ncols=math.ceil(len(labels) / lines))
