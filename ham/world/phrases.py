"""From attributes to noun phrases: what an annotator mentions, in its words.

`select` decides which fields are mentioned; `items_of` turns them into things with adjectives and a noun.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ham.world.lexicon import BEHIND, MASS_NOUNS, PLURAL_NOUNS, color_words, words_of
from ham.world.manners import CHANCES, LENGTH_POWER

ITEMS = ("hair", "headwear", "glasses", "upper", "lower", "shoes", "bag", "carried")
ORDERS = {
    "hair": ITEMS,
    "clothes": ("upper", "lower", "shoes", "headwear", "hair", "glasses", "bag", "carried"),
    "shoes": ("shoes", "lower", "upper", "glasses", "headwear", "hair", "carried", "bag"),
    "bag": ("bag", "carried", "upper", "lower", "shoes", "hair", "glasses", "headwear"),
}


class Hedge(NamedTuple):
    """One way to hedge: before a phrase, as the verb of one thing or of many, before a bare phrase."""

    before: str
    one: str
    many: str
    bare: str


HEDGES = {
    "seems": Hedge("what seems to be", "seems", "seem", "seemingly"),
    "looks": Hedge("what looks like", "looks", "look", "apparently"),
    "probably": Hedge("what is probably", "is probably", "are probably", "probably"),
    "possibly": Hedge("what could be", "could be", "could be", "possibly"),
    "maybe": Hedge("something like", "is maybe", "are maybe", "maybe"),
}
# Adjectives only for before a noun -> what follows a verb instead.
BEFORE_ONLY = {"logo": "with a logo", "graphic": "with a graphic", "polka-dot": "with polka dots"}
ABSENT_NOUNS = {"headwear": "no hat", "glasses": "no glasses", "bag": "no bag", "carried": "nothing in hand"}


@dataclass
class Item:
    """One thing to mention: adjectives, noun, what follows it, and whether it takes an article."""

    name: str
    noun: str
    adjectives: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    absent: bool = False
    pair: bool = False
    hedge: Hedge | None = None

    @property
    def plural(self) -> bool:
        return self.noun.removeprefix("no ") in PLURAL_NOUNS

    @property
    def bare(self) -> str:
        """The phrase without an article: "navy striped jacket", "no hat"."""
        if self.absent:
            return self.noun
        words = " ".join([*self.adjectives, self.noun])
        return f"{words} with {' and '.join(self.behind)}" if self.behind else words

    @property
    def phrase(self) -> str:
        """The phrase with its article and hedge: "a navy jacket", "a pair of blue jeans", "what looks like a red cap"."""
        words = self.bare
        if self.absent or self.noun in MASS_NOUNS:
            pass
        elif self.plural:
            words = f"a pair of {words}" if self.pair else words
        else:
            words = with_article(words)
        return f"{self.hedge.before} {words}" if self.hedge and not self.absent else words

    @property
    def note(self) -> str:
        """The phrase without an article but with its hedge: "maybe navy jacket"."""
        return f"{self.hedge.bare} {self.bare}" if self.hedge and not self.absent else self.bare

    @property
    def predicate(self) -> str:
        """What the thing is like: "is navy and striped", "are blue", "is probably red with a logo"."""
        verb = "are" if self.plural else "is"
        if self.hedge:
            verb = self.hedge.many if self.plural else self.hedge.one
        tail = [BEFORE_ONLY[word] for word in self.adjectives if word in BEFORE_ONLY]
        tail += [f"with {' and '.join(self.behind)}"] if self.behind else []
        like = [word for word in self.adjectives if word not in BEFORE_ONLY]
        return " ".join([verb, *([series(like)] if like else []), *tail])


def series(phrases: list[str], last: str = " and ") -> str:
    """Join phrases as "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + last + phrases[-1]


