"""Around a person: the background of a place, the surroundings that may be named, and occluders."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ham.world.camera import Camera
from ham.world.pen import Color, Pen, Point, tint

# background -> (sky or wall, ground, colors of the objects in it)
PLACES: dict[str, tuple[Color, Color, tuple[Color, ...]]] = {
    "campus": (
        (176, 196, 206),
        (168, 164, 152),
        ((96, 132, 78), (120, 150, 96), (186, 170, 150), (136, 110, 92)),
    ),
    "street": (
        (168, 172, 178),
        (122, 124, 128),
        ((104, 108, 118), (150, 142, 132), (88, 94, 104), (172, 164, 150)),
    ),
    "mall": (
        (214, 206, 194),
        (196, 188, 178),
        ((224, 214, 200), (166, 140, 118), (150, 168, 184), (236, 226, 210)),
    ),
    "station": (
        (186, 192, 198),
        (150, 154, 160),
        ((120, 140, 166), (204, 206, 210), (110, 114, 120), (196, 180, 120)),
    ),
    "park": (
        (186, 210, 216),
        (150, 166, 122),
        ((92, 134, 74), (116, 152, 88), (146, 128, 100), (78, 112, 66)),
    ),
    "plaza": (
        (198, 200, 204),
        (184, 180, 176),
        ((160, 152, 146), (206, 200, 192), (140, 150, 160), (176, 156, 136)),
    ),
}


def paint_background(size_px: tuple[int, int], camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Paint the background, out of focus. size_px: (height, width)."""
    height, width = size_px
    wall, ground, things = PLACES[camera.place]
    small = Image.new("RGB", (24, 72), tint(wall, float(rng.uniform(0.9, 1.08))))
    ink = ImageDraw.Draw(small)
    horizon = int(72 * camera.horizon) + int(rng.integers(-4, 5))
    for _ in range(int(rng.integers(2, 6))):
        x, w, top = (
            int(rng.integers(-6, 24)),
            int(rng.integers(4, 14)),
            int(rng.integers(-4, max(1, horizon - 4))),
        )
        color = tint(things[int(rng.integers(len(things)))], float(rng.uniform(0.8, 1.15)))
        if camera.place in ("park", "campus") and rng.random() < 0.5:
            ink.ellipse([x, top, x + w, top + 2 * w], fill=color)
        else:
            ink.rectangle([x, top, x + w, horizon + 2], fill=color)
    ink.rectangle([0, horizon, 24, 72], fill=tint(ground, float(rng.uniform(0.88, 1.08))))
    slope = int(rng.integers(-8, 9))
    for step in range(int(rng.integers(1, 4))):
        y = horizon + 6 + 11 * step + int(rng.integers(0, 5))
        ink.line(
            [(0, y), (24, y + slope)],
            fill=tint(ground, float(rng.choice((0.86, 1.12)))),
            width=int(rng.integers(1, 4)),
        )
    return small.resize((width, height), Image.Resampling.BICUBIC)


def paint_surroundings(
    canvas: Image.Image, scale_px: float, origin: Point, kind: str, rng: np.random.Generator
) -> None:
    """Paint what annotators may name: a street, grass, stairs, a brick wall or a crosswalk; nothing for ""."""
    if kind:
        light = float(rng.uniform(0.9, 1.06))
        pen = Pen(canvas, scale_px, (canvas.width / 2, origin[1]))
        {
            "street": _street,
            "grass": _grass,
            "stairs": _stairs,
            "wall": _wall,
            "crosswalk": _crosswalk,
        }[kind](pen, light, float(rng.uniform(0, 1)))


WIDE = 60.0  # beyond both edges of any image, in body units
LOW = 125.0
ASPHALT = (84, 86, 94)


def _street(pen: Pen, light: float, chance: float) -> None:
    horizon = 58 + 8 * chance
    pen.box(-WIDE, horizon, WIDE, LOW, tint(ASPHALT, light), edge=False)
    pen.box(-WIDE, horizon, WIDE, horizon + 3.4, tint((206, 204, 198), light), edge=False)  # the kerb
    for side in (-1, 1):  # lane lines that meet far behind the person
        for y in (68.0, 82.0, 96.0):
            near, far = 0.19 * (y + 9 - 20), 0.19 * (y - 20)
            pen.shape(
                [
                    (side * far, y),
                    (side * (far + 1.8), y),
                    (side * (near + 2.6), y + 9),
                    (side * near, y + 9),
                ],
                tint((250, 206, 60), light),
                edge=False,
            )


