"""The trunk: six kinds of tops, each with its own outline and marks, their sleeves, and bare arms."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import Body, Limb
from ham.world.pen import (
    Cloth,
    Color,
    Pen,
    Point,
    accent_of,
    both_sides,
    brightness,
    oval_points,
    smooth,
    tint,
)

HEM = {"t-shirt": 48.5, "shirt": 52.5, "sweater": 50.0, "hoodie": 51.0, "jacket": 48.0, "coat": 71.0}
BULK = {"t-shirt": 1.0, "shirt": 1.0, "sweater": 1.08, "hoodie": 1.13, "jacket": 1.12, "coat": 1.16}
INNER = (238, 238, 234)  # what an open jacket shows


def mark_of(color: Color) -> Color:
    """Return the color of seams and pockets: clearly darker than the cloth, or lighter on dark cloth."""
    return tint(color, 0.58) if brightness(color) > 70 else tint(color, 1.32)


def draw_trunk(pen: Pen, person: dict[str, str], body: Body, view: str) -> None:
    """Draw the top without its sleeves."""
    kind, color = person["upper"], SHADES[person["upper_colour"]][1]
    cloth = Cloth(color, person["upper_pattern"])
    outline = trunk_outline(body, view, kind, person.get("sleeve") == "sleeveless")
    pen.shape(outline, cloth)
    side = [point for point in outline if point[0] > 0.45 * body.hip and point[1] > 24]
    if len(side) > 2:
        pen.shadow(side)
    marks = {
        "t-shirt": _t_shirt,
        "shirt": _shirt,
        "sweater": _sweater,
        "hoodie": _hoodie,
        "jacket": _jacket,
        "coat": _coat,
    }[kind]
    marks(pen, body, view, color)
    if person["upper_pattern"] == "logo":
        _logo(pen, kind, body, view, accent_of(color))


def trunk_outline(body: Body, view: str, kind: str, sleeveless: bool) -> list[Point]:
    """Return the top's outline: shoulders, waist and hips as the body has them, the coat flared down to the knee."""
    bulk, hem = BULK[kind], HEM[kind]
    if view == "side":
        back, front = -body.depth * bulk, body.depth * bulk
        points = [
            (1.8, 20.6),
            (front * 0.8, 24),
            (front + body.bust, 30),
            (front * 0.92 + body.belly, 40),
            (front + 0.6 * body.belly, 48),
        ]
        if kind == "coat":
            points += [(front + 3.0, hem), (back - 2.6, hem)]
        else:
            points += [(front, hem), (back, hem)]
        return [
            *points,
            (back * 1.08, 48),
            (back * 0.86, 40),
            (back * 1.0, 29),
            (back * 0.8, 23),
            (-2.4, 20.4),
        ]
    shoulder = body.shoulder * (0.8 if sleeveless else 1.0) * (1 + (bulk - 1) * 0.6)
    waist = body.waist * bulk + (0.7 if kind in ("hoodie", "sweater") else 0.0)
    points = [
        (2.6, 20.4),
        (shoulder * 0.75, 21.6),
        (shoulder, 24.4),
        (body.chest * bulk * (0.9 if sleeveless else 1), 30),
        (waist, 40),
        (body.hip * bulk, 48),
    ]
    points.append((body.hip * bulk + 3.0, hem) if kind == "coat" else (body.hip * bulk, hem))
    return both_sides(points)


def draw_arm(pen: Pen, person: dict[str, str], body: Body, arm: Limb, skin: Color, behind: bool) -> None:
    """Draw one arm: skin, sleeve, hand, and a cuff where the garment has one."""
    kind, sleeve = person["upper"], person["sleeve"]
    color = SHADES[person["upper_colour"]][1]
    if behind:
        color, skin = tint(color, 0.88), tint(skin, 0.88)
    pattern = person["upper_pattern"]
    cloth = Cloth(color, pattern if pattern != "logo" else "plain")
    radius = body.arm * (BULK[kind] ** 2 if sleeve == "long" else 1.0)
    if sleeve == "long":
        pen.limb(arm.root, arm.middle, radius * 1.08, radius * 0.92, cloth)
        pen.oval(*arm.end, body.arm * 0.86, body.arm * 0.9, skin)
        wrist = _toward(arm.middle, arm.end, 0.74)
        pen.limb(arm.middle, wrist, radius * 0.92, radius * 0.74, cloth)
        if kind in ("sweater", "hoodie", "shirt", "jacket"):
            pen.limb(
                _toward(arm.middle, arm.end, 0.6),
                wrist,
                radius * 0.84,
                radius * 0.84,
                tint(color, 0.72) if brightness(color) > 70 else tint(color, 1.2),
            )
        return
    pen.limb(arm.root, arm.middle, radius, radius * 0.82, skin)
    pen.limb(arm.middle, arm.end, radius * 0.82, radius * 0.62, skin)
    pen.oval(*arm.end, radius * 0.8, radius * 0.85, skin)
    if sleeve == "short":
        end = _toward(arm.root, arm.middle, 0.78)
        pen.limb(arm.root, end, radius * 1.2, radius * 1.32, cloth)