def with_article(words: str) -> str:
    """Return `words` with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


class Speech:
    """The words of one manner, looked up once: concept -> phrase, shade -> (phrase, color conveyed)."""

    def __init__(self, manner: dict[str, str]) -> None:
        self.manner = manner
        self.words = words_of(manner["register"])
        for own in manner["idiolect"].split("+") if manner["idiolect"] != "nothing" else ():
            key, register = own.split("=")
            self.words[key] = words_of(register)[key]
        self.colors = color_words(manner["register"], manner["colours"])
        self.hedge = HEDGES.get(manner["hedging"])
        self.behind = manner["details"] == "behind"
        self.pair = manner["pairs"] == "pair"
        self.order = ORDERS.get(manner["order"])
        self.omits = frozenset(manner["omits"].split("+"))
        power = LENGTH_POWER[manner["length"]]
        self.chances = {key: chance**power for key, chance in CHANCES.items()}


def select(attributes: dict[str, str], speech: Speech, draw: Callable[[], float]) -> dict[str, str]:
    """Choose the fields to mention: by chance, by length, and without what this annotator never mentions."""
    told = {}
    for name, value in attributes.items():
        if name == "gender":
            if speech.manner["gender"] == "told":
                told[name] = value
            continue
        chance = speech.chances.get(f"{name}={value}", speech.chances.get(name, 0.0))
        if name not in speech.omits and draw() < chance:
            told[name] = value
    for name in ("shoes", "bag", "upper"):
        if f"{name}_kind" in speech.omits and f"{name}_colour" in told and told.get(name) != "none":
            told.pop(name, None)
    for name in ("shoes", "bag"):
        if name in speech.omits:
            told.pop(name, None)
            told.pop(f"{name}_colour", None)
    return settle(told, attributes)


def settle(told: dict[str, str], attributes: dict[str, str]) -> dict[str, str]:
    """Drop what cannot be mentioned alone: color or length of an unmentioned garment, a bald head's color."""
    if "headwear" not in told:
        told.pop("headwear_colour", None)
    if "lower" not in told:
        told.pop("lower_length", None)
    if told.get("hair_length") == "bald":
        told.pop("hair_colour", None)
    return told


def items_of(told: dict[str, str], speech: Speech) -> tuple[list[Item], dict[str, str]]:
    """Build the things to mention, in the usual order of ITEMS, and what they convey (colors as written)."""
    conveyed = dict(told)
    for name in ("headwear", "upper", "lower", "shoes", "bag"):
        if (shade := told.get(f"{name}_colour")) is not None:
            conveyed[f"{name}_colour"] = speech.colors[shade][1]
    items = [
        item for item in (_hair(told, speech), *(_thing(name, told, speech) for name in ITEMS[1:])) if item
    ]
    return items, conveyed


def _hair(told: dict[str, str], speech: Speech) -> Item | None:
    length, color = told.get("hair_length"), told.get("hair_colour")
    if length is None and color is None:
        return None
    word = speech.words[f"hair_length:{length}"] if length else ""
    tail = [speech.words[f"hair_colour:{color}"]] if color else []
    if length == "bald":
        return Item("hair", "head", [word])
    if word == "ponytail":
        return Item("hair", word, tail)
    return Item("hair", "hair", ([word] if word else []) + tail)


def _thing(name: str, told: dict[str, str], speech: Speech) -> Item | None:
    value, shade = told.get(name), told.get(f"{name}_colour")
    if value == "none":
        return Item(name, ABSENT_NOUNS[name], absent=True)
    if name == "upper":
        details = [f"{part}:{told[part]}" for part in ("upper_pattern", "sleeve") if part in told]
    else:
        details = [f"{part}:{told[part]}" for part in ("lower_length",) if name == "lower" and part in told]
    if value is None and shade is None and not details:
        return None
    noun = speech.words[f"{name}:{value}" if value else f"part:{name}"]
    color = [speech.colors[shade][0]] if shade else []
    if speech.behind and name == "upper":
        return Item(name, noun, color, [BEHIND[key] for key in details], pair=speech.pair)
    adjectives = [speech.words[key] for key in details]
    return Item(name, noun, adjectives + color if name == "lower" else color + adjectives, pair=speech.pair)


def person_words(told: dict[str, str], speech: Speech) -> str:
    """Return the person without an article: "slim man", "person"."""
    who = speech.words[f"gender:{told['gender']}" if "gender" in told else "part:person"]
    return f"{speech.words['build:' + told['build']]} {who}" if "build" in told else who


def scene_words(told: dict[str, str], speech: Speech) -> list[str]:
    """Return what the person does and how it is seen: ["walking", "seen from behind"]."""
    return [speech.words[f"{name}:{told[name]}"] for name in ("action", "view") if name in told]
