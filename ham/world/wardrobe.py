"""Persons and their clothes, sampled with the frequencies of a domain, with look-alikes among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ham.world.attributes import COLORS, PERSON_FIELDS, is_absent
from ham.world.frequencies import FIXED_COLORS, TUCKED, weights_of

# What a look-alike may wear differently; colors go with their garments.
CHANGES = (
    "shoes",
    "bag",
    "carried",
    "headwear",
    "glasses",
    "hair_colour",
    "upper_colour",
    "upper_second_colour",
    "lower_colour",
    "upper_pattern",
    "neckwear",
    "hair_length",
)


@dataclass(frozen=True)
class Looks:
    """Details of a person that every image shows and no annotator mentions."""

    skin: int
    beard: bool


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
        if field.endswith("_colour") and field not in ("hair_colour", *FIXED_COLORS)
    }
    return Wardrobe(season, float(0.5 + 0.12 * variety * rng.uniform(-1, 1)), tilt)


def sample_person(rng: np.random.Generator, wardrobe: Wardrobe) -> dict[str, str]:
    """Sample the attributes of one person."""
    person: dict[str, str] = {"gender": "woman" if rng.random() < wardrobe.women else "man"}
    for field in PERSON_FIELDS:
        if field not in person and not is_absent(field, person):
            person[field] = _sample_field(rng, wardrobe, field, person)
    return consistent(person)


def consistent(person: dict[str, str]) -> dict[str, str]:
    """Drop the fields that do not apply, in the order of PERSON_FIELDS, and socks or a belt that could not be seen."""
    person = dict(person)
    if not _legs_are_bare(person) or person["shoes"] != "sneakers":
        person["socks"] = "none"
    if person["upper"] not in TUCKED:
        person["belt"] = "none"
    return {
        field: person[field] for field in PERSON_FIELDS if field in person and not is_absent(field, person)
    }


def _legs_are_bare(person: dict[str, str]) -> bool:
    return person["lower_length"] != "long"


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
    person = dict(model)
    chosen = rng.choice(CHANGES, size=int(rng.integers(1, 4)), replace=False)
    for field in PERSON_FIELDS:
        if is_absent(field, person):
            person.pop(field, None)
        elif field in chosen or field not in person:  # a bag or a hat that is put on has a color
            person[field] = _sample_field(rng, wardrobe, field, person)
    return consistent(person)


def _sample_field(rng: np.random.Generator, wardrobe: Wardrobe, field: str, person: dict[str, str]) -> str:
    values = PERSON_FIELDS[field]
    weights = np.array(weights_of(field, person, wardrobe.season, wardrobe.tilt), dtype=np.float64)
    return values[int(np.searchsorted(np.cumsum(weights / weights.sum())[:-1], rng.random(), side="right"))]
