"""Figures of what the camera saw: frames, depth maps, camera paths, and one overview of a reconstruction."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import camera_centres, to_frames, to_numpy, viewing_directions
from .depth_files import colourise_depth, depth_range
from .plotting import (
    DEPTH_COLORMAP,
    INK_COLOUR,
    NEUTRAL_COLOUR,
    add_legend,
    bare,
    new_figure,
    plot_style,
    series_colour,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

CELL_WIDTH = 1.7  # inches for one frame of a strip
FRAMES_PER_ROW = 4


def _spread(num_frames: int, count: int) -> np.ndarray:
    """Indices of at most `count` frames, evenly spread, first and last included."""
    return np.unique(np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int))


def _caption(index: int, timestamps: Sequence[float] | None) -> str:
    return f"frame {index}" if timestamps is None else f"{float(timestamps[index]):.1f} s"


def frames_figure(frames: Any, timestamps: Sequence[float] | None = None, max_frames: int = 8) -> "Figure":
    """The clip's frames, evenly spread, up to four to a row, captioned with their times.

    Args:
        frames (`torch.Tensor` or `np.ndarray` of shape `(T, H, W, 3)`): uint8 RGB.
        timestamps (`Sequence[float]`, *optional*): seconds, one per frame; without them frames are numbered.
        max_frames (`int`, *optional*, defaults to 8): most frames to show.
    """
    frames = to_frames(frames)
    shown = _spread(len(frames), max_frames)
    rows = -(-len(shown) // FRAMES_PER_ROW)
    columns = -(-len(shown) // rows)
    cell_width = 2.2
    cell_height = cell_width * frames.shape[1] / frames.shape[2] + 0.22
    with plot_style():
        figure = new_figure(cell_width * columns, cell_height * rows)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            bare(axes)
        for axes, index in zip(grid, shown, strict=False):
            axes.imshow(frames[index], interpolation="nearest")
            axes.set_title(_caption(index, timestamps), fontweight="normal", fontsize=8, pad=3)
    return figure


def _depth_colourbar(figure: "Figure | SubFigure", axes: Any, near: float, far: float, unit: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(near, far), cmap=DEPTH_COLORMAP)
    bar = figure.colorbar(colours, ax=axes, fraction=0.03, pad=0.01, aspect=25)
    bar.set_label(f"depth ({unit})")
    bar.outline.set_visible(False)
    bar.ax.invert_yaxis()  # near, which is bright, on top


def _masked(depth: Any, confidence: Any | None, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Depth as float with pixels of confidence 0 turned into "no measurement" (0)."""
    depth = to_numpy(depth, name, shape)
    return depth if confidence is None else np.where(to_numpy(confidence, "confidence", depth.shape) > 0, depth, 0.0)


def depth_figure(
    frames: Any,
    predicted: Mapping[str, Any],
    target: Any = None,
    confidence: Any = None,
    timestamps: Sequence[float] | None = None,
    unit: str = "m",
    max_frames: int = 6,
) -> "Figure":
    """Frames above their depth maps, true and predicted, all on one colour scale so that rows can be compared.

    Args:
        frames (`torch.Tensor` or `np.ndarray` of shape `(T, h, w, 3)`): uint8 RGB.
        predicted (`Mapping[str, array of shape (T, H, W)]`): predicted depth by row label, such as
            `{"after training": depth}`.
        target (array of shape `(T, H, W)`, *optional*): true depth in the same unit; it alone sets the scale if given.
        confidence (array of shape `(T, H, W)`, *optional*): of the true depth; pixels with 0 are drawn grey.
        timestamps (`Sequence[float]`, *optional*): seconds, one per frame.
        unit (`str`, *optional*, defaults to `"m"`): unit of the depths, for the colour bar.
        max_frames (`int`, *optional*, defaults to 6): most frames to show.
    """
    frames = to_frames(frames)
    shape = (len(frames), None, None)
    maps = {} if target is None else {"true": _masked(target, confidence, "target", shape)}
    maps |= {label: to_numpy(depth, f"predicted[{label!r}]", shape) for label, depth in predicted.items()}
    near, far = depth_range(*([maps["true"]] if target is not None else maps.values()))
    shown = _spread(len(frames), max_frames)
    rows = 1 + len(maps)
    cell_height = CELL_WIDTH * frames.shape[1] / frames.shape[2]
    with plot_style():
        figure = new_figure(CELL_WIDTH * len(shown) + 1.1, cell_height * rows + 0.3)
        grid = figure.subplots(rows, len(shown), squeeze=False)
        for column, index in enumerate(shown):
            grid[0, column].imshow(frames[index], interpolation="nearest")
            grid[0, column].set_title(_caption(index, timestamps), fontweight="normal", fontsize=8)
            for row, depth in enumerate(maps.values(), start=1):
                grid[row, column].imshow(colourise_depth(depth[index], near, far), interpolation="nearest")
        for axes, label in zip(grid[:, 0], ["frame", *maps], strict=True):
            axes.set_ylabel(label)
        for axes in grid.flat:
            bare(axes)
        _depth_colourbar(figure, grid[1:], near, far, unit)
    return figure


