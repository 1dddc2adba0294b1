"""Simulated annotators: each has a manner, the persistent true style in which it describes pedestrians.

Annotators see no pixels, only the attributes that the image shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle

import numpy as np

from ham.runtime import UsageError, numpy_generator
from ham.world.chances import worth_telling
from ham.world.clauses import Scene
from ham.world.embellish import closing, embellish
from ham.world.finish import finish
from ham.world.grammar import GRAMMARS, plainly
from ham.world.groups import PROFILES
from ham.world.lexicon import REGISTERS
from ham.world.manners import (
    HABITS,
    draw_manner,
    even_points,
    hint_of,
    manner_frequencies,
    profiles_of,
)
from ham.world.mention import select, settle, vague_colors
from ham.world.phrases import items_of, person_words, scene_words, series, with_article
from ham.world.speech import ORDERS, Speech
from ham.world.typos import RATES, misspell

__all__ = [
    "Annotator",
    "Description",
    "annotator_population",
    "hint_of",
    "plain_description",
    "short_description",
]

FEWEST_WORDS = 8  # the captioner's filter rejects shorter captions
CLOSINGS = ("nothing else can be seen clearly", "the rest of the outfit is not clear")
DRAWS = 256  # random numbers for one caption
OPENING = 0.0016  # chance that anybody begins "in this picture"
HEDGED = 0.6  # chance that a caption of an annotator who hedges has a hedge
WORN = ("upper", "lower", "shoes", "socks", "neckwear")
PLAIN_MANNER = {habit: values[0] for habit, values in HABITS.items()}
PLAIN_MANNER |= {"omits": "nothing", "idiolect": "nothing", "pets": "0"}


@dataclass(frozen=True)
class Description:
    """A caption and exactly what it conveys: field -> value, colors as written (the shade or its plain color)."""

    text: str
    mentioned: dict[str, str]


@dataclass(frozen=True)
class Annotator:
    """One simulated annotator.

    manner: the fields of `ham.world.manners`; weight: how much this annotator writes, as a share of the population's captions.
    """

    annotator_id: str
    manner: dict[str, str]
    weight: float

    @cached_property
    def speech(self) -> Speech:
        return Speech(self.manner)

    def describe(self, attributes: dict[str, str], rng: np.random.Generator) -> Description:
        """Return a description of a pedestrian in this manner: at least 8 words, no line breaks, none of < and >.

        attributes: the visible fields of `ham.world.attributes`; the same generator state gives the same caption.
        """
        draw = cycle(rng.random(DRAWS).tolist()).__next__
        told = select(attributes, self.speech, draw)
        vague = vague_colors(told, attributes, draw)
        text, conveyed = self._write(told, vague, [], draw)
        for name, value in attributes.items():
            if len(text.split()) >= FEWEST_WORDS:
                break
            if name not in told and (name != "gender" or self.manner["gender"] == "told"):
                told = settle({**told, name: value}, attributes)
                text, conveyed = self._write(told, vague, [], draw)
        for count in range(1, len(CLOSINGS) + 1):
            if len(text.split()) < FEWEST_WORDS:
                text, conveyed = self._write(told, vague, list(CLOSINGS[:count]), draw)
        return Description(misspell(text, RATES[self.manner["typos"]], draw), conveyed)

    def _write(
        self, told: dict[str, str], vague: dict[str, str], more: list[str], draw: Callable[[], float]
    ) -> tuple[str, dict[str, str]]:
        manner, speech = self.manner, self.speech
        items, conveyed = items_of(told, speech, draw, vague)
        if speech.order is not None:
            items.sort(key=lambda item: speech.order.index(item.name))
        else:
            items = [item for _, item in sorted(((draw(), item) for item in items), key=lambda pair: pair[0])]
        if speech.hedge and items and draw() < HEDGED:
            items[int(draw() * len(items))].hedge = speech.hedge
        who, doing = embellish(
            items, person_words(told, speech, draw), scene_words(told, speech, draw), manner, draw
        )
        scene = Scene(who, told.get("gender"), items, doing, speech.words, manner["commas"], draw)
        sentences = GRAMMARS[manner["syntax"]](scene)
        if draw() < OPENING and sentences[0].split()[0] in ("a", "an", "the", "this"):
            sentences[0] = "in this picture, " + sentences[0]
        return finish(sentences + (more or closing(manner, draw)), manner, draw), conveyed


def annotator_population(
    seed: int, group: str, count: int, vocabulary_spread: float = 1.0, syntax_spread: float = 1.0
) -> list[Annotator]:
    """Return the `count` annotators of one `group` ("CUHK-PEDES"); the first writes most (weights by Zipf's law, sum 1).

    vocabulary_spread, syntax_spread: 0 (everyone uses the same words / the same sentences) to 1 (full variety).
    """
    for knob, spread in (("vocabulary_spread", vocabulary_spread), ("syntax_spread", syntax_spread)):
        if not 0 <= spread <= 1:
            raise UsageError(f"{knob} is {spread}; it must lie between 0 (all alike) and 1 (full variety)")
    if count < 1:
        raise UsageError(
            f"a group of {count} annotators ({group}) cannot describe anything; ask for at least 1"
        )
    profiles = profiles_of(group)
    frequencies = {name: manner_frequencies(seed, group, name) for name in profiles}
    points = {name: even_points(seed, f"{group}/{name}", -(-count // len(profiles))) for name in profiles}
    weights = 1.0 / (np.arange(count) + 8.0)
    weights /= weights.sum()
    people = []
    for index in range(count):
        name = profiles[index % len(profiles)]
        manner = draw_manner(
            numpy_generator(seed, "manner", group, index),
            frequencies[name],
            PROFILES[name].omissions,
            points[name][index // len(profiles)],
            vocabulary_spread,
            syntax_spread,
        )
        people.append(Annotator(f"{group}-{index:05d}", manner, float(weights[index])))
    return people


_PLAIN = Speech(PLAIN_MANNER)


def never() -> float:
    """Return 0 in place of a random number: the first choice, always."""
    return 0.0


def plain_description(attributes: dict[str, str], rng: np.random.Generator | None = None) -> Description:
    """Return a complete description in one fixed manner, as an untuned multimodal model writes.

    rng: not used; it is here so that all description functions have one signature.
    """
    told = settle(worth_telling(attributes), attributes)
    items, conveyed = items_of(told, _PLAIN, never)
    text = plainly(with_article(person_words(told, _PLAIN)), items, scene_words(told, _PLAIN, never))
    if text.count(" ") + 1 < FEWEST_WORDS:
        text += " in the middle of the picture"
    return Description(text[0].upper() + text[1:] + ".", conveyed)


def short_description(attributes: dict[str, str], rng: np.random.Generator) -> Description:
    """Write an alt text of one to three attributes ("woman in red coat"), in the words of a random register."""
    draw = cycle(rng.random(64).tolist()).__next__
    register = "plain" if draw() < 0.4 else REGISTERS[int(draw() * len(REGISTERS))]
    speech = Speech(
        PLAIN_MANNER
        | {"register": register, "pets": "1", "colours": ("exact", "simple", "tones")[int(draw() * 3)]}
    )
    things = [
        name
        for name in ORDERS["hair"]
        if attributes.get("hair_length" if name == "hair" else name, "none") != "none"
    ]
    things.sort(key=lambda name: draw() + 0.5 * (name in ("upper", "lower")), reverse=True)
    things = things[: 1 if draw() < 0.5 else 2]
    told = {"gender": attributes["gender"]} if "gender" in attributes and draw() < 0.9 else {}
    for name in things:
        fields = ("hair_length", "hair_colour") if name == "hair" else (name, f"{name}_colour")
        fields = [key for key in fields if key in attributes][: 1 if draw() < 0.15 else 2]
        told |= {key: attributes[key] for key in fields[: 3 - len(told)]}
    items, conveyed = items_of(settle(told, attributes), speech, draw)
    worn = [item.bare for item in items if item.name in WORN]
    other = [item.bare for item in items if item.name not in WORN]
    text = (
        person_words(told, speech, draw)
        + (f" in {series(worn)}" if worn else "")
        + (f" with {series(other)}" if other else "")
    )
    return Description(text, conveyed)
