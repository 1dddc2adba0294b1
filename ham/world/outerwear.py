"""What tells hoodies, jackets, coats and vests from other tops, and the shirt that shows under a jacket or a vest."""

from __future__ import annotations

from ham.world.figure import BULK, Body
from ham.world.pen import Color, Pen, both_sides, brightness, mark_of, oval_points, smooth, tint


def draw_hoodie_marks(pen: Pen, body: Body, view: str, color: Color) -> None:
    """Draw the hood, its cords and the pocket."""
    dark, mark = tint(color, 0.6) if brightness(color) > 70 else tint(color, 1.2), mark_of(color)
    if view == "front":
        for side in (-1, 1):
            pen.shape(
                smooth(
                    [
                        (side * 1.0, 25.5),
                        (side * 3.2, 19.5),
                        (side * 7.0, 17.4),
                        (side * 8.0, 22.0),
                        (side * 4.0, 26.5),
                    ]
                ),
                dark,
            )
            pen.line(
                [(side * 1.6, 24.5), (side * 1.8, 33)],
                (244, 244, 240) if brightness(color) < 190 else (70, 70, 80),
                0.6,
            )
        pen.shape(
            [(-3.6, 38.5), (3.6, 38.5), (5.8, 46.5), (-5.8, 46.5)],
            tint(color, 0.86) if brightness(color) > 70 else tint(color, 1.1),
        )
        pen.line([(-3.6, 38.5), (3.6, 38.5), (5.8, 46.5), (-5.8, 46.5), (-3.6, 38.5)], mark, 0.6)
    elif view == "back":
        pen.shape(smooth(both_sides([(3.0, 17.5), (7.2, 18.0), (7.6, 23), (4.6, 30.0), (1.0, 32.0)])), dark)
        pen.line(oval_points(0, 20.5, 4.8, 4.4, 10, 170), mark, 0.7)
    else:
        pen.shape(
            smooth([(3.2, 20.0), (-1.0, 17.6), (-6.4, 17.0), (-9.0, 21.0), (-7.4, 27.0), (-1.6, 25.0)]), dark
        )
        front = body.depth * BULK["hoodie"]
        pen.shape(
            [
                (front * 0.4, 39),
                (front * 0.9 + body.belly * 0.9, 39),
                (front * 0.95 + body.belly * 0.7, 46.5),
                (-0.4, 46.5),
            ],
            tint(color, 0.86) if brightness(color) > 70 else tint(color, 1.1),
        )
    half = (body.depth if view == "side" else body.hip) * BULK["hoodie"]
    pen.line([(-half, 49), (half, 49)], mark, 0.6)


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
            pen.line([(side * 4.4, 33), (side * 5.4, 48)], (206, 206, 210), 0.8)
            pen.line([(side * 6.0, 39), (side * 7.2, 43.5)], mark, 0.8)
    elif view == "back":
        pen.box(-4.2, 18.8, 4.2, 21.8, tint(color, 1.16))
        pen.line([(-body.shoulder, 28), (0, 30), (body.shoulder, 28)], mark, 0.7)
        pen.line([(0, 30), (0, 46)], mark, 0.5)
    else:
        front = body.depth * BULK["jacket"]
        pen.shape(
            [
                (3.0, 20.6),
                (front * 0.84, 24),
                (front + body.bust + 0.2, 30),
                (front * 0.94 + body.belly, 40),
                (front + 0.6 * body.belly, 48.4),
                (front * 0.5, 48.4),
                (front * 0.45, 30),
            ],
            inner,
        )
        pen.line([(2.2, 20.8), (front * 0.45, 30), (front * 0.5, 48)], (206, 206, 210), 0.7)
        pen.shape([(-3.2, 18.8), (2.6, 19.0), (3.4, 23.4), (-2.6, 22.2)], tint(color, 1.16))
    if view != "front":
        pen.box(
            -half,
            45.4,
            half * (0.5 if view == "side" else 1.0),
            48.6,
            tint(color, 0.76) if brightness(color) > 70 else tint(color, 1.2),
        )
    else:
        for side in (-1, 1):
            pen.box(
                side * 5.5,
                45.4,
                side * half,
                48.6,
                tint(color, 0.76) if brightness(color) > 70 else tint(color, 1.2),
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
        for y in (37.0, 41.0, 45.0):
            pen.oval(0, y, 0.9, 0.9, button, edge=False)
    elif view == "back":
        pen.box(-4.2, 18.4, 4.2, 21.8, pale)
        for side in (-1, 1):
            pen.line([(side * 0.76 * body.shoulder, 22), (side * 0.8 * body.chest, 29)], mark, 0.7)
        pen.box(-3.4, 42.0, 3.4, 43.6, mark, edge=False)
    else:
        pen.shape([(-3.2, 18.4), (3.0, 18.4), (body.depth * 0.95, 24.6), (-2.6, 22.2)], pale)
        front = body.depth * BULK["vest"]
        pen.line([(front * 0.9, 26), (front * 0.9, 48)], mark, 0.6)