def _draw_path(axes: "Axes", cam_from_world: np.ndarray, label: str, colour: str, arrow: float, dashed: bool) -> None:
    centres, forward = camera_centres(cam_from_world), viewing_directions(cam_from_world)
    x, z = centres[:, 0], centres[:, 2]
    axes.plot(x, z, "--" if dashed else "-", color=colour, linewidth=1.6, label=label, zorder=3)
    axes.plot(x, z, "o", color=colour, markersize=3, zorder=3)
    axes.quiver(
        x, z, forward[:, 0] * arrow, forward[:, 2] * arrow, color=colour, angles="xy", scale_units="xy", scale=1,
        width=0.004, headwidth=5, zorder=3, alpha=0.8,
    )  # fmt: skip


def _arrow_tips(cam_from_world: np.ndarray, arrow: float) -> np.ndarray:
    """Where the arrows of a path end, (T, 2): x and z."""
    return (camera_centres(cam_from_world) + arrow * viewing_directions(cam_from_world))[:, [0, 2]]


def _draw_plan(axes: "Axes", paths: Mapping[str, np.ndarray], unit: str) -> None:
    """Paths seen from above on given axes; equal scale both ways, the first camera at the origin looking up."""
    extent = max(np.ptp(camera_centres(path)[:, [0, 2]], axis=0).max() for path in paths.values())
    arrow = max(0.12 * extent, 0.05)
    for number, (label, path) in enumerate(paths.items()):
        _draw_path(axes, path, label, series_colour(number), arrow, dashed=number > 0)
    axes.plot(0, 0, marker="s", color=INK_COLOUR, markersize=6, linestyle="none", label="first camera", zorder=4)
    # The arrows' tips are no data to matplotlib, so the limits are set here: a square that holds everything drawn.
    drawn = np.concatenate([axes.dataLim.get_points(), *(_arrow_tips(path, arrow) for path in paths.values())])
    middle, half = (drawn.max(0) + drawn.min(0)) / 2, 0.55 * np.ptp(drawn, axis=0).max()
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"x, to the right ({unit})")
    axes.set_ylabel(f"z, ahead ({unit})")


def camera_paths_figure(clips: Mapping[str, Mapping[str, Any]], unit: str = "m") -> "Figure":
    """Camera paths seen from above, one panel per clip, with the viewing directions as arrows.

    Args:
        clips (`Mapping[str, Mapping[str, array of shape (T, 3, 4)]]`): by panel title, the camera-from-world matrices
            of one clip by label, such as `{"room 7": {"true": ..., "predicted": ...}}`. OpenCV axes, the first camera
            is the world.
        unit (`str`, *optional*, defaults to `"m"`): unit of the translations.
    """
    checked = {
        title: {label: to_numpy(path, f"{title}: {label}", (None, 3, 4)) for label, path in paths.items()}
        for title, paths in clips.items()
    }
    if not checked or not all(checked.values()):
        raise ValueError("`clips` must hold at least one path for every panel.")
    with plot_style():
        figure = new_figure(max(3.3 * len(checked), 4.4), 3.7)  # the legend's width at least
        panels = figure.subplots(1, len(checked), squeeze=False)[0]
        for axes, (title, paths) in zip(panels, checked.items(), strict=True):
            axes.set_title(title)
            _draw_plan(axes, paths, unit)
        handles, labels = panels[0].get_legend_handles_labels()
        add_legend(figure, handles, labels, "outside lower center")
    return figure


