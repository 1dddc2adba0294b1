"""What tells one kind of top from another: collars, buttons, ribs, bows, and the printed logo."""

from __future__ import annotations

from ham.world.figure import BULK, Body
from ham.world.outerwear import draw_coat_marks, draw_hoodie_marks
from ham.world.pen import Color, Pen, brightness, mark_of, oval_points, smooth, tint


def draw_marks(pen: Pen, kind: str, body: Body, view: str, color: Color) -> None:
    """Draw the marks of a kind of top that depend on nothing but its color."""
    MARKS[kind](pen, body, view, color)


def _t_shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    if view == "front":
        pen.line(oval_points(0, 20.8, 3.4, 2.8, 10, 170), mark_of(color), 0.8)


def draw_shirt_tails(pen: Pen, body: Body, view: str, color: Color) -> None:
    """Draw the hem of a shirt that is not tucked in."""
    half = body.depth if view == "side" else body.hip
    pen.shape([(-half, 51.8), (half, 51.8), (half * 0.6, 55.2), (0, 52.4), (-half * 0.6, 55.2)], color)


def _shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    pale, mark = tint(color, 1.55) if brightness(color) < 170 else tint(color, 0.8), mark_of(color)
    if view == "front":
        pen.line([(0, 23), (0, 42)], mark, 0.6)
        for y in (27, 32, 37):
            pen.oval(
                0, y, 0.75, 0.75, (250, 250, 250) if brightness(color) < 190 else (70, 70, 80), edge=False
            )
        for side in (-1, 1):
            pen.shape([(side * 0.2, 23.2), (side * 2.6, 18.8), (side * 5.4, 20.8), (side * 3.8, 27.2)], pale)
        pen.box(2.2, 29, 5.6, 33.4, tint(color, 1.1))
    elif view == "back":
        pen.box(-4.4, 18.6, 4.4, 22.4, pale)
        pen.line([(-body.shoulder * 0.9, 26.5), (body.shoulder * 0.9, 26.5)], mark, 0.5)
    else:
        pen.shape([(-3.2, 18.8), (3.0, 18.8), (4.8, 25.2), (-2.8, 22.8)], pale)
        pen.line(
            [(body.depth * BULK["shirt"] * 0.86, 26), (body.depth * BULK["shirt"] * 0.82, 42)], mark, 0.5
        )


def _sweater(pen: Pen, body: Body, view: str, color: Color) -> None:
    rib = tint(color, 0.6) if brightness(color) > 70 else tint(color, 1.26)
    half = (body.depth if view == "side" else body.hip) * BULK["sweater"]
    pen.shape(
        smooth([(-half - 0.2, 45.2), (half + 0.2, 45.2), (half - 0.4, 51.0), (-half + 0.4, 51.0)], 1), rib
    )
    for share in (-0.75, -0.45, -0.15, 0.15, 0.45, 0.75):
        pen.line([(share * half, 46.0), (share * half, 50.4)], tint(rib, 0.75), 0.35)
    middle = -0.4 if view == "side" else 0
    pen.shape(
        smooth([(middle - 4.2, 17.0), (middle + 4.2, 17.0), (middle + 5.0, 22.8), (middle - 5.0, 22.8)], 1),
        rib,
    )


def _blouse(pen: Pen, body: Body, view: str, color: Color) -> None:
    pale, mark = tint(color, 1.5) if brightness(color) < 170 else tint(color, 0.82), mark_of(color)
    half = (body.depth if view == "side" else body.waist) * BULK["blouse"]
    pen.line([(-half, 40.4), (half, 40.4)], mark, 0.6)
    if view == "front":  # a bow at the neck
        for side in (-1, 1):
            pen.shape([(0, 23.2), (side * 5.2, 20.4), (side * 5.4, 26.4)], pale)
            pen.shape([(0, 23.2), (side * 1.0, 32.5), (side * 3.4, 31.5)], pale)
        pen.oval(0, 23.2, 1.3, 1.3, mark)
    elif view == "back":
        pen.oval(0, 21.0, 4.4, 1.5, pale)
        pen.line([(0, 22.5), (0, 31)], mark, 0.6)
    else:
        pen.oval(0, 20.6, 4.0, 1.6, pale)
        pen.shape([(2.4, 22.4), (7.0, 20.4), (6.6, 26.4)], pale)


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
    x, y, size = {"front": (0.0, 31.5, 3.7), "back": (0.0, 35.0, 4.2), "side": (1.0, 31.0, 2.9)}[view]
    if view == "front" and kind in ("jacket", "coat", "shirt", "vest", "blouse"):
        x, size = -0.6 * body.chest, 2.9
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
