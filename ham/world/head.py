"""Head, face, hair, glasses and headwear, from the front, the back and the side (facing +x)."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import CHIN, HEAD_RX, HEAD_RY, HEAD_Y, Body
from ham.world.pen import Color, Pen, both_sides, brightness, oval_points, smooth, tint

HAIR_RGB: dict[str, Color] = {
    "black": (30, 26, 28),
    "brown": (98, 60, 34),
    "blond": (226, 190, 104),
    "red": (176, 74, 28),
    "grey": (172, 172, 176),
}
HAIR_END = {"shoulder": 24.0, "long": 36.0}
DARK = (24, 24, 28)
TOP = HEAD_Y - HEAD_RY


def draw_hair_behind(pen: Pen, person: dict[str, str], view: str) -> None:
    """Draw the hair that hangs behind the neck and the trunk, seen from the front; from elsewhere it is drawn over them."""
    end = HAIR_END.get(person["hair_length"])
    if view == "front" and end:
        hair = HAIR_RGB[person["hair_colour"]]
        pen.shape(
            smooth(both_sides([(3, TOP - 1), (8.2, 6), (9.0, end - 5), (8.4, end), (4, end + 0.5)])),
            tint(hair, 0.9),
        )


def draw_head(pen: Pen, person: dict[str, str], body: Body, view: str, skin: Color, beard: bool) -> None:
    """Draw the head with everything on it."""
    if view == "side":
        pen.oval(0.8, HEAD_Y, HEAD_RX * 0.98, HEAD_RY, skin)
        pen.shape([(6.6, 9.0), (8.6, 12.0), (6.4, 12.6)], skin, edge=False)
    else:
        pen.oval(0, HEAD_Y, HEAD_RX * (1.0 if person["gender"] == "man" else 0.94), HEAD_RY, skin)
        for side in (-1, 1):
            pen.oval(side * HEAD_RX * 0.99, HEAD_Y + 0.8, 1.1, 1.7, skin)
    if view != "back":
        _face(pen, person, view, skin, beard)
    _hair(pen, person, view)
    if person["gender"] == "woman" and view != "back":
        for x in (-7.0, 7.0) if view == "front" else (-0.8,):
            pen.oval(x, 14.2, 1.2, 1.8, (240, 200, 70), edge=False)  # earrings
    if view != "back" and person["glasses"] != "none":
        _glasses(pen, person["glasses"], view)
    if person["headwear"] != "none":
        _headwear(pen, person["headwear"], SHADES[person["headwear_colour"]][1], view)


def _face(pen: Pen, person: dict[str, str], view: str, skin: Color, beard: bool) -> None:
    hair = HAIR_RGB[person.get("hair_colour", "black")]
    woman = person["gender"] == "woman"
    if beard and not woman:
        shade = tint(hair, 0.95)
        if view == "front":
            pen.shape(
                [*oval_points(0, HEAD_Y, HEAD_RX * 0.98, HEAD_RY, 20, 160), (-2.4, 12.4), (2.4, 12.4)],
                shade,
                edge=False,
            )
        else:
            pen.shape(
                [(6.0, 12.6), (7.0, 14.5), (4.0, 17.8), (0.6, 16.6), (2.0, 11.5), (3.4, 13.0)],
                shade,
                edge=False,
            )
    eyes = (-2.6, 2.6) if view == "front" else (5.0,)
    for x in eyes:
        pen.oval(x, 9.4, 0.95, 0.8, DARK, edge=False)
        pen.line([(x - 1.4, 7.4), (x + 1.4, 7.4)], tint(hair, 0.8), 0.4 if woman else 0.8)
    lips = (198, 44, 62) if woman else tint(skin, 0.62)
    if view == "front":
        pen.line([(0.1, 10.0), (0.6, 12.2), (-0.5, 12.3)], tint(skin, 0.78), 0.4)
        pen.oval(0, 14.7, 2.0, 0.95 if woman else 0.5, lips, edge=False)
    else:
        pen.oval(6.1, 14.6, 1.7 if woman else 1.1, 1.3 if woman else 0.5, lips, edge=False)


def _hair(pen: Pen, person: dict[str, str], view: str) -> None:
    length = person["hair_length"]
    if length == "bald":
        pen.shadow(oval_points(-2.2, TOP + 2.6, 1.9, 1.0), (255, 255, 255, 130))
        return
    hair = HAIR_RGB[person["hair_colour"]]
    {"front": _hair_front, "back": _hair_back, "side": _hair_side}[view](
        pen, length, hair, person["gender"] == "woman"
    )


def _hair_front(pen: Pen, length: str, hair: Color, woman: bool) -> None:
    end = HAIR_END.get(length)
    fringe = [(5.4, 6.2), (2.6, 4.9), (-0.6, 5.6), (-3.4, 4.8), (-5.4, 6.4)]
    side_y = 9.6 if length in ("short", "ponytail") else end - 1.5
    inner = 5.6 if end is None else 5.0
    crown = [(-7.4, 7.0), (-6.8, 3.0), (-4.4, 0.6), (0, -0.4), (4.4, 0.6), (6.8, 3.0), (7.4, 7.0)]
    if end is None:
        pen.shape([*crown, (6.9, side_y), (inner, side_y), *fringe, (-inner, side_y), (-6.9, side_y)], hair)
    else:
        lock = [(8.4, end - 6), (7.8, side_y), (4.6, side_y + 1), (5.4, 14)]
        pen.shape([*crown, *lock, *fringe, *[(-x, y) for x, y in reversed(lock)]], hair)
    if length == "ponytail":
        pen.shape(
            smooth(
                [(4.4, -0.4), (9.6, -0.6), (13.0, 6), (13.2, 17), (11.2, 27), (9.4, 17), (8.6, 8), (5.0, 4.4)]
            ),
            hair,
        )
        pen.oval(6.4, 2.0, 1.6, 1.8, (206, 60, 90))
    elif woman and length == "short":
        pen.shape([(5.6, 8), (7.6, 7), (7.2, 14.5), (5.6, 14)], hair, edge=False)
        pen.shape([(-5.6, 8), (-7.6, 7), (-7.2, 14.5), (-5.6, 14)], hair, edge=False)


def _hair_back(pen: Pen, length: str, hair: Color, woman: bool) -> None:
    strand = tint(hair, 0.8) if brightness(hair) > 50 else tint(hair, 1.15)
    end = HAIR_END.get(length)
    if end is None:
        nape = 16.6 if woman or length == "ponytail" else 14.4
        pen.shape(smooth(both_sides([(4.6, -0.2), (7.4, 4), (7.2, 10), (4.8, nape), (2, nape + 0.4)])), hair)
    else:
        pen.shape(
            smooth(
                both_sides([(4.6, -0.4), (8.0, 4), (8.8, 14), (8.8, end - 2), (6, end + 1), (1, end + 1)])
            ),
            hair,
        )
        for x in (-4.4, -1.4, 1.8, 4.6):
            pen.line([(x * 0.6, 3), (x, 12), (x, end - 1)], strand, 0.4)
    if length == "ponytail":
        pen.shape(smooth([(-2.2, 8), (2.2, 8), (3.6, 18), (2.8, 32), (0, 37), (-2.8, 32), (-3.6, 18)]), hair)
        pen.line([(0.6, 11), (0.8, 34)], strand, 0.4)
        pen.box(-2.4, 7.6, 2.4, 9.8, (206, 60, 90))


def _hair_side(pen: Pen, length: str, hair: Color, woman: bool) -> None:
    end = HAIR_END.get(length)
    cap = [(6.6, 5.6), (5.6, 1.8), (2.0, -0.4), (-3.0, 0.4), (-6.4, 4.4), (-7.0, 9.4)]
    if end is None:
        low = 15.4 if woman or length == "ponytail" else 13.6
        pen.shape(
            [*cap, (-5.6, low), (-3.6, low + 0.6), (-2.2, 10.6), (-0.4, 8.6), (1.2, 11.0), (1.8, 6.6)], hair
        )
    else:
        pen.shape(
            [*cap, (-7.8, end - 5), (-7.2, end), (-2.0, end + 0.6), (0.2, end - 4), (0.8, 13), (1.6, 6.8)],
            hair,
        )
    if length == "ponytail":
        pen.shape(
            smooth([(-5.4, 4.6), (-9.6, 5.0), (-12.0, 13), (-11.4, 24), (-9.6, 30), (-8.6, 20), (-6.4, 10)]),
            hair,
        )
        pen.oval(-6.6, 6.2, 1.3, 1.6, (206, 60, 90))


def _glasses(pen: Pen, kind: str, view: str) -> None:
    lens = (18, 18, 24) if kind == "sunglasses" else (214, 232, 240)
    if view == "front":
        pen.line([(-6.6, 8.8), (6.6, 8.8)], DARK, 1.0)
        centres = (-3.1, 3.1)
    else:
        pen.line([(-2.4, 9.0), (5, 8.8)], DARK, 1.4)
        centres = (5.4,)
    for x in centres:
        pen.oval(x, 9.6, 3.0, 2.7, DARK, edge=False)
        if kind == "glasses":
            pen.oval(x, 9.6, 2.0, 1.8, lens, edge=False)
            pen.oval(x, 9.6, 0.7, 0.6, DARK, edge=False)
        else:
            pen.shadow(oval_points(x - 0.8, 8.9, 0.7, 0.5), (255, 255, 255, 110))


def _headwear(pen: Pen, kind: str, color: Color, view: str) -> None:
    {"cap": _cap, "hat": _hat, "beanie": _beanie}[kind](pen, color, view)


def _cap(pen: Pen, color: Color, view: str) -> None:
    peak = tint(color, 0.8) if brightness(color) > 60 else tint(color, 1.15)
    pen.shape([*oval_points(0.2 if view == "side" else 0, 5.6, 7.8, 7.6, 180, 360)], color)
    pen.oval(0, -1.8, 0.9, 0.7, peak)
    if view == "front":
        pen.line([(0, -1.6), (0, 4)], peak, 0.4)
        pen.shape([(-7.4, 5.0), (7.4, 5.0), (8.2, 7.2), (4, 6.4), (0, 6.2), (-4, 6.4), (-8.2, 7.2)], peak)
    elif view == "side":
        pen.shape([(3.0, 4.4), (8.0, 4.0), (14.0, 6.0), (14.2, 7.4), (7.6, 6.8), (3.0, 6.4)], peak)
    else:
        pen.shape(oval_points(0, 5.8, 2.6, 2.4, 180, 360), (60, 50, 44))
        pen.line([(-2.8, 5.6), (2.8, 5.6)], peak, 0.9)


def _hat(pen: Pen, color: Color, view: str) -> None:
    band = tint(color, 0.55) if brightness(color) > 60 else tint(color, 1.35)
    pen.shape(
        smooth([(-6.2, 4.4), (-5.6, -3.4), (-2.0, -4.6), (0, -3.8), (2.0, -4.6), (5.6, -3.4), (6.2, 4.4)], 1),
        color,
    )
    pen.box(-6.3, 1.2, 6.3, 3.8, band, edge=False)
    pen.oval(0.6 if view == "side" else 0, 4.6, 12.0, 2.2, color)


def _beanie(pen: Pen, color: Color, view: str) -> None:
    middle = 0.3 if view == "side" else 0.0
    pen.oval(middle, -4.0, 2.3, 2.1, tint(color, 1.25))
    pen.shape([*oval_points(middle, 4.4, 7.6, 7.6, 180, 360)], color)
    pen.shape(
        smooth([(middle - 8.0, 2.4), (middle + 8.0, 2.4), (middle + 8.0, 6.4), (middle - 8.0, 6.4)], 1),
        tint(color, 1.2),
    )
    rib = tint(color, 0.75)
    for x in (-6, -4, -2, 0, 2, 4, 6):
        pen.line([(middle + x, 3.0), (middle + x, 6.0)], rib, 0.35)


def draw_neck(pen: Pen, body: Body, view: str, skin: Color) -> None:
    middle = -0.6 if view == "side" else 0.0
    pen.box(middle - body.neck, CHIN - 4, middle + body.neck, 23.0, tint(skin, 0.9), edge=False)
