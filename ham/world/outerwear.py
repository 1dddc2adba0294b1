"""What tells hoodies, jackets, coats and vests from other tops, and the shirt that shows under a jacket or a vest."""

from __future__ import annotations

from ham.world.figure import BULK, Body
from ham.world.pen import Color, Pen, both_sides, brightness, mark_of, oval_points, smooth, tint, trim_of


def draw_hoodie_marks(pen: Pen, body: Body, view: str, color: Color) -> None:
    """Draw the hood beside the neck, its cords and the pocket."""
    dark, mark = _hood_of(color), mark_of(color)
    cord = trim_of(color)
    pocket = tint(color, 0.8) if brightness(color) > 70 else tint(color, 1.16)
    if view == "front":
        for side in (-1, 1):
            hood = [(1.0, 26.5), (3.0, 18.0), (7.4, 12.6), (10.2, 17.0), (8.6, 23.6), (4.2, 28.0)]
            pen.shape(smooth([(side * x, y) for x, y in hood]), dark)
            pen.line([(side * 1.8, 25), (side * 2.0, 36)], cord, 1.0)
        edge = [(-4.4, 37.5), (4.4, 37.5), (7.2, 47.0), (-7.2, 47.0)]
        pen.shape(edge, pocket)
        pen.line([*edge, edge[0]], mark, 1.0)
    elif view == "side":
        front = body.depth * BULK["hoodie"]
        low, high = front * 0.95 + body.belly * 0.7, front * 0.9 + body.belly * 0.9
        pen.shape([(front * 0.3, 37.5), (high, 37.5), (low, 47.0), (-1.0, 47.0)], pocket)
    half = (body.depth if view == "side" else body.hip) * BULK["hoodie"]
    pen.line([(-half, 49), (half, 49)], mark, 0.9)


def _hood_of(color: Color) -> Color:
    return tint(color, 0.55) if brightness(color) > 70 else tint(color, 1.26)


def draw_hood(pen: Pen, color: Color, view: str) -> None:
    """Draw a hood that lies over the back and the hair that hangs there."""
    dark = _hood_of(color)
    if view == "back":
        hood = smooth(both_sides([(4.0, 15.6), (9.0, 17.0), (9.6, 24), (6.0, 33.0), (1.0, 36.0)]))
        pen.shape(hood, dark)
        pen.line(oval_points(0, 20.5, 6.0, 6.4, 10, 170), mark_of(dark), 1.0)
    elif view == "side":
        hood = [
            (3.2, 21.0),
            (0.0, 17.4),
            (-6.4, 14.6),
            (-11.4, 18.6),
            (-10.6, 27.0),
            (-5.0, 30.5),
            (-0.6, 26.0),
        ]
        pen.shape(smooth(hood), dark)


def draw_jacket_marks(pen: Pen, body: Body, view: str, color: Color, inner: Color) -> None:
    """Draw an open jacket's collar, zip and band, and the shirt under it."""
    mark = mark_of(color)
    half = (body.depth if view == "side" else body.hip) * BULK["jacket"]
    if view == "front":
        pen.shape(both_sides([(2.8, 20.2), (4.4, 34), (5.4, 48.4)]), inner)
        for side in (-1, 1):
            pen.shape(
                [(side * 2.2, 19.2), (side * 4.8, 20.4), (side * 6.2, 26.5), (side * 2.6, 33.0)],
                tint(color, 1.16),
            )
            pen.line([(side * 4.4, 33), (side * 5.4, 48)], trim_of(color), 1.2)
            pen.line([(side * 6.0, 39), (side * 7.2, 43.5)], mark, 0.8)
    elif view == "back":
        pen.box(-4.2, 18.8, 4.2, 21.8, tint(color, 1.16))
        pen.line([(-body.shoulder, 27), (0, 30), (body.shoulder, 27)], trim_of(color), 1.3)
    else:
        front = body.depth * BULK["jacket"]
        pen.shape(
            [
                (3.0, 20.6),
                (front * 0.84, 24),
                (front + body.bust + 0.2, 30),
                (front * 0.94 + body.belly, 40),
                (front + 0.6 * body.belly, 48.4),
                (front * 0.05, 48.4),
                (front * 0.0, 30),
            ],
            inner,
        )
        pen.line([(1.6, 20.8), (front * 0.0, 30), (front * 0.05, 48)], trim_of(color), 1.2)
        pen.shape([(-3.2, 18.8), (2.6, 19.0), (3.4, 23.4), (-2.6, 22.2)], tint(color, 1.16))
    if view != "front":
        pen.box(
            -half,
            44.4,
            half * (0.05 if view == "side" else 1.0),
            48.6,
            tint(color, 0.5) if brightness(color) > 70 else tint(color, 1.34),
        )
    else:
        for side in (-1, 1):
            pen.box(
                side * 5.5,
                44.4,
                side * half,
                48.6,
                tint(color, 0.5) if brightness(color) > 70 else tint(color, 1.34),
            )


