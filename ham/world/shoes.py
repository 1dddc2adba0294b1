"""Four kinds of shoes: sneakers, boots, sandals, heels, from the front, the back and the side."""

from __future__ import annotations

from ham.world.figure import Pose
from ham.world.pen import Color, Pen, Point, brightness, smooth, tint

SOLE = (214, 176, 112)  # of sandals: cork


def draw_shoe(pen: Pen, kind: str, ankle: Point, pose: Pose, side: str, color: Color, skin: Color) -> None:
    """Draw one shoe at the end of a leg."""
    x, y = ankle[0], ankle[1] + 0.4
    lifted = pose.walking and side == "b"
    if pose.view == "side":
        _shoe_side(pen, kind, x, y, color, skin, pitch=2.0 if lifted else 0.0)
    else:
        _shoe_front(pen, kind, x, y, color, skin, pose.view, out=0.5 if x > 0 else -0.5)


def _sole_of(color: Color) -> Color:
    return (250, 250, 250) if brightness(color) < 200 else (158, 160, 166)


def _shoe_front(
    pen: Pen, kind: str, x: float, y: float, color: Color, skin: Color, view: str, out: float
) -> None:
    floor, half, x = y + 6.6, 4.3, x + out
    foot = smooth(
        [
            (x - 2.6, y - 1.8),
            (x + 2.6, y - 1.8),
            (x + half, floor - 2.4),
            (x + half, floor),
            (x - half, floor),
            (x - half, floor - 2.4),
        ],
        1,
    )
    if kind == "sneakers":
        pen.shape(foot, color)
        pen.box(x - half, floor - 2.8, x + half, floor + 0.2, _sole_of(color))
        for row in (0.4, 2.0) if view == "front" else ():
            pen.line([(x - 1.5, y + row), (x + 1.5, y + row)], _sole_of(color), 0.6)
    elif kind == "boots":
        pen.shape([(x - 3.5, y - 13.0), (x + 3.5, y - 13.0), (x + 3.1, y), (x - 3.1, y)], color)
        pen.shape(foot, color)
        pen.box(x - half, floor - 1.0, x + half, floor + 0.3, tint(color, 0.5))
        pen.box(x - 3.8, y - 14.2, x + 3.8, y - 11.6, tint(color, 1.3))
    elif kind == "sandals":
        pen.shape(foot, skin)
        pen.box(x - half - 0.6, floor - 1.1, x + half + 0.6, floor + 0.5, SOLE)
        pen.line([(x - 2.8, y + 0.4), (x + 2.8, y + 0.4)], color, 1.6)
        pen.line([(x - half, floor - 4.4), (x + half, floor - 2.0)], color, 1.8)
        pen.line([(x - half, floor - 2.0), (x + half, floor - 4.4)], color, 1.8)
    elif view == "back":
        pen.shape([(x - 2.6, y - 1.2), (x + 2.6, y - 1.2), (x + 1.9, y + 3.2), (x - 1.9, y + 3.2)], color)
        pen.line([(x, y + 2.4), (x, floor + 0.3)], color, 1.3)
    else:
        pen.oval(x, y - 0.4, 2.1, 1.8, skin, edge=False)
        pen.shape(
            [
                (x - 2.9, y + 0.2),
                (x, y + 1.8),
                (x + 2.9, y + 0.2),
                (x + 2.2, floor - 1.4),
                (x, floor + 1.0),
                (x - 2.2, floor - 1.4),
            ],
            color,
        )


def _shoe_side(pen: Pen, kind: str, x: float, y: float, color: Color, skin: Color, pitch: float) -> None:
    floor, heel, toe = y + 6.6, x - 3.2, x + 8.6
    low = floor + pitch  # the toe of a lifted foot points down
    foot = smooth(
        [
            (x - 2.5, y - 1.8),
            (x + 2.3, y - 1.8),
            (x + 4.2, y + 2.2),
            (toe, low - 2.6),
            (toe + 0.2, low),
            (heel, floor),
            (heel, y + 1),
        ],
        1,
    )
    if kind == "sneakers":
        pen.shape(foot, color)
        pen.shape(
            [
                (heel - 0.2, floor - 2.8),
                (toe + 0.2, low - 2.8),
                (toe + 0.2, low + 0.2),
                (heel - 0.2, floor + 0.2),
            ],
            _sole_of(color),
        )
        pen.line([(x + 1.2, y + 1.4), (x + 3.2, y + 0.4)], _sole_of(color), 0.8)
    elif kind == "boots":
        pen.shape([(x - 3.3, y - 13.0), (x + 3.3, y - 13.0), (x + 2.9, y), (x - 2.9, y)], color)
        pen.shape(foot, color)
        pen.shape(
            [(heel, floor - 1.0), (toe, low - 0.8), (toe, low + 0.3), (heel, floor + 0.3)], tint(color, 0.5)
        )
        pen.box(x - 3.6, y - 14.2, x + 3.6, y - 11.6, tint(color, 1.3))
    elif kind == "sandals":
        pen.shape(foot, skin)
        pen.shape(
            [
                (heel - 0.2, floor - 1.1),
                (toe + 0.3, low - 1.1),
                (toe + 0.3, low + 0.3),
                (heel - 0.2, floor + 0.3),
            ],
            SOLE,
        )
        pen.line([(x - 2.8, y + 0.6), (x + 2.8, y + 0.4)], color, 1.6)
        pen.line([(x + 0.8, floor - 1.0), (x + 3.6, y + 2.4)], color, 1.6)
        pen.line([(x + 3.0, y + 2.0), (x + 5.4, floor - 1.0)], color, 1.6)
    else:
        _heel_side(pen, x, y, floor, toe, low, color, skin)


def _heel_side(
    pen: Pen, x: float, y: float, floor: float, toe: float, low: float, color: Color, skin: Color
) -> None:
    pen.shape(
        smooth([(x - 2.0, y - 2), (x + 1.8, y - 2), (x + 4.8, y + 2.4), (x - 2.2, y + 1.4)], 1),
        skin,
        edge=False,
    )
    pen.shape(
        [
            (x - 3.2, y - 0.4),
            (x - 0.6, y + 1.4),
            (x + 4.0, y + 2.0),
            (toe, low - 1.0),
            (toe, low + 0.2),
            (x + 3.2, low + 0.2),
            (x - 1.4, y + 4.2),
            (x - 2.2, floor + 0.2),
            (x - 3.4, floor + 0.2),
        ],
        color,
    )
