"""Shapes of the furniture: each builder makes the parts of one category from an outer size and a palette.

A builder is a function `(width, depth, height, palette) -> list[Part]` in the object's frame: x to its right, y to its
back (the front looks to -y), z up, the origin on the floor below its middle, metres. Its parts fill the box
`width x depth x height` exactly: it is the object's tight bounding box (a test holds every builder to it).
"""

from typing import NamedTuple

from .shapes import Material, Part


Color = tuple[float, float, float]


class Palette(NamedTuple):
    """Colours of one instance."""

    main: Color  # the category's characteristic colour
    light: Color  # a lighter shade of it, for texture
    frame: Color  # legs, pots, poles
    pattern: str  # texture of the main surfaces

    def surface(self, period: float | tuple[float, float] = 0.1, pattern: str | None = None) -> Material:
        """The main texture, or another pattern in the main colours."""
        return Material(pattern or self.pattern, self.main, self.light, period)

    def support(self) -> Material:
        """The texture of legs, poles and frames."""
        return Material("wood", self.frame, scaled(self.frame, 0.75), 0.06)


def scaled(color: Color, factor: float) -> Color:
    """A darker or lighter shade, clipped to 0..1."""
    return tuple(float(min(max(c * factor, 0.0), 1.0)) for c in color)


def _box(
    x: float, y: float, z: float, size: tuple[float, float, float], material: Material, taper: float = 1.0
) -> Part:
    """A box that stands at height `z`, its middle over `(x, y)`."""
    return Part("box", (x, y, z + size[2] / 2), size, material, taper)


def _legs(w: float, d: float, h: float, thickness: float, material: Material) -> list[Part]:
    x, y = (w - thickness) / 2, (d - thickness) / 2
    return [_box(sx * x, sy * y, 0, (thickness, thickness, h), material) for sx in (-1, 1) for sy in (-1, 1)]


def chair(w, d, h, palette):
    """Four legs, a seat and an upright back."""
    seat, thickness = 0.48 * h, 0.09 * h
    leg = 0.1 * w
    return [
        *_legs(w, d, seat - thickness, leg, palette.support()),
        _box(0, 0, seat - thickness, (w, d, thickness), palette.surface(0.06)),
        _box(0, (d - 0.12 * d) / 2, seat, (w, 0.12 * d, h - seat), palette.surface(0.06)),
    ]


def table(w, d, h, palette):
    """A thick wooden top on four legs."""
    top = 0.08 * h + 0.015
    leg = 0.06 + 0.02 * w
    return [
        *_legs(w, d, h - top, leg, palette.support()),
        _box(0, 0, h - top, (w, d, top), palette.surface(0.18, "wood")),
    ]


def sofa(w, d, h, palette):
    """A seat with cushions between two arms, before a back."""
    arm, back, seat = min(0.2, 0.13 * w), 0.25 * d, 0.45 * h
    count = max(1, round((w - 2 * arm) / 0.7))
    width = (w - 2 * arm) / count
    cushions = [
        _box(
            (i - (count - 1) / 2) * width, -back / 2, seat * 0.75, (0.96 * width, d - back, seat * 0.35),
            palette.surface(0.05, "fabric"), 0.94,
        )
        for i in range(count)
    ]  # fmt: skip
    return [
        _box(0, 0, 0, (w, d, seat * 0.75), palette.surface(0.08)),
        *cushions,
        _box(0, (d - back) / 2, seat * 0.75, (w, back, h - seat * 0.75), palette.surface(0.08)),
        _box(-(w - arm) / 2, 0, seat * 0.75, (arm, d, 0.28 * h), palette.surface(0.08)),
        _box((w - arm) / 2, 0, seat * 0.75, (arm, d, 0.28 * h), palette.surface(0.08)),
    ]


def bed(w, d, h, palette):
    """A headboard at the back, a mattress, pillows and a blanket over the lower two thirds."""
    white = Material("fabric", (0.92, 0.92, 0.9), (0.8, 0.8, 0.8), 0.06)
    frame, board = 0.3 * h, 0.05 * d
    mattress = 0.28 * h
    pillows = [-0.24 * w, 0.24 * w] if w > 1.1 else [0.0]
    pillow = (0.42 * w if len(pillows) > 1 else 0.7 * w, 0.16 * d, 0.1 * h)
    return [
        _box(0, 0, 0, (w, d, frame), palette.support()),
        _box(0, (d - board) / 2, frame, (w, board, h - frame), palette.support()),
        _box(0, -board / 2, frame, (0.97 * w, d - board, mattress), white, 0.98),
        *[_box(x, 0.5 * d - board - 0.11 * d, frame + mattress, pillow, white, 0.85) for x in pillows],
        _box(0, -0.18 * d, frame, (w, 0.62 * d, mattress + 0.03), palette.surface(0.12)),
    ]


