"""Persons and their clothes, sampled with the frequencies of a domain, with look-alikes among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ham.world.attributes import ABSENT_WITH, COLORS, PERSON_FIELDS
from ham.world.draw import Looks

# How often each value is worn, in the order of PERSON_FIELDS (only the ratios count).
UPPER = {
    "summer": (40, 24, 7, 9, 13, 7),
    "winter": (10, 12, 22, 19, 21, 16),
    "mixed": (19, 17, 16, 16, 17, 15),
}
SLEEVE = {"summer": (22, 66, 12), "winter": (8, 52, 40), "mixed": (20, 54, 26)}
LOWER = {"summer": (28, 26, 26, 20), "winter": (42, 40, 5, 13), "mixed": (30, 30, 20, 20)}
SHOES = {"summer": (40, 12, 28, 20), "winter": (42, 36, 5, 17), "mixed": (34, 24, 20, 22)}
HEADWEAR = {"summer": (68, 18, 11, 3), "winter": (66, 9, 7, 18), "mixed": (58, 14, 14, 14)}
HAIR_LENGTH = {"man": (14, 66, 10, 5, 5), "woman": (1, 19, 27, 30, 23)}
OTHERS = {
    "build": (28, 46, 26),
    "hair_colour": (36, 26, 16, 10, 12),
    "glasses": (64, 22, 14),
    "upper_pattern": (52, 14, 12, 10, 12),
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
# What a look-alike may wear differently; colors go with their garments.
CHANGES = (
    "shoes",
    "bag",
    "carried",
    "headwear",
    "glasses",
    "hair_colour",
    "upper_colour",
    "lower_colour",
    "upper_pattern",
    "hair_length",
)


@dataclass(frozen=True)
class Person:
    """One identity: the same in all its images. attributes: every field of PERSON_FIELDS that applies."""

    person_id: int
    attributes: dict[str, str]
    looks: Looks


@dataclass(frozen=True)
class Wardrobe:
    """The frequencies of one domain. tilt: per garment, how much more or less often each color is worn here than elsewhere."""

    season: str
    women: float
    tilt: dict[str, tuple[float, ...]]


def sample_wardrobe(rng: np.random.Generator, season: str, variety: float) -> Wardrobe:
    """Sample a domain's own color frequencies. variety: 0 = as everywhere, 1 = some colors thrice as common as others."""
    tilt = {
        field: tuple(float(1 + variety * rng.uniform(-0.65, 1.0)) for _ in COLORS)
        for field in PERSON_FIELDS
        if field.endswith("_colour") and field != "hair_colour"
    }
    return Wardrobe(season, float(0.5 + 0.12 * variety * rng.uniform(-1, 1)), tilt)


def sample_person(rng: np.random.Generator, wardrobe: Wardrobe) -> dict[str, str]:
    """Sample the attributes of one person."""
    person: dict[str, str] = {"gender": "woman" if rng.random() < wardrobe.women else "man"}
    for field in PERSON_FIELDS:
        if field not in person:
            person[field] = _sample_field(rng, wardrobe, field, person)
    return consistent(person)


def consistent(person: dict[str, str]) -> dict[str, str]:
    """Drop the fields that do not apply, in the order of PERSON_FIELDS."""
    absent = {field for field, (beside, values) in ABSENT_WITH.items() if person[beside] in values}
    return {field: person[field] for field in PERSON_FIELDS if field not in absent}


def sample_persons(
    rng: np.random.Generator, wardrobe: Wardrobe, count: int, first_id: int, look_alikes: float
) -> list[Person]:
    """Sample `count` persons; a share `look_alikes` of them resembles an earlier one in all but one to three fields."""
    persons: list[Person] = []
    for person_id in range(first_id, first_id + count):
        if persons and rng.random() < look_alikes:
            model = persons[int(rng.integers(len(persons)))]
            attributes = _look_alike(rng, wardrobe, model.attributes)
        else:
            attributes = sample_person(rng, wardrobe)
        persons.append(Person(person_id, attributes, Looks(int(rng.integers(5)), bool(rng.random() < 0.3))))
    return persons


def _look_alike(rng: np.random.Generator, wardrobe: Wardrobe, model: dict[str, str]) -> dict[str, str]:
    # An absent color is sampled again, so that a bag or a hat that is put on has one.
    person = {
        field: model.get(field) or _sample_field(rng, wardrobe, field, model) for field in PERSON_FIELDS
    }
    for field in rng.choice(CHANGES, size=int(rng.integers(1, 4)), replace=False):
        person[str(field)] = _sample_field(rng, wardrobe, str(field), person)
    return consistent(person)


def _sample_field(rng: np.random.Generator, wardrobe: Wardrobe, field: str, person: dict[str, str]) -> str:
    values = PERSON_FIELDS[field]
    weights = np.array(_weights(wardrobe, field, person), dtype=np.float64)
    return values[int(np.searchsorted(np.cumsum(weights / weights.sum())[:-1], rng.random(), side="right"))]


def _weights(wardrobe: Wardrobe, field: str, person: dict[str, str]) -> tuple[float, ...]:
    """Return the weights of a field's values beside what the person already has."""
    man, season = person["gender"] == "man", wardrobe.season
    coat = person.get("upper") == "coat"
    if field in wardrobe.tilt:
        popular = DENIM if field == "lower_colour" and person["lower"] == "jeans" else POPULAR
        return tuple(popular.get(color, 0) * tilt for color, tilt in zip(COLORS, wardrobe.tilt[field]))
    if field == "hair_length":
        return HAIR_LENGTH[person["gender"]]
    if field == "upper":
        return UPPER[season]
    if field == "sleeve":
        return SLEEVE[season] if person["upper"] in ("t-shirt", "shirt") else (0, 0, 1)
    if field == "lower":
        trousers, jeans, shorts, skirt = LOWER[season]
        return (trousers, jeans, 0 if coat else shorts, 0 if man else 2 * skirt)
    if field == "lower_length":
        return {"shorts": (45, 55, 0), "skirt": (0 if coat else 36, 0 if coat else 36, 28)}.get(
            person["lower"], (0, 0, 1)
        )
    if field == "shoes":
        sneakers, boots, sandals, heels = SHOES[season]
        return (sneakers, boots, sandals, 0 if man else 2 * heels)
    if field == "headwear":
        return HEADWEAR[season]
    if field == "bag":
        none, backpack, handbag, shoulder, suitcase = OTHERS["bag"]
        return (none, backpack, handbag * (0.3 if man else 1.7), shoulder, suitcase)
    return OTHERS[field]
