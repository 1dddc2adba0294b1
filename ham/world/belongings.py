"""Bags and hand-held objects."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import GROUND, HIP, Body, Limb, Pose
from ham.world.pen import Color, Pen, both_sides, brightness, mark_of, smooth, tint

METAL = (150, 152, 158)


def draw_bag_behind(pen: Pen, person: dict[str, str], body: Body, view: str) -> None:
    """Draw the part of a backpack behind the trunk: both edges from the front, all of it from the side."""
    if person["bag"] != "backpack":
        return
    color = SHADES[person["bag_colour"]][1]
    if view == "front":
        pen.shape(
            smooth(
                both_sides(
                    [
                        (4.0, 14.5),
                        (body.shoulder + 0.6, 15.0),
                        (body.shoulder + 3.6, 22),
                        (body.waist + 5.6, 42),
                        (3, 46),
                    ]
                )
            ),
            color,
        )
    elif view == "side":
        back = -body.depth
        pen.shape(
            smooth(
                [
                    (back + 2, 21.5),
                    (back - 5, 22.5),
                    (back - 7.6, 31),
                    (back - 7.4, 43),
                    (back - 1, 45),
                    (back + 2, 40),
                ]
            ),
            color,
        )
        pen.shape(
            smooth([(back - 4.5, 33), (back - 9.2, 34.5), (back - 8.8, 42.5), (back - 4, 42.5)], 1),
            tint(color, 1.12),
        )


def draw_bag_over(pen: Pen, person: dict[str, str], body: Body, view: str, near: bool) -> None:
    """Draw the part of a bag over the trunk: straps, a backpack from behind, a shoulder bag at the hip."""
    if person["bag"] not in ("backpack", "shoulder bag"):
        return
    color = SHADES[person["bag_colour"]][1]
    if person["bag"] == "backpack":
        _backpack(pen, body, view, color)
    elif view != "side" or near:
        _shoulder_bag(pen, body, view, color)
    else:
        pen.line([(-1.6, 20.6), (0.5 * body.depth, 26)], color, 2.4)


def _backpack(pen: Pen, body: Body, view: str, color: Color) -> None:
    mark = mark_of(color)
    if view == "back":
        wide = min(body.shoulder, 9.0)
        pen.line([(-2.2, 20.4), (0, 18.6), (2.2, 20.4)], mark, 0.9)
        pen.shape(
            smooth(
                both_sides(
                    [(3, 20), (wide * 0.84, 22.5), (wide, 31), (wide, 43), (wide * 0.7, 46.5), (2, 46.8)]
                )
            ),
            color,
        )
        pen.shape(
            smooth(both_sides([(4, 33.0), (wide * 0.76, 34), (wide * 0.76, 43.6), (3, 44.4)]), 1),
            tint(color, 1.14),
        )
        pen.line([(-wide * 0.66, 36.2), (wide * 0.66, 36.2)], METAL, 0.6)
        pen.line([(-wide * 0.8, 27.5), (0, 25.5), (wide * 0.8, 27.5)], mark, 0.7)
    elif view == "front":
        for side in (-1, 1):
            x = side * body.shoulder
            strap = [(0.26, 20.2), (0.86, 20.6), (1.0, 30), (1.06, 41), (0.62, 41), (0.46, 30)]
            pen.shape([(x * share, y) for share, y in strap], color)
        pen.box(-0.5 * body.shoulder, 28.6, 0.5 * body.shoulder, 30.6, color)
        pen.oval(0, 29.6, 1.1, 1.1, METAL, edge=False)
    else:
        pen.shape(
            [
                (-2.8, 21.0),
                (0.6, 20.8),
                (2.6, 26),
                (0.6, 34),
                (-3.6, 38.6),
                (-4.2, 36.4),
                (-1.6, 32),
                (-0.2, 26),
            ],
            color,
        )


def _shoulder_bag(pen: Pen, body: Body, view: str, color: Color) -> None:
    half = body.depth if view == "side" else body.hip
    pen.line(
        [
            (body.shoulder * 0.62 if view != "side" else 1.6, 20.8),
            (-half * (0.9 if view != "side" else 0.4), HIP - 3),
        ],
        tint(color, 0.82) if brightness(color) > 60 else tint(color, 1.12),
        2.4,
    )
    x = -half - 1.6 if view != "side" else -1.5
    _pouch(pen, x, HIP - 4.5, 6.0, 11.0, color)


def _pouch(pen: Pen, x: float, y: float, half: float, high: float, color: Color) -> None:
    pen.shape(smooth([(x - half, y), (x + half, y), (x + half, y + high), (x - half, y + high)], 1), color)
    pen.shape(
        smooth(
            [
                (x - half, y),
                (x + half, y),
                (x + half * 0.9, y + 0.42 * high),
                (x - half * 0.9, y + 0.42 * high),
            ],
            1,
        ),
        tint(color, 1.15),
    )
    pen.oval(x, y + 0.42 * high, 0.9, 0.8, (222, 190, 96), edge=False)


def draw_bag_in_hand(pen: Pen, person: dict[str, str], arm: Limb, pose: Pose) -> None:
    """Draw a handbag hanging from the hand or a suitcase on the ground beside it."""
    if person["bag"] not in ("handbag", "suitcase"):
        return
    color, (x, y) = SHADES[person["bag_colour"]][1], arm.end
    if person["bag"] == "handbag":
        pen.line(
            [(x - 2.8, y + 6.4), (x - 1.6, y + 1), (x + 1.6, y + 1), (x + 2.8, y + 6.4)], mark_of(color), 0.9
        )
        pen.shape([(x - 4.6, y + 5.8), (x + 4.6, y + 5.8), (x + 6.2, y + 17.5), (x - 6.2, y + 17.5)], color)
        pen.line([(x - 4.8, y + 8.6), (x + 4.8, y + 8.6)], tint(color, 1.3), 0.7)
        pen.oval(x, y + 9.6, 0.9, 0.9, (222, 190, 96), edge=False)
        return
    middle = x - 4.0 if pose.view == "side" else x - 0.8
    pen.line([(x, y), (middle - 1.8, 60)], METAL, 0.7)
    pen.line([(x, y), (middle + 1.8, 60)], METAL, 0.7)
    pen.shape(
        smooth(
            [(middle - 6.0, 59), (middle + 6.0, 59), (middle + 6.0, GROUND - 1), (middle - 6.0, GROUND - 1)],
            1,
        ),
        color,
    )
    for share in (-0.5, 0.0, 0.5):
        pen.line([(middle + share * 6.0, 62), (middle + share * 6.0, GROUND - 4)], mark_of(color), 0.6)
    for wheel in (-3.8, 3.8):
        pen.oval(middle + wheel, GROUND, 1.4, 1.4, (40, 40, 44))


def draw_carried(pen: Pen, carried: str, arm: Limb) -> None:
    """Draw what a hand holds: phone, book and cup above the bent hand, a closed umbrella below the straight one."""
    x, y = arm.end
    if carried == "phone":
        pen.box(x - 2.4, y - 7.6, x + 2.4, y + 0.8, (26, 26, 30))
        pen.box(x - 1.7, y - 6.6, x + 1.7, y - 0.4, (120, 214, 255), edge=False)
    elif carried == "book":
        pen.shape(
            [(x - 4.4, y - 8.2), (x + 4.0, y - 8.8), (x + 4.4, y + 1.6), (x - 4.0, y + 2.2)], (150, 48, 40)
        )
        pen.shape(
            [(x - 4.4, y - 8.2), (x - 2.6, y - 8.4), (x - 2.2, y + 2.0), (x - 4.0, y + 2.2)], (248, 244, 226)
        )
        pen.line([(x - 0.6, y - 5.4), (x + 2.6, y - 5.7)], (244, 220, 150), 1.1)
        pen.line([(x - 0.4, y - 3.0), (x + 2.0, y - 3.2)], (244, 220, 150), 0.9)
    elif carried == "cup":
        pen.shape(
            [(x - 2.9, y - 6.6), (x + 2.9, y - 6.6), (x + 2.1, y + 1.6), (x - 2.1, y + 1.6)], (250, 250, 248)
        )
        pen.shape(
            [(x - 2.7, y - 4.4), (x + 2.7, y - 4.4), (x + 2.3, y - 0.6), (x - 2.3, y - 0.6)],
            (140, 92, 52),
            edge=False,
        )
        pen.box(x - 3.3, y - 8.0, x + 3.3, y - 6.2, (84, 58, 40))
    elif carried == "umbrella":
        wood = (120, 78, 44)
        pen.line([(x, y - 3.5), (x, y + 2)], wood, 1.3)
        pen.line([(x, y - 3.4), (x + 2.0, y - 4.9), (x + 3.2, y - 3.2)], wood, 1.3)
        pen.shape(
            [
                (x - 0.9, y + 1.5),
                (x + 0.9, y + 1.5),
                (x + 2.7, y + 7),
                (x + 0.7, y + 29),
                (x, y + 34),
                (x - 0.7, y + 29),
                (x - 2.7, y + 7),
            ],
            (52, 78, 92),
        )
        pen.line([(x, y + 3), (x, y + 28)], (110, 146, 160), 0.6)
        pen.line([(x - 2.3, y + 10.5), (x + 2.3, y + 10.5)], (214, 60, 60), 1.2)