def cabinet(w, d, h, palette):
    """A chest of doors with handles on a plinth."""
    doors = max(1, round(w / 0.5))
    width = w / doors
    handle = Material("plain", (0.85, 0.85, 0.8), (0.8, 0.8, 0.8))
    fronts = [
        _box((i - (doors - 1) / 2) * width, -d / 2 + 0.03, 0.08 * h, (0.96 * width, 0.02, 0.88 * h),
             palette.surface((0.96 * width, 0.44 * h), "panels"))
        for i in range(doors)
    ]  # fmt: skip
    handles = [
        _box((i - (doors - 1) / 2 + 0.36) * width, -d / 2 + 0.01, 0.5 * h, (0.025, 0.02, 0.14 * h), handle)
        for i in range(doors)
    ]
    return [
        _box(0, 0.02, 0, (w, d - 0.04, 0.97 * h), palette.surface(0.2, "wood")),
        *fronts,
        *handles,
        _box(0, 0, 0.97 * h, (w, d, 0.03 * h), palette.surface(0.2, "wood")),
    ]


def lamp(w, d, h, palette):
    """A glowing shade on a pole with a round foot."""
    shade = Material("bands", palette.main, palette.light, 0.12, 0.75)
    dark = Material("plain", palette.frame, palette.frame)
    return [
        Part("cylinder", (0, 0, 0.015 * h), (0.7 * w, 0.7 * d, 0.03 * h), dark),
        Part("cylinder", (0, 0, 0.4 * h), (0.08 * w, 0.08 * d, 0.76 * h), dark),
        Part("cylinder", (0, 0, 0.86 * h), (w, d, 0.28 * h), shade, 0.65),
    ]


def television(w, d, h, palette):
    """A lit screen in a black frame on a wide foot."""
    dark = Material("plain", (0.07, 0.07, 0.08), (0.1, 0.1, 0.1))
    lit = Material("screen", palette.main, palette.light, 0.35 * w, 0.8)
    stand = 0.14 * h
    return [
        _box(0, 0, 0, (0.5 * w, d, 0.04 * h), dark),
        _box(0, 0, 0.04 * h, (0.1 * w, 0.2 * d, stand), dark),
        _box(0, 0, stand, (w, 0.25 * d, h - stand), dark),
        _box(0, -0.14 * d, stand + 0.04 * h, (0.95 * w, 0.05 * d, h - stand - 0.08 * h), lit),
    ]


def plant(w, d, h, palette):
    """A clay pot and a crown of leafy balls."""
    pot = Material("bands", palette.frame, scaled(palette.frame, 0.85), 0.3 * h)
    leaf = palette.surface(0.07 * h + 0.02, "leaves")
    return [
        Part("cylinder", (0, 0, 0.14 * h), (0.5 * w, 0.5 * d, 0.28 * h), pot, 1.25),
        Part("cylinder", (0, 0, 0.38 * h), (0.08 * w, 0.08 * d, 0.24 * h), palette.support()),
        Part("ball", (0, 0, 0.62 * h), (w, d, 0.42 * h), leaf),
        Part("ball", (0.12 * w, -0.08 * d, 0.82 * h), (0.62 * w, 0.62 * d, 0.36 * h), leaf),
        Part("ball", (-0.14 * w, 0.1 * d, 0.74 * h), (0.6 * w, 0.6 * d, 0.36 * h), leaf),
    ]


def bookshelf(w, d, h, palette):
    """Rows of books between dark boards, open to the front."""
    wall = 0.03
    board = palette.surface(0.15, "wood")
    rows = max(2, round(h / 0.38))
    pitch = (h - wall) / rows
    spines = Material("books", palette.main, scaled(palette.main, 0.35), (0.05, 0.92 * (pitch - wall)))
    return [
        _box(-(w - wall) / 2, 0, 0, (wall, d, h), board),
        _box((w - wall) / 2, 0, 0, (wall, d, h), board),
        _box(0, (d - wall) / 2, 0, (w, wall, h), board),
        *[_box(0, 0, i * pitch, (w, d, wall), board) for i in range(rows + 1)],
        *[_box(0, 0.06 * d, i * pitch + wall, (w - 2 * wall, 0.8 * d, 0.92 * (pitch - wall)), spines)
          for i in range(rows)],
    ]  # fmt: skip


