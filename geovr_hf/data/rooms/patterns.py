"""Procedural textures: the colour of a surface point from its place on the surface, evaluated only where a ray hits.

A pattern is a function `(u, v, color, accent) -> rgb` on `N` points. `u, v` of shape `(N,)` are surface coordinates in
periods of the material (for vertical faces `v` points up), `color` and `accent` of shape `(N, 3)` the material's two
colours in 0..1.
"""

from collections.abc import Callable
from functools import cache

import numpy as np


Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_NOISE_SIZE = 256  # texels of the noise table along each axis; a power of two, so that wrapping is a bit mask
_NOISE_TEXELS = 8  # texels per unit of the coarsest octave


@cache
def _noise_table() -> np.ndarray:
    """Tileable value noise of three octaves in 0..1, shape `(256, 256)`."""
    rng = np.random.default_rng(0)
    table = np.zeros((_NOISE_SIZE, _NOISE_SIZE), np.float32)
    for octave, weight in enumerate((0.5, 0.3, 0.2)):
        step = _NOISE_TEXELS >> octave
        knots = rng.random((_NOISE_SIZE // step, _NOISE_SIZE // step), dtype=np.float32)
        blend = np.arange(_NOISE_SIZE) % step / step
        blend = (blend * blend * (3 - 2 * blend)).astype(np.float32)
        low = np.arange(_NOISE_SIZE) // step
        high = (low + 1) % len(knots)
        rows = knots[low] * (1 - blend)[:, None] + knots[high] * blend[:, None]
        table += weight * (rows[:, low] * (1 - blend) + rows[:, high] * blend)
    return table


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth noise in 0..1 with features of about one unit, shape `(N,)`."""
    column = (u * _NOISE_TEXELS).astype(np.int32) & (_NOISE_SIZE - 1)
    row = (v * _NOISE_TEXELS).astype(np.int32) & (_NOISE_SIZE - 1)
    return _noise_table()[row, column]


def _hash(i: np.ndarray, j: np.ndarray | int = 0) -> np.ndarray:
    """A repeatable number in 0..1 for each integer cell, shape `(N,)`."""
    mixed = np.sin(i * 12.9898 + j * 78.233) * 43758.547
    return mixed - np.floor(mixed)


def _mix(color: np.ndarray, accent: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return color + (accent - color) * weight[:, None]


def _lines(u: np.ndarray, width: float) -> np.ndarray:
    """1 on a line of `width` periods around each integer, else 0."""
    return (np.abs(u - np.round(u)) < width / 2).astype(np.float32)


def plain(u, v, color, accent):
    """One colour with a trace of unevenness."""
    return color * (0.96 + 0.08 * noise(u, v))[:, None]


def plaster(u, v, color, accent):
    """Blotches of two nearby colours: walls and ceilings."""
    return _mix(color, accent, 0.6 * noise(u, v) + 0.4 * noise(u * 5, v * 5))


def wood(u, v, color, accent):
    """Grain that runs along `u`."""
    rings = v * 3 + 1.5 * noise(u * 0.35, v)
    return _mix(color, accent, 0.7 * np.abs(2 * (rings - np.floor(rings)) - 1) + 0.3 * noise(u, v * 8))


def planks(u, v, color, accent):
    """Floor boards, each of its own shade, with dark joints."""
    row = np.floor(v)
    along = u / 5 + _hash(row)
    shade = 0.82 + 0.3 * _hash(np.floor(along), row)
    joint = np.maximum(_lines(v, 0.07), _lines(along, 0.012))
    return _mix(color, accent, 0.8 * noise(u * 0.4, v * 6)) * (shade * (1 - 0.5 * joint))[:, None]


def tiles(u, v, color, accent):
    """Square tiles with joints of the accent colour."""
    shade = 0.92 + 0.12 * _hash(np.floor(u + 0.5), np.floor(v + 0.5))
    return _mix(color * shade[:, None], accent, np.maximum(_lines(u, 0.06), _lines(v, 0.06)))


def bricks(u, v, color, accent):
    """Running bond, two periods wide and one high."""
    row = np.floor(v)
    along = u / 2 + 0.5 * (row % 2)
    shade = 0.85 + 0.25 * _hash(np.floor(along), row)
    return _mix(color * shade[:, None], accent, np.maximum(_lines(v, 0.14), _lines(along, 0.07)))


def checker(u, v, color, accent):
    """A chessboard of the two colours."""
    return _mix(color, accent, (np.floor(u) + np.floor(v)) % 2)


def stripes(u, v, color, accent):
    """Vertical stripes."""
    return _mix(color, accent, np.floor(2 * u) % 2)


def bands(u, v, color, accent):
    """Horizontal stripes."""
    return _mix(color, accent, np.floor(2 * v) % 2)


def fabric(u, v, color, accent):
    """A woven cloth with soft folds."""
    weave = 0.5 + 0.25 * (np.sin(2 * np.pi * u) + np.sin(2 * np.pi * v))
    return _mix(color, accent, 0.5 * weave + 0.5 * noise(u * 0.2, v * 0.2))


def carpet(u, v, color, accent):
    """Coarse speckle."""
    return _mix(color, accent, noise(u * 4, v * 4))


def leaves(u, v, color, accent):
    """Light leaves before dark gaps."""
    return _mix(color, accent, (noise(u, v) > 0.52).astype(np.float32)) * (0.75 + 0.5 * noise(u * 2, v * 2))[:, None]


@cache
def _book_colors() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(0.15, 0.85, (32, 3)).astype(np.float32)


def books(u, v, color, accent):
    """Spines side by side, each of its own colour and height, before the accent colour."""
    index = np.floor(u)
    rgb = _book_colors()[(_hash(index) * 32).astype(np.int32)]
    height = v - np.floor(v)
    gap = np.maximum(_lines(u, 0.16), (height > 0.7 + 0.25 * _hash(index, 7)).astype(np.float32))
    return _mix(rgb, accent, gap)


def screen(u, v, color, accent):
    """A lit picture of soft shapes."""
    return _mix(color, accent, np.clip(1.6 * noise(u + 3, v + 5) - 0.3 + 0.35 * np.sin(4 * u), 0, 1))


def panels(u, v, color, accent):
    """Recessed panels as on doors and cupboard fronts."""
    x, y = np.abs(u - np.round(u)), np.abs(v - np.round(v))
    edge = np.minimum(0.5 - x, 0.5 - y)
    return _mix(color, accent, ((edge > 0.07) & (edge < 0.12)).astype(np.float32) + 0.25 * (edge >= 0.12))


def window(u, v, color, accent):
    """Bars of the accent colour before a bright sky that pales towards a green horizon."""
    height = v - np.floor(v)
    hills = (height < 0.32 + 0.12 * noise(u * 3, 0 * v)).astype(np.float32)
    sky = _mix(color, np.ones_like(color), 1 - height)
    scene = _mix(sky, np.float32([0.35, 0.55, 0.3]) * np.ones_like(color), hills)
    return _mix(scene, accent, np.maximum(_lines(u, 0.1), _lines(v, 0.1)))


PATTERNS: dict[str, Pattern] = {
    function.__name__: function
    for function in (
        plain, plaster, wood, planks, tiles, bricks, checker, stripes, bands,
        fabric, carpet, leaves, books, screen, panels, window,
    )
}  # fmt: skip