def draw_coat_marks(pen: Pen, body: Body, view: str, color: Color) -> None:
    """Draw two rows of buttons, lapels and pockets."""
    mark = mark_of(color)
    if view == "front":
        pen.line([(1.2, 26), (1.2, 71)], mark, 0.7)
        for y in (30, 35, 46, 52, 58):
            for x in (-2.2, 3.4):
                pen.oval(x, y, 0.95, 0.95, mark, edge=False)
        for side in (-1, 1):
            pen.shape(
                [(side * 0.4, 28.5), (side * 2.2, 19.2), (side * 5.6, 20.6), (side * 6.0, 25.4)],
                tint(color, 1.16),
            )
            pen.line([(side * 5.2, 50), (side * 7.4, 55)], mark, 0.8)
    elif view == "back":
        pen.box(-4.6, 18.8, 4.6, 22.4, tint(color, 1.16))
        pen.line([(0, 44), (0, 71)], mark, 0.7)
    else:
        pen.shape([(-3.4, 18.6), (3.2, 18.8), (4.6, 25.4), (-2.8, 22.6)], tint(color, 1.16))
        pen.line([(body.depth * BULK["coat"] * 0.7, 26), (body.depth * BULK["coat"], 70)], mark, 0.6)
        pen.line([(0.2, 50), (1.2, 56)], mark, 0.8)


def draw_vest_marks(pen: Pen, body: Body, view: str, color: Color, inner: Color) -> None:
    """Draw the deep neckline of a vest with the shirt under it, its buttons and its armholes."""
    mark, pale = mark_of(color), tint(inner, 0.86) if brightness(inner) > 70 else tint(inner, 1.2)
    button = (250, 250, 250) if brightness(color) < 190 else (70, 70, 80)
    if view == "front":
        pen.shape([(-4.6, 20.0), (4.6, 20.0), (0, 35.0)], inner)
        for side in (-1, 1):
            pen.shape([(side * 0.2, 22.4), (side * 2.2, 18.4), (side * 4.8, 20.2), (side * 3.4, 25.4)], pale)
            pen.line([(side * 0.76 * body.shoulder, 22), (side * 0.8 * body.chest, 29)], mark, 0.7)
        pen.line([(0, 35), (0, 49)], mark, 0.6)
        for y in (37.5, 41.5, 45.5):
            pen.oval(0, y, 1.2, 1.2, button, edge=False)
        for side in (-1, 1):  # the two points of the hem
            pen.shape([(0, 49), (side * body.hip, 49), (side * 0.45 * body.hip, 54.0)], color)
    elif view == "back":
        pen.box(-4.2, 18.4, 4.2, 21.8, pale)
        for side in (-1, 1):
            pen.line([(side * 0.76 * body.shoulder, 22), (side * 0.8 * body.chest, 29)], mark, 0.7)
        pen.box(-body.waist, 41.4, body.waist, 43.4, mark, edge=False)
        pen.box(-1.6, 40.6, 1.6, 44.2, (206, 206, 210))
    else:
        pen.shape([(-3.2, 18.4), (3.0, 18.4), (body.depth * 0.95, 24.6), (-2.6, 22.2)], pale)
        front = body.depth * BULK["vest"]
        pen.line([(front * 0.9, 26), (front * 0.9, 48)], mark, 0.6)