def _toward(a: Point, b: Point, share: float) -> Point:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def _front_x(body: Body, kind: str) -> float:
    return body.depth * BULK[kind]


def _t_shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    if view == "front":
        pen.line(oval_points(0, 20.8, 3.4, 2.8, 10, 170), mark_of(color), 0.8)


def _shirt(pen: Pen, body: Body, view: str, color: Color) -> None:
    pale, mark = tint(color, 1.55) if brightness(color) < 170 else tint(color, 0.8), mark_of(color)
    half = body.depth if view == "side" else body.hip
    pen.shape(
        [(-half, 51.8), (half, 51.8), (half * 0.6, 55.2), (0, 52.4), (-half * 0.6, 55.2)], color
    )  # the tails
    if view == "front":
        pen.line([(0, 23), (0, 51.5)], mark, 0.6)
        for y in (27, 32, 37, 42, 47):
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
        pen.line([(_front_x(body, "shirt") * 0.86, 26), (_front_x(body, "shirt") * 0.82, 50)], mark, 0.5)


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


def _hoodie(pen: Pen, body: Body, view: str, color: Color) -> None:
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
        front = _front_x(body, "hoodie")
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


def _jacket(pen: Pen, body: Body, view: str, color: Color) -> None:
    mark = mark_of(color)
    half = (body.depth if view == "side" else body.hip) * BULK["jacket"]
    inner = INNER if brightness(color) < 175 else (70, 74, 86)
    if view == "front":
        pen.shape([(-2.4, 20.2), (2.4, 20.2), (3.6, 34), (4.6, 48.4), (-4.6, 48.4), (-3.6, 34)], inner)
        for side in (-1, 1):
            pen.shape(
                [(side * 2.2, 19.2), (side * 4.8, 20.4), (side * 6.2, 26.5), (side * 2.6, 33.0)],
                tint(color, 1.16),
            )
            pen.line([(side * 3.7, 33), (side * 4.6, 48)], (206, 206, 210), 0.8)
            pen.line([(side * 5.0, 39), (side * 6.6, 43.5)], mark, 0.8)
    elif view == "back":
        pen.box(-4.2, 18.8, 4.2, 21.8, tint(color, 1.16))
        pen.line([(-body.shoulder, 28), (0, 30), (body.shoulder, 28)], mark, 0.7)
        pen.line([(0, 30), (0, 46)], mark, 0.5)
    else:
        front = _front_x(body, "jacket")
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
                side * 4.8,
                45.4,
                side * half,
                48.6,
                tint(color, 0.76) if brightness(color) > 70 else tint(color, 1.2),
            )


def _coat(pen: Pen, body: Body, view: str, color: Color) -> None:
    mark, belt = mark_of(color), tint(color, 0.66) if brightness(color) > 70 else tint(color, 1.26)
    half = (body.depth + 0.7 * body.belly if view == "side" else body.waist) * BULK["coat"]
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
        pen.line([(_front_x(body, "coat") * 0.7, 26), (_front_x(body, "coat"), 70)], mark, 0.6)
        pen.line([(0.2, 50), (1.2, 56)], mark, 0.8)
    pen.box(-half - 0.3, 39.4, half + 0.3, 42.8, belt)
    if view == "front":
        pen.box(-1.9, 39.0, 1.9, 43.2, (226, 204, 130))


def _logo(pen: Pen, kind: str, body: Body, view: str, ink: Color) -> None:
    x, y, size = {"front": (0.0, 31.5, 3.7), "back": (0.0, 35.0, 4.2), "side": (1.0, 31.0, 2.9)}[view]
    if view == "front" and kind in ("jacket", "coat", "shirt"):
        x, size = -0.62 * body.chest, 2.3
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
