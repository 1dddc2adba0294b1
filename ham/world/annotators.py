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
from ham.world.grammar import GRAMMARS, Scene
from ham.world.manners import (
    SYNTAX_HABITS,
    WORD_HABITS,
    draw_manner,
    hint_of,
    manner_frequencies,
    worth_telling,
)
from ham.world.phrases import (
    ORDERS,
    Item,
    Speech,
    items_of,
    person_words,
    scene_words,
    select,
    series,
    settle,
)
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
OPENINGS = {"in this": "in this {}", "here": "here", "in the": "in the {}", "as the": "as the {} shows"}
CLOSINGS = {
    "that is all": "that is all I can see",
    "nothing else": "nothing else stands out",
    "hope": "I hope this helps",
}
NOT_A_CLAUSE = {
    "fragments",
    "list",
    "chain",
    "keyvalue",
    "search",
    "spoken",
}  # an opening before them ends in a colon
PLAIN_MANNER = {habit: values[0] for habit, values in (SYNTAX_HABITS | WORD_HABITS).items()}
PLAIN_MANNER |= {"omits": "nothing", "idiolect": "nothing"}


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
        chances = rng.random(64).tolist()
        draw = cycle(chances).__next__
        told = select(attributes, self.speech, draw)
        text, conveyed = self._write(told, draw, [])
        for name, value in attributes.items():
            if text.count(" ") + 1 >= FEWEST_WORDS:
                break
            if name not in told and (name != "gender" or self.manner["gender"] == "told"):
                told = settle({**told, name: value}, attributes)
                text, conveyed = self._write(told, draw, [])
        more: list[str] = []
        while text.count(" ") + 1 < FEWEST_WORDS:
            more.append(CLOSINGS["hope" if more else "that is all"])
            text, conveyed = self._write(told, draw, more)
        return Description(misspell(text, RATES[self.manner["typos"]], chances), conveyed)

    def _write(
        self, told: dict[str, str], draw: Callable[[], float], more: list[str]
    ) -> tuple[str, dict[str, str]]:
        manner, speech = self.manner, self.speech
        items, conveyed = items_of(told, speech)
        if speech.order is not None:
            items.sort(key=lambda item: speech.order.index(item.name))
        else:
            items = [item for _, item in sorted(((draw(), item) for item in items), key=lambda pair: pair[0])]
        if speech.hedge and items:
            items[int(draw() * len(items))].hedge = speech.hedge
            for item in items:
                if draw() < 0.15:
                    item.hedge = speech.hedge
        scene = Scene(
            person_words(told, speech),
            told.get("gender"),
            items,
            scene_words(told, speech),
            speech.words,
            draw,
        )
        sentences = GRAMMARS[manner["syntax"]](scene)
        if manner["opening"] != "none":
            start = OPENINGS[manner["opening"]].format(speech.words["place:picture"])
            sentences[0] = start + (": " if manner["syntax"] in NOT_A_CLAUSE else ", ") + sentences[0]
        sentences += more or ([CLOSINGS[manner["closing"]]] if manner["closing"] != "none" else [])
        return punctuate(sentences, manner["punctuation"], manner["capitals"]), conveyed


def punctuate(sentences: list[str], punctuation: str, capitals: str) -> str:
    """Join sentences with the stops and capitals of a manner; a sentence that brings its own "?" keeps it."""
    stop = {"semicolons": ";", "dots": "..."}.get(punctuation, ".")
    last = {"open": "", "shout": "!", "dots": "..."}.get(punctuation, ".")
    after_stop = capitals == "sentence" and stop != ";"
    parts = []
    for place, sentence in enumerate(sentences):
        raised = capitals != "lower" and (place == 0 or after_stop or parts[-1].endswith("?"))
        sentence = sentence[0].upper() + sentence[1:] if raised else sentence
        end = "" if sentence.endswith("?") else last if place == len(sentences) - 1 else stop
        parts.append(sentence + end)
    text = " ".join(parts)
    return text.lower() if capitals == "lower" else text


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
    frequencies = manner_frequencies(seed, group)
    weights = 1.0 / (np.arange(count) + 8.0)
    weights /= weights.sum()
    return [
        Annotator(
            f"{group}-{index:05d}",
            draw_manner(
                numpy_generator(seed, "manner", group, index), frequencies, vocabulary_spread, syntax_spread
            ),
            float(weights[index]),
        )
        for index in range(count)
    ]


_PLAIN = Speech(PLAIN_MANNER)


def plain_description(attributes: dict[str, str], rng: np.random.Generator | None = None) -> Description:
    """Return a complete description in one fixed manner, as an untuned multimodal model writes.

    rng: not used; it is here so that all description functions have one signature.
    """
    told = settle(worth_telling(attributes), attributes)
    text, conveyed = _plainly(told)
    if text.count(" ") + 1 < FEWEST_WORDS:
        text += " in the middle of the picture"
    return Description(text + ".", conveyed)


def _plainly(told: dict[str, str]) -> tuple[str, dict[str, str]]:
    items, conveyed = items_of(told, _PLAIN)
    by_verb: dict[str, list[Item]] = {"with": [], "wearing": [], "carrying": [], "holding": []}
    for item in items:
        by_verb[{"hair": "with", "bag": "carrying", "carried": "holding"}.get(item.name, "wearing")].append(
            item
        )
    parts = [f"{verb} {series([item.phrase for item in group])}" for verb, group in by_verb.items() if group]
    person = ("an " if person_words(told, _PLAIN)[0] in "aeiou" else "a ") + person_words(told, _PLAIN)
    parts += [series(scene_words(told, _PLAIN))] if scene_words(told, _PLAIN) else []
    head = f"{person} {parts.pop(0)}" if by_verb["with"] else person
    text = f"{head} {', '.join(parts)}" if parts else head
    return text[0].upper() + text[1:], conveyed


def short_description(attributes: dict[str, str], rng: np.random.Generator) -> Description:
    """Write an alt text of one to three attributes ("woman in red coat"), in the words of a random register."""
    draw = cycle(rng.random(32).tolist()).__next__
    register = "plain" if draw() < 0.4 else WORD_HABITS["register"][int(draw() * 6)]
    speech = Speech(
        PLAIN_MANNER | {"register": register, "colours": ("exact", "simple", "tones")[int(draw() * 3)]}
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
    items, conveyed = items_of(settle(told, attributes), speech)
    worn = [item.bare for item in items if item.name in ("upper", "lower", "shoes")]
    other = [item.bare for item in items if item.name not in ("upper", "lower", "shoes")]
    text = (
        person_words(told, speech)
        + (f" in {series(worn)}" if worn else "")
        + (f" with {series(other)}" if other else "")
    )
    return Description(text, conveyed)