def waste_bin(w, d, h, palette):
    """A bucket that widens upwards under a rim and a lid knob."""
    return [
        Part("cylinder", (0, 0, 0.45 * h), (0.72 * w, 0.72 * d, 0.9 * h), palette.surface(0.05, "stripes"), 1.3),
        Part("cylinder", (0, 0, 0.91 * h), (w, d, 0.08 * h), palette.support()),
        Part("cylinder", (0, 0, 0.975 * h), (0.25 * w, 0.25 * d, 0.05 * h), palette.support()),
    ]


def fridge(w, d, h, palette):
    """Two doors, one above the other, with bar handles."""
    steel = Material("plain", (0.45, 0.46, 0.48), (0.4, 0.4, 0.4))
    door, x = 0.06 * d, -0.42 * w
    return [
        _box(0, (door + 0.04) / 2, 0, (w, d - door - 0.04, h), palette.surface(0.5, "plain")),
        _box(0, -d / 2 + 0.04 + door / 2, 0.03 * h, (0.98 * w, door, 0.58 * h), palette.surface(0.5, "plain")),
        _box(0, -d / 2 + 0.04 + door / 2, 0.63 * h, (0.98 * w, door, 0.35 * h), palette.surface(0.5, "plain")),
        _box(x, -d / 2 + 0.02, 0.36 * h, (0.035, 0.04, 0.2 * h), steel),
        _box(x, -d / 2 + 0.02, 0.67 * h, (0.035, 0.04, 0.16 * h), steel),
    ]


def desk(w, d, h, palette):
    """A pale top on white side boards, with a stack of drawers on one side."""
    top, side = 0.04, 0.04
    white = Material("plain", palette.frame, palette.frame)
    width = min(0.32 * w, 0.45)
    drawers = Material("panels", palette.main, palette.light, (width, (h - top) / 3))
    return [
        _box(0, 0, h - top, (w, d, top), palette.surface(0.2, "wood")),
        _box(-(w - side) / 2, 0, 0, (side, d, h - top), white),
        _box((w - side) / 2, 0, 0, (side, d, h - top), white),
        _box(0, 0.45 * d, 0.4 * h, (w - 2 * side, 0.03, 0.5 * h), white),
        _box((w - width) / 2 - side, 0, 0.08 * h, (width, 0.94 * d, h - top - 0.08 * h), drawers),
    ]


def stool(w, d, h, palette):
    """A round cushion on a post with a round foot."""
    return [
        Part("cylinder", (0, 0, 0.03 * h), (0.85 * w, 0.85 * d, 0.06 * h), palette.support()),
        Part("cylinder", (0, 0, 0.45 * h), (0.18 * w, 0.18 * d, 0.8 * h), palette.support()),
        Part("cylinder", (0, 0, 0.91 * h), (w, d, 0.18 * h), palette.surface(0.08)),
    ]


def carton(w, d, h, palette):
    """A closed cardboard box with a strip of tape."""
    tape = Material("plain", scaled(palette.main, 1.35), palette.light)
    label = Material("plain", (0.95, 0.95, 0.95), (0.9, 0.9, 0.9))
    return [
        _box(0, 0.004, 0, (w, d - 0.008, 0.985 * h), palette.surface(0.25)),
        _box(0, 0, 0.985 * h, (w, 0.14 * d, 0.015 * h), tape),
        _box(0, -d / 2 + 0.004, 0.6 * h, (0.3 * w, 0.008, 0.25 * h), label),
    ]


def ball(w, d, h, palette):
    """A striped exercise ball."""
    return [Part("ball", (0, 0, h / 2), (w, d, h), palette.surface(0.5 * h, "bands"))]


def suitcase(w, d, h, palette):
    """An upright ribbed case on wheels with a pull-out handle."""
    body = 0.74 * h
    dark = Material("plain", palette.frame, palette.frame)
    wheels = [Part("cylinder", (sx * 0.4 * w, 0, 0.03 * h), (0.1 * w, 0.2 * d, 0.06 * h), dark) for sx in (-1, 1)]
    return [
        *wheels,
        _box(0, 0, 0.06 * h, (w, d, body), palette.surface(0.2 * w, "stripes")),
        *[_box(sx * 0.2 * w, 0.3 * d, 0.06 * h + body, (0.03, 0.03, 0.2 * h), dark) for sx in (-1, 1)],
        _box(0, 0.3 * d, 0.96 * h, (0.4 * w + 0.03, 0.03, 0.04 * h), dark),
    ]
