"""Drawing primitives: shapes in body units on an oversampled canvas, plain or in patterned cloth.

Body units: x = 0 is the middle of the body, y = 0 the crown of the head, y = 95 the ground; an image is about 102 units high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

SHADOW = (0, 0, 0, 34)
BLOCK_TOP = 33.0  # the height below which a color-block top has its second color


def tint(color: Color, factor: float) -> Color:
    """Darken (factor < 1) or lighten towards white (factor > 1: 1.3 is 30 % of the way)."""
    if factor <= 1:
        return tuple(int(channel * factor) for channel in color)
    return tuple(int(channel + (255 - channel) * min(1.0, factor - 1)) for channel in color)


def brightness(color: Color) -> float:
    """Return the perceived brightness, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def edge_of(color: Color) -> Color:
    """Return the outline that separates two parts of the same color: darker, or lighter where darker is invisible."""
    return tint(color, 0.7) if brightness(color) > 60 else tint(color, 1.22)


def mark_of(color: Color) -> Color:
    """Return the color of seams and pockets: clearly darker than the cloth, or lighter on dark cloth."""
    return tint(color, 0.58) if brightness(color) > 70 else tint(color, 1.32)


def trim_of(color: Color) -> Color:
    """Return the color of collars, plackets and piping: near white, or dark on light cloth."""
    return (246, 246, 242) if brightness(color) < 165 else (44, 48, 64)


def toward(a: Point, b: Point, share: float) -> Point:
    """Return the point at a share of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def accent_of(color: Color) -> Color:
    """Return the second color of stripes, checks, dots and logos: near white on dark cloth, near black on light cloth."""
    return (236, 236, 232) if brightness(color) < 150 else (52, 52, 60)


@dataclass(frozen=True)
class Cloth:
    """A color and what is woven or printed on it: plain | striped | checked | dotted | color-block, in the accent color."""

    color: Color
    pattern: str = "plain"
    accent: Color | None = None


def oval_points(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> list[Point]:
    """Return the points of an ellipse or a part of one; degrees run clockwise from three o'clock."""
    count = max(6, round((end - start) / 18))
    angles = [math.radians(start + (end - start) * k / count) for k in range(count + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def limb_points(a: Point, b: Point, ra: float, rb: float) -> list[Point]:
    """Return the outline of a tapered limb with round ends."""
    along = math.degrees(math.atan2(b[1] - a[1], b[0] - a[0]))
    return [
        *oval_points(*a, ra, ra, along + 90, along + 270),
        *oval_points(*b, rb, rb, along - 90, along + 90),
    ]


def smooth(points: list[Point], rounds: int = 2) -> list[Point]:
    """Round the corners of a closed outline by cutting them (Chaikin)."""
    for _ in range(rounds):
        cut = []
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]):
            cut += [
                (0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by),
                (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by),
            ]
        points = cut
    return points


def both_sides(right: list[Point]) -> list[Point]:
    """Mirror the right half of an outline, given from top to bottom, into a closed one."""
    return right + [(-x, y) for x, y in reversed(right)]


