"""Scarf, tie, watch and belt: drawn larger than real, or small pictures would not show them."""

from __future__ import annotations

from ham.world.attributes import SHADES
from ham.world.figure import Body, Limb
from ham.world.pen import Color, Pen, edge_of, limb_points, mark_of, smooth, tint, toward

GOLD = (226, 204, 130)


def draw_scarf(pen: Pen, person: dict[str, str], view: str) -> None:
    """Draw a scarf around the neck with one end hanging down, over hair and collar."""
    if person["neckwear"] != "scarf":
        return
    color = SHADES[person["neckwear_colour"]][1]
    fold = mark_of(color)
    middle = 0.6 if view == "side" else 0.0
    if view == "side":
        _scarf_end(pen, 3.0, 7.6, color, fold)
    else:
        _scarf_end(pen, *((1.4, 6.6) if view == "front" else (-6.2, -1.2)), color, fold)
    half = 6.4 if view == "side" else 8.2
    ring = [
        (-half * 0.8, 16.6),
        (half * 0.8, 16.6),
        (half, 20.4),
        (half * 0.7, 24.6),
        (-half * 0.7, 24.6),
        (-half, 20.4),
    ]
    pen.shape(smooth([(middle + x, y) for x, y in ring], 1), color)
    pen.line([(middle - half * 0.8, 19.4), (middle, 20.6), (middle + half * 0.8, 19.4)], fold, 0.6)
    pen.line([(middle - half * 0.7, 22.0), (middle, 23.2), (middle + half * 0.7, 22.0)], fold, 0.6)


def _scarf_end(pen: Pen, left: float, right: float, color: Color, fold: Color) -> None:
    pen.shape([(left, 22), (right, 22), (right + 0.6, 39.0), (left - 0.2, 39.0)], color)
    for share in (0.1, 0.37, 0.63, 0.9):  # the fringe
        x = left + share * (right - left)
        pen.line([(x, 38.6), (x, 41.6)], color, 0.7)
    pen.line([(left, 35.6), (right + 0.4, 35.6)], fold, 0.8)


def draw_tie(pen: Pen, person: dict[str, str], view: str) -> None:
    """Draw a tie; only from the front can it be seen."""
    if person["neckwear"] != "tie" or view != "front":
        return
    color = SHADES[person["neckwear_colour"]][1]
    pen.shape([(-1.2, 24.0), (1.2, 24.0), (2.7, 39.5), (0, 43.0), (-2.7, 39.5)], color)
    pen.shape([(-2.0, 20.6), (2.0, 20.6), (1.3, 24.6), (-1.3, 24.6)], tint(color, 0.85), edge=False)
    pen.line([(-2.0, 20.6), (-1.2, 24.4), (1.2, 24.4), (2.0, 20.6)], edge_of(color), 0.4)


def draw_belt(pen: Pen, person: dict[str, str], body: Body, view: str) -> None:
    """Draw a belt over the waist, with a buckle in front."""
    if person["belt"] != "belt":
        return
    color = SHADES[person["belt_colour"]][1]
    half = body.depth + 0.7 * body.belly if view == "side" else body.waist + 1.0
    shift = 0.3 * body.belly if view == "side" else 0.0
    pen.box(shift - half, 41.6, shift + half, 45.4, color)
    if view == "front":
        pen.box(-2.2, 41.2, 2.2, 45.8, GOLD)
        pen.box(-1.0, 42.4, 1.0, 44.6, tint(color, 0.9), edge=False)
    elif view == "side":
        pen.box(shift + half - 1.8, 41.2, shift + half + 0.4, 45.8, GOLD)


def draw_watch(pen: Pen, person: dict[str, str], body: Body, arm: Limb) -> None:
    """Draw a watch on a bare wrist; a sleeve covers it."""
    if person["watch"] != "watch" or person.get("sleeve", "long") == "long":
        return
    upper, lower = toward(arm.middle, arm.end, 0.52), toward(arm.middle, arm.end, 0.72)
    radius = max(2.8, body.arm * 1.2)
    pen.shape(limb_points(upper, lower, radius * 0.8, radius * 0.8), (28, 28, 34), edge=False)
    pen.oval(*toward(upper, lower, 0.5), radius * 0.95, radius * 0.95, (244, 244, 248), edge=False)
    pen.oval(*toward(upper, lower, 0.5), radius * 0.3, radius * 0.3, (28, 28, 34), edge=False)
