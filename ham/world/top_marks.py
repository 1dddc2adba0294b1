"""What tells one kind of top from another: collars, buttons, ribs, bows, and the printed logo."""

from __future__ import annotations

from ham.world.figure import BULK, Body
from ham.world.outerwear import draw_coat_marks, draw_hoodie_marks
from ham.world.pen import Color, Pen, brightness, mark_of, oval_points, smooth, tint, trim_of


def draw_marks(pen: Pen, kind: str, body: Body, view: str, color: Color) -> None:
    """Draw the marks of a kind of top that depend on nothing but its color."""
    MARKS[kind](pen, body, view, color)


def _t_shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    if view == "front":
        pen.line(oval_points(0, 20.8, 3.4, 2.8, 10, 170), mark_of(color), 0.8)


def draw_shirt_tails(pen: Pen, body: Body, view: str, color: Color) -> None:
    """Draw the hem of a shirt that is not tucked in."""
    half = body.depth if view == "side" else body.hip
    pen.shape([(-half, 51.8), (half, 51.8), (half * 0.6, 56.4), (0, 52.4), (-half * 0.6, 56.4)], color)


def _shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    trim = trim_of(color)
    if view == "front":
        pen.box(-1.5, 23, 1.5, 42.5, trim)
        for y in (28, 33, 38):
            pen.oval(0, y, 0.9, 0.9, color, edge=False)
        for side in (-1, 1):
            pen.shape([(side * 0.2, 23.6), (side * 2.6, 18.2), (side * 6.4, 20.8), (side * 4.6, 28.4)], trim)
        pen.box(3.0, 29, 6.4, 33.4, mark_of(color))
    elif view == "back":
        pen.box(-5.6, 17.6, 5.6, 22.6, trim)
        pen.line([(-body.shoulder * 0.9, 27.0), (body.shoulder * 0.9, 27.0)], trim, 1.3)
        pen.line([(0, 27), (0, 42)], mark_of(color), 0.7)
    else:
        pen.shape([(-4.4, 17.6), (3.4, 18.0), (6.4, 27.0), (-3.6, 23.2)], trim)
        front = body.depth + 0.5 * body.bust
        pen.line([(front * 0.82, 26), (front * 0.8, 42)], trim, 1.6)


def _sweater(pen: Pen, body: Body, view: str, color: Color) -> None:
    rib = tint(color, 0.5) if brightness(color) > 70 else tint(color, 1.34)
    half = (body.depth if view == "side" else body.hip) * BULK["sweater"]
    pen.shape(
        smooth([(-half - 0.2, 44.2), (half + 0.2, 44.2), (half - 0.4, 51.0), (-half + 0.4, 51.0)], 1), rib
    )
    for share in (-0.75, -0.45, -0.15, 0.15, 0.45, 0.75):
        pen.line([(share * half, 46.0), (share * half, 50.4)], tint(rib, 0.75), 0.35)
    middle = -0.4 if view == "side" else 0
    pen.shape(
        smooth([(middle - 4.8, 16.6), (middle + 4.8, 16.6), (middle + 6.0, 24.0), (middle - 6.0, 24.0)], 1),
        rib,
    )


def _blouse(pen: Pen, body: Body, view: str, color: Color) -> None:
    trim = trim_of(color)
    half = (body.depth if view == "side" else body.waist) * BULK["blouse"]
    pen.line([(-half, 40.4), (half, 40.4)], trim, 1.2)
    if view == "front":  # a bow at the neck
        for side in (-1, 1):
            pen.shape([(0, 23.4), (side * 6.4, 19.6), (side * 6.6, 27.4)], trim)
            pen.shape([(0, 23.4), (side * 1.2, 35.0), (side * 4.2, 33.6)], trim)
        pen.oval(0, 23.4, 1.5, 1.5, mark_of(trim))
    elif view == "back":  # a bow at the waist
        for side in (-1, 1):
            pen.shape([(0, 40.4), (side * 4.8, 37.0), (side * 5.0, 43.8)], trim)
        pen.oval(0, 40.4, 1.2, 1.2, mark_of(trim))
        pen.oval(0, 20.8, 5.4, 1.8, trim)
    else:
        pen.oval(0, 20.6, 4.8, 1.9, trim)
        pen.shape([(2.4, 22.8), (8.6, 19.6), (8.2, 28.0)], trim)


def _dress(pen: Pen, body: Body, view: str, color: Color) -> None:
    half = (body.depth if view == "side" else body.waist) * BULK["dress"]
    pen.line([(-half, 41.2), (half, 41.2)], mark_of(color), 0.7)
    if view == "back":
        pen.line([(0, 21), (0, 40)], mark_of(color), 0.5)


def draw_neckline(pen: Pen, view: str, skin: Color) -> None:
    """Draw the bare skin in the wide neckline of a dress."""
    if view == "front":
        pen.shape(oval_points(0, 20.0, 4.6, 5.4, 0, 180), skin)
    elif view == "back":
        pen.shape(oval_points(0, 20.0, 4.4, 3.0, 0, 180), skin)
    else:
        pen.shape([(-2.0, 19.6), (2.4, 19.6), (4.4, 24.0), (1.6, 22.4)], skin, edge=False)


def draw_logo(pen: Pen, kind: str, body: Body, view: str, ink: Color) -> None:
    """Draw a printed star."""
    x, y, size = {"front": (0.0, 32.5, 5.2), "back": (0.0, 35.5, 5.8), "side": (1.0, 31.0, 2.9)}[view]
    if view == "front" and kind in ("jacket", "coat", "shirt", "vest", "blouse"):
        x, size = -0.62 * body.chest, 3.6
    star = [
        (0, -1),
        (0.32, -0.3),
        (1, -0.3),
        (0.5, 0.2),
        (0.7, 1),
        (0, 0.5),
        (-0.7, 1),
        (-0.5, 0.2),
        (-1, -0.3),
        (-0.32, -0.3),
    ]
    pen.shape([(x + size * dx, y + size * dy) for dx, dy in star], ink, edge=False)


MARKS = {
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "blouse": _blouse,
    "sweater": _sweater,
    "hoodie": draw_hoodie_marks,
    "coat": draw_coat_marks,
    "dress": _dress,
}