def overview_figure(
    frames: Any,
    depth: Any,
    cam_from_world: Any,
    points: np.ndarray,
    colours: np.ndarray,
    timestamps: Sequence[float] | None = None,
    metric_scale: float | None = None,
) -> "Figure":
    """One picture of a reconstruction: frames and depth on the left, the coloured cloud with the path from above.

    Args:
        frames (`torch.Tensor` or `np.ndarray` of shape `(T, h, w, 3)`): uint8 RGB.
        depth (`torch.Tensor` or `np.ndarray` of shape `(T, H, W)`): metres.
        cam_from_world (`torch.Tensor` or `np.ndarray` of shape `(T, 3, 4)`): extrinsics, metres, OpenCV axes.
        points (`np.ndarray` of shape `(N, 3)`): the cloud, metres, in the first camera's frame.
        colours (`np.ndarray` of shape `(N, 3)`): uint8 RGB of the cloud.
        timestamps (`Sequence[float]`, *optional*): seconds, one per frame.
        metric_scale (`float`, *optional*): metres per unit of the model's own depth, for the title.
    """
    frames = to_frames(frames)
    depth = to_numpy(depth, "depth", (len(frames), None, None))
    path = to_numpy(cam_from_world, "cam_from_world", (len(frames), 3, 4))
    near, far = depth_range(depth)
    shown = _spread(len(frames), 4)
    aspect = frames.shape[1] / frames.shape[2]
    cell = 1.9
    with plot_style():
        figure = new_figure(2 * cell + 5.4, max(cell * aspect * len(shown) + 0.5, 4.2))
        left, right = figure.subfigures(1, 2, width_ratios=[2 * cell + 0.8, 4.6])
        grid = left.subplots(len(shown), 2, squeeze=False)
        for row, index in zip(grid, shown, strict=True):
            row[0].imshow(frames[index], interpolation="nearest")
            row[1].imshow(colourise_depth(depth[index], near, far), interpolation="nearest")
            row[0].set_ylabel(_caption(index, timestamps))
            for axes in row:
                bare(axes)
        grid[0, 0].set_title("frames")
        grid[0, 1].set_title("predicted depth")
        _depth_colourbar(left, grid[:, 1], near, far, "m")
        plan = right.subplots()
        _draw_cloud(plan, points, colours)
        _draw_plan(plan, {"camera path": path}, "m")
        plan.set_title(
            "seen from above" if metric_scale is None else f"seen from above; 1 unit = {metric_scale:.2f} m"
        )
        plan.legend(loc="best")
    return figure


def _draw_cloud(axes: "Axes", points: np.ndarray, colours: np.ndarray, max_points: int = 60_000) -> None:
    """Scatter the cloud from above, higher points over lower ones, with the top fifth (mostly ceiling) taken off."""
    if len(points) == 0:
        axes.text(0.5, 0.5, "no valid points", transform=axes.transAxes, ha="center", color=NEUTRAL_COLOUR)
        return
    step = -(-len(points) // max_points)
    points, colours = points[::step], colours[::step]
    # OpenCV's y points down, so descending y goes from the floor up.
    order = np.argsort(-points[:, 1])[: -(-4 * len(points) // 5)]
    x, z = points[order, 0], points[order, 2]
    axes.scatter(x, z, c=colours[order] / 255.0, s=1.5, marker="s", linewidths=0, zorder=1, rasterized=True)
