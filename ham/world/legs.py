"""Everything below the waist: bare legs, socks, trousers, jeans, leggings, shorts, and skirts, those of dresses too."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import CROTCH, HIP, WAIST, Body, Limb, Pose
from ham.world.pen import Cloth, Color, Pen, brightness, edge_of, limb_points, smooth, tint, toward
from ham.world.shoes import draw_shoe
from ham.world.tops import cloth_of

HEM = {
    "shorts": {"short": 60.0, "knee": 70.5},
    "skirt": {"short": 60.0, "knee": 72.5, "long": 86.0},
    "dress": {"short": 61.0, "knee": 73.0, "long": 86.0},
}
FAR_SHADE = 0.86  # the leg behind, from the side
SOCK = 14.0  # how high socks reach above the ankle


def draw_legs(pen: Pen, person: dict[str, str], body: Body, pose: Pose, skin: Color) -> None:
    """Draw legs, socks, shoes and the lower garment, or the skirt of a dress; the far leg first."""
    kind = person.get("lower", "dress")
    cloth = cloth_of(person) if kind == "dress" else Cloth(SHADES[person["lower_colour"]][1])
    for side in ("b", "a"):
        shade = FAR_SHADE if pose.view == "side" and side == "b" else 1.0
        _draw_leg(pen, person, body, pose, side, tint(skin, shade), tint(cloth.color, shade))
    if kind in ("skirt", "dress"):
        _skirt(pen, body, pose, cloth, HEM[kind][person["lower_length"]], 1.6 if kind == "dress" else 1.4)
    else:
        _seat(pen, kind, body, pose.view, cloth.color)


def _draw_leg(
    pen: Pen, person: dict[str, str], body: Body, pose: Pose, side: str, skin: Color, cloth: Color
) -> None:
    leg, kind, boots = pose.legs[side], person.get("lower", "dress"), person["shoes"] == "boots"
    if kind not in ("trousers", "jeans"):
        _leg(pen, leg, body.leg * 0.8, skin)
    if person["socks"] == "socks":
        _sock(pen, leg, body.leg * 0.8, SHADES[person["socks_colour"]][1])
    if kind == "leggings":
        _leggings_leg(pen, leg, body, cloth)
    shoes = SHADES[person["shoes_colour"]][1]
    if not boots:
        draw_shoe(pen, person["shoes"], leg.end, pose, side, shoes, skin)
    if kind in ("trousers", "jeans"):
        _trouser_leg(pen, kind, leg, body, cloth, pose.view)
    elif kind == "shorts":
        _shorts_leg(pen, leg, body, cloth, HEM["shorts"][person["lower_length"]])
    if boots:
        draw_shoe(pen, "boots", leg.end, pose, side, shoes, skin)


def _sock(pen: Pen, leg: Limb, radius: float, color: Color) -> None:
    top = toward(leg.end, leg.middle, SOCK / 17.5)
    pen.limb(top, leg.end, radius * 0.86, radius * 0.66, color)
    pen.limb(top, toward(top, leg.end, 0.12), radius * 0.9, radius * 0.9, tint(color, 0.8))


def _leggings_leg(pen: Pen, leg: Limb, body: Body, color: Color) -> None:
    """Draw tight cloth that ends above a bare ankle."""
    radius, end = body.leg * 0.78, toward(leg.middle, leg.end, 0.66)
    pen.limb(leg.root, leg.middle, radius, radius * 0.74, color)
    pen.limb(leg.middle, end, radius * 0.74, radius * 0.52, color)
    shine = toward(leg.root, leg.middle, 0.3), toward(leg.middle, end, 0.8)
    pen.line([shine[0], leg.middle, shine[1]], tint(color, 1.2), 0.5)


def _leg(pen: Pen, leg: Limb, radius: float, skin: Color) -> None:
    pen.limb(leg.root, leg.middle, radius, radius * 0.78, skin)
    pen.limb(leg.middle, leg.end, radius * 0.78, radius * 0.55, skin)


def _seat(pen: Pen, kind: str, body: Body, view: str, color: Color) -> None:
    if view == "side":
        half = body.depth * 1.02
        pen.shape(
            smooth(
                [
                    (-half, WAIST),
                    (half + 0.5 * body.belly, WAIST),
                    (half, HIP),
                    (half * 0.7, CROTCH + 3),
                    (-half * 0.7, CROTCH + 3),
                    (-half * 1.1, HIP),
                ],
                1,
            ),
            color,
            edge=False,
        )
        return
    pen.shape(
        [
            (-body.hip, WAIST),
            (body.hip, WAIST),
            (body.hip + 0.2, HIP),
            (body.hip * 0.9, CROTCH + 2),
            (0, CROTCH + 1),
            (-body.hip * 0.9, CROTCH + 2),
            (-body.hip - 0.2, HIP),
        ],
        color,
        edge=False,
    )
    pen.line([(0, HIP - 2), (0, CROTCH + 3)], edge_of(color), 0.5)
    if kind == "jeans" and view == "back":
        for x in (-0.62, 0.12):
            pen.box(x * body.hip, HIP - 1, (x + 0.5) * body.hip, HIP + 3.6, tint(color, 1.12))


def _trouser_leg(pen: Pen, kind: str, leg: Limb, body: Body, color: Color, view: str) -> None:
    top, low = body.leg, body.leg * (0.9 if kind == "trousers" else 0.7)
    end = (leg.end[0], leg.end[1] + 0.4)
    pen.limb(leg.root, leg.middle, top, (top + low) / 2, color)
    pen.limb(leg.middle, end, (top + low) / 2, low, color)
    if kind == "trousers":
        crease = tint(color, 0.75) if brightness(color) > 60 else tint(color, 1.16)
        pen.line([leg.root, leg.middle, end], crease, 0.5)
        return
    wash = (255, 255, 255, 84)
    for a, b, radius in ((leg.root, leg.middle, 0.5 * top), (leg.middle, end, 0.5 * low)):
        upper, lower = toward(a, b, 0.28), toward(a, b, 0.72)
        pen.shadow(limb_points(upper, lower, radius, radius), wash)
    seam = (226, 160, 70) if brightness(color) < 170 else (150, 110, 60)
    shift = 0.72 * top if leg.root[0] >= 0 or view == "side" else -0.72 * top
    pen.line(
        [
            (leg.root[0] + shift, leg.root[1]),
            (leg.middle[0] + shift * 0.9, leg.middle[1]),
            (end[0] + shift * 0.85, end[1] - 3),
        ],
        seam,
        0.8,
    )
    cuff = low + 0.8
    pen.box(end[0] - cuff, end[1] - 4.2, end[0] + cuff, end[1] + 0.4, tint(color, 1.55))


def _shorts_leg(pen: Pen, leg: Limb, body: Body, color: Color, hem: float) -> None:
    share = min(1.0, (hem - leg.root[1]) / (leg.middle[1] - leg.root[1]))
    end = toward(leg.root, leg.middle, share)
    half, slope = body.leg * 1.12, 0.0
    pen.shape(
        [
            (leg.root[0] - body.leg, leg.root[1] - 2),
            (leg.root[0] + body.leg, leg.root[1] - 2),
            (end[0] + half, end[1] + slope),
            (end[0] - half, end[1]),
        ],
        color,
    )
    pen.line([(end[0] - half, end[1] - 1.3), (end[0] + half, end[1] - 1.3)], edge_of(color), 0.5)


def _skirt(pen: Pen, body: Body, pose: Pose, cloth: Cloth, hem: float, wide: float) -> None:
    half = body.depth if pose.view == "side" else body.hip
    knees = [leg.middle[0] for leg in pose.legs.values()]
    reach = 0.35 * wide * (hem - HIP) ** 0.8
    left, right = min(-half, min(knees) - 1.5) - reach * 0.45, max(half, max(knees) + 1.5) + reach * 0.45
    waist = half * 0.8
    outline = [
        (-waist, WAIST),
        (waist, WAIST),
        (half + 0.5, HIP),
        (right, hem - 1),
        (right * 0.5, hem + 0.8),
        (0, hem),
        (left * 0.5, hem + 0.8),
        (left, hem - 1),
        (-half - 0.5, HIP),
    ]
    pen.shape(outline, cloth)
    color = cloth.color
    fold = tint(color, 0.78) if brightness(color) > 60 else tint(color, 1.16)
    for share in (-0.55, -0.1, 0.4):
        foot = (right if share > 0 else -left) * share
        pen.line([(share * half, HIP), (foot, hem - 0.6)], fold, 0.45)
