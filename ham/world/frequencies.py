"""How often each value is worn, by season, gender and what a person already wears."""

from __future__ import annotations

import numpy as np

from ham.world.attributes import COLORS, PERSON_FIELDS, SHADES, is_absent

# How often each value is worn, in the order of PERSON_FIELDS (only the ratios count).
UPPER = {
    "summer": (36, 16, 8, 6, 7, 6, 9, 4, 15),
    "winter": (8, 10, 5, 19, 18, 7, 19, 14, 6),
    "mixed": (18, 14, 7, 13, 13, 6, 14, 11, 12),
}
SLEEVE = {"summer": (22, 66, 12), "winter": (8, 52, 40), "mixed": (20, 54, 26)}
LOWER = {"summer": (26, 24, 5, 28, 12), "winter": (40, 36, 9, 5, 8), "mixed": (30, 28, 7, 20, 11)}
SHOES = {"summer": (40, 12, 28, 20), "winter": (42, 36, 5, 17), "mixed": (34, 24, 20, 22)}
HEADWEAR = {"summer": (68, 18, 11, 3), "winter": (66, 9, 7, 18), "mixed": (58, 14, 14, 14)}
SCARF = {"summer": 3, "winter": 18, "mixed": 9}
HAIR_LENGTH = {"man": (14, 66, 10, 5, 5), "woman": (1, 19, 27, 30, 23)}
OTHERS = {
    "build": (28, 46, 26),
    "hair_colour": (36, 26, 16, 10, 12),
    "glasses": (64, 22, 14),
    "upper_pattern": (50, 15, 9, 6, 10, 10),
    "watch": (85, 15),
    "belt": (72, 28),
    "socks": (45, 55),
    "bag": (34, 24, 15, 16, 11),
    "carried": (48, 16, 12, 12, 12),
}
POPULAR = {
    "black": 12,
    "white": 9,
    "light grey": 6,
    "dark grey": 7,
    "red": 6,
    "dark red": 4,
    "pink": 4,
    "orange": 4,
    "yellow": 4,
    "light green": 4,
    "dark green": 4,
    "light blue": 6,
    "blue": 7,
    "navy": 7,
    "purple": 4,
    "brown": 5,
    "beige": 5,
}
DENIM = {"blue": 10, "light blue": 8, "navy": 8, "black": 4, "light grey": 2, "dark grey": 3, "white": 2}
# Colors of fields that no domain's taste tilts.
LEATHER = {"black": 10, "brown": 8, "white": 3, "beige": 3, "red": 2}
SECOND = POPULAR | {"white": 40, "black": 20}
SOCKS = {"white": 12, "black": 8, "light grey": 4, "red": 2, "yellow": 1, "light blue": 2, "pink": 2}
FIXED_COLORS = {
    "upper_second_colour": SECOND,
    "inner_colour": SECOND,
    "belt_colour": LEATHER,
    "neckwear_colour": POPULAR,
    "socks_colour": SOCKS,
}
# Two colors that touch each other in the picture.
TOUCHING = (
    {"upper_colour", "upper_second_colour"},
    {"upper_colour", "inner_colour"},
    {"upper_colour", "neckwear_colour"},
    {"inner_colour", "neckwear_colour"},
    {"upper_colour", "belt_colour"},
    {"lower_colour", "belt_colour"},
)
LEAST_CONTRAST = 110.0  # distance in RGB below which two colors side by side look like one
TUCKED = ("t-shirt", "shirt", "blouse", "dress")  # tops over or above which a belt shows


def weights_of(
    field: str, person: dict[str, str], season: str, tilt: dict[str, tuple[float, ...]]
) -> tuple[float, ...]:
    """Return the weights of a field's values beside what the person already has."""
    if field.endswith("_colour") and field != "hair_colour":
        return _color_weights(field, person, tilt)
    man = person["gender"] == "man"
    upper = person.get("upper", "")
    if field == "hair_length":
        return HAIR_LENGTH[person["gender"]]
    if field == "upper":
        women_only = {"blouse": 2.0, "dress": 2.0}
        return tuple(
            weight * (1.0 if kind not in women_only else 0.0 if man else women_only[kind])
            for kind, weight in zip(PERSON_FIELDS["upper"], UPPER[season])
        )
    if field == "upper_pattern" and upper in ("vest", "jacket", "dress"):
        return (*OTHERS[field][:-1], 0)  # a color-block dress looks like a top and a skirt
    if field == "sleeve":
        return SLEEVE[season] if upper in TUCKED else (0, 0, 1)
    if field == "neckwear":
        tie = 40 if upper in ("shirt", "vest", "jacket") else 0
        return (
            100 - SCARF[season],
            0 if person.get("sleeve") == "sleeveless" else SCARF[season],
            tie * (0.5 if man else 0.1),
        )
    if field == "belt" and upper not in TUCKED:
        return (1, 0)
    if field == "lower":
        trousers, jeans, leggings, shorts, skirt = LOWER[season]
        coat = upper == "coat"
        return (trousers, jeans, 0 if man else 2 * leggings, 0 if coat else shorts, 0 if man else 2 * skirt)
    if field == "lower_length":
        return _length_weights(person)
    if field == "shoes":
        sneakers, boots, sandals, heels = SHOES[season]
        return (sneakers, boots, sandals, 0 if man else 2 * heels)
    if field == "headwear":
        return HEADWEAR[season]
    if field == "bag":
        none, backpack, handbag, shoulder, suitcase = OTHERS["bag"]
        return (none, backpack, handbag * (0.3 if man else 1.7), shoulder, suitcase)
    return OTHERS[field]


def _length_weights(person: dict[str, str]) -> tuple[float, ...]:
    if person["upper"] == "dress":
        return (36, 40, 24)
    if person["upper"] == "coat":
        return (0, 0, 1)
    return {"shorts": (45, 55, 0), "skirt": (36, 36, 28)}.get(person["lower"], (0, 0, 1))


def _color_weights(
    field: str, person: dict[str, str], tilt: dict[str, tuple[float, ...]]
) -> tuple[float, ...]:
    """Return the weight of every color; those that would not stand out from a color beside it have none."""
    popular = FIXED_COLORS.get(field, POPULAR)
    if field == "lower_colour" and person["lower"] == "jeans":
        popular = DENIM
    factors = tilt.get(field, (1.0,) * len(COLORS))
    near = [
        person[other]
        for pair in TOUCHING
        if field in pair
        for other in pair - {field}
        if other in person and not is_absent(other, person)
    ]
    return tuple(
        popular.get(color, 0) * factor * all(contrast(color, other) >= LEAST_CONTRAST for other in near)
        for color, factor in zip(COLORS, factors)
    )


def contrast(one: str, other: str) -> float:
    """Return the distance of two shades in RGB."""
    return float(np.linalg.norm(np.subtract(SHADES[one][1], SHADES[other][1])))