class Pen:
    """Draws on `canvas`; `scale_px` pixels a unit, body origin at `origin` (pixels), mirrored left to right if asked."""

    def __init__(self, canvas: Image.Image, scale_px: float, origin: Point, mirrored: bool = False) -> None:
        self.canvas = canvas
        self.scale_px = scale_px
        self.origin = origin
        self.sign = -1.0 if mirrored else 1.0
        self.ink = ImageDraw.Draw(canvas, "RGBA")

    def at(self, point: Point) -> Point:
        return (
            self.origin[0] + self.sign * self.scale_px * point[0],
            self.origin[1] + self.scale_px * point[1],
        )

    def shape(self, points: list[Point], fill: Color | Cloth, edge: bool = True) -> None:
        """Fill a closed outline and line its edge in a shade of its own color."""
        cloth = fill if isinstance(fill, Cloth) else Cloth(fill)
        pixels = [self.at(point) for point in points]
        if cloth.pattern in PATTERNS:
            self._weave(pixels, cloth)
        else:
            self.ink.polygon(pixels, fill=cloth.color)
        if edge:
            self.ink.line([*pixels, pixels[0]], fill=edge_of(cloth.color), width=self.width_px(0.45))

    def shadow(self, points: list[Point], ink: tuple[int, int, int, int] = SHADOW) -> None:
        self.ink.polygon([self.at(point) for point in points], fill=ink)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color | Cloth, edge: bool = True) -> None:
        self.shape(oval_points(x, y, rx, ry), fill, edge)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color | Cloth, edge: bool = True) -> None:
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, edge)

    def limb(self, a: Point, b: Point, ra: float, rb: float, fill: Color | Cloth) -> None:
        """Draw a tapered limb, its far side in shadow."""
        self.shape(limb_points(a, b, ra, rb), fill)
        self.shadow(limb_points((a[0] + 0.5 * ra, a[1]), (b[0] + 0.5 * rb, b[1]), 0.4 * ra, 0.4 * rb))

    def line(self, points: list[Point], color: Color, width: float) -> None:
        self.ink.line(
            [self.at(point) for point in points], fill=color, width=self.width_px(width), joint="curve"
        )

    def width_px(self, width: float) -> int:
        return max(1, round(width * self.scale_px))

    def _weave(self, pixels: list[Point], cloth: Cloth) -> None:
        columns, rows = zip(*pixels)
        left, top = max(0, int(min(columns))), max(0, int(min(rows)))
        right, bottom = (
            min(self.canvas.width, int(max(columns)) + 2),
            min(self.canvas.height, int(max(rows)) + 2),
        )
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        weave = Image.new("RGB", mask.size, cloth.color)
        # Patterns are fixed to the body, so stripes run on from the trunk into the sleeves.
        start = (left - self.origin[0], top - self.origin[1])
        PATTERNS[cloth.pattern](
            ImageDraw.Draw(weave), mask.size, start, self.scale_px, cloth.accent or accent_of(cloth.color)
        )
        self.canvas.paste(weave, (left, top), mask)


def _bands(length: int, start: float, period: float) -> list[float]:
    first = -math.fmod(start, period)
    return [first + period * k for k in range(-1, int(length / period) + 2)]


def _stripes(
    ink: ImageDraw.ImageDraw, size: tuple[int, int], start: Point, unit: float, accent: Color
) -> None:
    for y in _bands(size[1], start[1], 6.8 * unit):
        ink.rectangle([0, y, size[0], y + 2.7 * unit], fill=accent)


def _checks(
    ink: ImageDraw.ImageDraw, size: tuple[int, int], start: Point, unit: float, accent: Color
) -> None:
    for y in _bands(size[1], start[1], 7.2 * unit):
        ink.rectangle([0, y, size[0], y + 1.4 * unit], fill=accent)
    for x in _bands(size[0], start[0] + 2 * unit, 6.2 * unit):
        ink.rectangle([x, 0, x + 1.4 * unit, size[1]], fill=accent)


def _dots(ink: ImageDraw.ImageDraw, size: tuple[int, int], start: Point, unit: float, accent: Color) -> None:
    for y in _bands(size[1], start[1], 9.6 * unit):
        for step in (0.0, 4.8):
            for x in _bands(size[0], start[0] + (3.2 * unit if step else 0.0), 6.4 * unit):
                ink.ellipse([x, y + step * unit, x + 3.7 * unit, y + (step + 3.7) * unit], fill=accent)


def _blocks(
    ink: ImageDraw.ImageDraw, size: tuple[int, int], start: Point, unit: float, accent: Color
) -> None:
    top = BLOCK_TOP * unit - start[1]
    ink.rectangle([0, max(0.0, top), size[0], max(top, size[1])], fill=accent)


PATTERNS = {"striped": _stripes, "checked": _checks, "dotted": _dots, "color-block": _blocks}