def _crosswalk(pen: Pen, light: float, chance: float) -> None:
    horizon = 56 + 6 * chance
    pen.box(-WIDE, horizon, WIDE, LOW, tint(ASPHALT, light), edge=False)
    y, high = horizon + 5.0, 4.0
    while y < LOW:
        pen.box(-WIDE, y, WIDE, y + high, tint((244, 244, 240), light), edge=False)
        y, high = y + 2.0 * high, high * 1.12


def _grass(pen: Pen, light: float, chance: float) -> None:
    horizon = 54 + 10 * chance
    pen.box(-WIDE, horizon, WIDE, LOW, tint((98, 162, 66), light), edge=False)
    for row in range(8):
        for column in range(-6, 7):
            x, y = 6.4 * column + 3.2 * (row % 2) + 4 * chance, horizon + 3 + 6.6 * row
            pen.line(
                [(x - 1.0, y), (x - 0.4, y - 3.2), (x + 0.4, y), (x + 1.2, y - 2.8)],
                tint((58, 112, 44), light),
                0.6,
            )


def _stairs(pen: Pen, light: float, chance: float) -> None:
    y, high = 22 + 8 * chance, 4.6
    while y < LOW:
        pen.box(-WIDE, y, WIDE, y + 0.55 * high, tint((216, 212, 204), light), edge=False)
        pen.box(-WIDE, y + 0.55 * high, WIDE, y + high, tint((128, 124, 120), light), edge=False)
        y, high = y + high, high * 1.05


def _wall(pen: Pen, light: float, chance: float) -> None:
    foot, high = 80 + 6 * chance, 5.2
    mortar = tint((198, 184, 172), light)
    pen.box(-WIDE, -20, WIDE, foot, tint((160, 104, 86), light), edge=False)
    for row in range(int((foot + 20) / high) + 1):
        y = foot - high * row
        pen.line([(-WIDE, y), (WIDE, y)], mortar, 0.6)
        for column in range(-5, 6):
            x = 9.0 * column + (4.5 if row % 2 else 0.0) + 5 * chance
            pen.line([(x, y - high), (x, y)], mortar, 0.6)


def paint_occluder(
    canvas: Image.Image, scale_px: float, origin: Point, kind: str, at: float, rng: np.random.Generator
) -> None:
    """Paint an occluder: a bonnet, a bush or a bin from below, a post or a wall from the side."""
    if kind == "none":
        return
    ink = ImageDraw.Draw(canvas)
    width, height = canvas.size
    if kind != "bottom":
        color = tint(
            ((112, 112, 116), (150, 140, 126), (86, 94, 88))[int(rng.integers(3))],
            float(rng.uniform(0.85, 1.1)),
        )
        edge = origin[0] + (at if kind == "right" else -at) * scale_px
        ink.rectangle([edge, 0, width, height] if kind == "right" else [0, 0, edge, height], fill=color)
        ink.line([(edge, 0), (edge, height)], fill=tint(color, 0.7), width=max(1, int(scale_px * 0.6)))
        return
    top = origin[1] + at * scale_px
    what = int(rng.integers(3))
    if what == 0:
        color = ((150, 154, 160), (196, 196, 198), (120, 60, 60), (70, 84, 110))[int(rng.integers(4))]
        ink.rounded_rectangle(
            [-width * 0.2, top, width * 1.2, height * 1.2],
            radius=width * 0.25,
            fill=color,
            outline=tint(color, 0.6),
            width=max(1, int(scale_px * 0.6)),
        )
        ink.rectangle([0, top + 8 * scale_px, width, top + 9 * scale_px], fill=tint(color, 0.75))
    elif what == 1:
        ink.rectangle([0, top + 4 * scale_px, width, height], fill=(72, 104, 62))
        for x in np.arange(-2.0, 3.1, 0.5):
            radius = scale_px * float(rng.uniform(3.6, 5.0))
            middle = width * (0.5 + 0.25 * float(x))
            ink.ellipse(
                [middle - radius, top, middle + radius, top + 2.4 * radius],
                fill=tint((82, 118, 70), float(rng.uniform(0.85, 1.12))),
            )
    else:
        color = tint((140, 122, 100), float(rng.uniform(0.8, 1.1)))
        ink.rectangle([0, top, width, height], fill=color)
        ink.rectangle([0, top, width, top + 2.4 * scale_px], fill=tint(color, 1.2))
