"""The trunk: nine kinds of tops, each with its own outline, their sleeves, and bare arms."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import BULK, Body, Limb
from ham.world.outerwear import draw_jacket_marks, draw_vest_marks
from ham.world.pen import Cloth, Color, Pen, Point, accent_of, both_sides, brightness, tint, toward, trim_of
from ham.world.top_marks import draw_logo, draw_marks, draw_neckline, draw_shirt_tails

HEM = {
    "t-shirt": 48.5,
    "shirt": 52.5,
    "blouse": 51.0,
    "sweater": 50.0,
    "hoodie": 51.0,
    "vest": 49.5,
    "jacket": 48.0,
    "coat": 71.0,
    "dress": 43.0,  # its skirt is drawn with the legs
}
TUCKED_HEM = 43.0  # of a top with a belt over it
FLARE = {"coat": 3.0, "blouse": 3.6}  # how far the hem stands out


def cloth_of(person: dict[str, str]) -> Cloth:
    """Return the cloth of the top; a logo is drawn apart."""
    color, pattern = SHADES[person["upper_colour"]][1], person["upper_pattern"]
    second = person.get("upper_second_colour")
    return Cloth(color, pattern if pattern != "logo" else "plain", SHADES[second][1] if second else None)


def draw_trunk(pen: Pen, person: dict[str, str], body: Body, view: str, skin: Color) -> None:
    """Draw the top without its sleeves."""
    kind, color = person["upper"], SHADES[person["upper_colour"]][1]
    tucked = person["belt"] == "belt"
    hem = min(HEM[kind], TUCKED_HEM) if tucked else HEM[kind]
    outline = trunk_outline(body, view, kind, person.get("sleeve") == "sleeveless", hem)
    if kind == "shirt" and not tucked:
        draw_shirt_tails(pen, body, view, color)
    pen.shape(outline, cloth_of(person))
    side = [point for point in outline if point[0] > 0.45 * body.hip and point[1] > 24]
    if len(side) > 2:
        pen.shadow(side)
    if kind == "dress":
        draw_neckline(pen, view, skin)
    if kind in ("vest", "jacket"):
        draw = draw_vest_marks if kind == "vest" else draw_jacket_marks
        draw(pen, body, view, color, SHADES[person["inner_colour"]][1])
    else:
        draw_marks(pen, kind, body, view, color)
    if person["upper_pattern"] == "logo":
        draw_logo(pen, kind, body, view, accent_of(color))


def trunk_outline(body: Body, view: str, kind: str, sleeveless: bool, hem: float) -> list[Point]:
    """Return the top's outline: shoulders, waist and hips as the body has them, down to the hem."""
    bulk, flare = BULK[kind], FLARE.get(kind, 0.0)
    bare = sleeveless or kind == "vest"
    if view == "side":
        back, front = -body.depth * bulk, body.depth * bulk
        ahead = [
            (1.8, 20.6),
            (front * 0.8, 24),
            (front + body.bust, 30),
            (front * 0.92 + body.belly, 40),
            (front + 0.6 * body.belly, 48),
        ]
        behind = [(back * 1.08, 48), (back * 0.86, 40), (back, 29), (back * 0.8, 23), (-2.4, 20.4)]
        return [
            *(point for point in ahead if point[1] < hem),
            (front + flare, hem),
            (back - 0.9 * flare, hem),
            *(point for point in behind if point[1] < hem),
        ]
    shoulder = body.shoulder * (0.74 if bare else 1.0) * (1 + (bulk - 1) * 0.6)
    waist = body.waist * bulk + (0.7 if kind in ("hoodie", "sweater") else 0.0)
    points = [
        (2.6, 20.4),
        (shoulder * 0.75, 21.6),
        (shoulder, 24.4),
        (body.chest * bulk * (0.9 if bare else 1), 30),
        (waist, 40),
        (body.hip * bulk, 48),
    ]
    end = waist + 0.5 if hem < 46 else body.hip * bulk + flare
    return both_sides([*(point for point in points if point[1] < hem), (end, hem)])


def draw_arm(pen: Pen, person: dict[str, str], body: Body, arm: Limb, skin: Color, behind: bool) -> None:
    """Draw one arm: skin, sleeve, hand, and a cuff where the garment has one."""
    kind, sleeve = person["upper"], person.get("sleeve", "long")
    cloth = Cloth(SHADES[person["inner_colour"]][1]) if kind == "vest" else cloth_of(person)
    if behind:
        cloth, skin = Cloth(tint(cloth.color, 0.88), cloth.pattern, cloth.accent), tint(skin, 0.88)
    bell = 1.9 if kind == "blouse" else 1.0
    radius = body.arm * (BULK[kind] ** 2 if sleeve == "long" else 1.0)
    if sleeve == "long":
        pen.limb(arm.root, arm.middle, radius * 1.08, radius * 0.92, cloth)
        pen.oval(*arm.end, body.arm * 0.86, body.arm * 0.9, skin)
        wrist = toward(arm.middle, arm.end, 0.74)
        pen.limb(arm.middle, wrist, radius * 0.92, radius * 0.74 * bell, cloth)
        if kind != "blouse":
            cuff = tint(cloth.color, 0.6) if brightness(cloth.color) > 70 else tint(cloth.color, 1.3)
            cuff = trim_of(cloth.color) if kind == "shirt" else cuff
            pen.limb(toward(arm.middle, arm.end, 0.54), wrist, radius * 0.86, radius * 0.86, cuff)
        if kind == "jacket":  # a stripe down the sleeve
            pen.line([arm.root, arm.middle, toward(arm.middle, arm.end, 0.5)], trim_of(cloth.color), 1.3)
        return
    pen.limb(arm.root, arm.middle, radius, radius * 0.82, skin)
    pen.limb(arm.middle, arm.end, radius * 0.82, radius * 0.62, skin)
    pen.oval(*arm.end, radius * 0.8, radius * 0.85, skin)
    if sleeve == "short":
        end = toward(arm.root, arm.middle, 0.62)
        puff = 1.3 if kind == "blouse" else 1.0
        pen.limb(arm.root, end, radius * 1.2 * puff, radius * 1.36 * puff, cloth)
        if kind == "shirt":
            wide = radius * 1.3
            pen.line(
                [(end[0] - wide, end[1] + wide * 0.5), (end[0] + wide, end[1] + wide * 0.5)],
                trim_of(cloth.color),
                1.3,
            )
