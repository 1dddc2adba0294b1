"""From attributes to noun phrases: the things that an annotator mentions, in its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ham.world.lexicon import BEHIND, MASS_NOUNS, PAIRED, SINGULAR
from ham.world.speech import COLORED, ITEMS, Hedge, Speech

# Adjectives only for before a noun -> what follows a verb instead.
BEFORE_ONLY = {
    "logo": "with a logo",
    "slogan": "with a slogan",
    "graphic": "with a graphic",
    "printed": "with a print",
}
BEFORE_ONLY |= {"polka-dot": "with polka dots", "polka dot": "with polka dots"}
ABSENT_NOUNS = {
    "headwear": "no hat",
    "glasses": "no glasses",
    "neckwear": "no scarf",
    "watch": "no watch",
    "belt": "no belt",
    "socks": "no socks",
    "bag": "no bag",
    "carried": "nothing in hand",
}
SIDES = {
    "handbag": ("in {his} {side} hand", "on {his} {side} arm"),
    "shoulder bag": ("over {his} {side} shoulder", "on {his} {side} shoulder"),
    "suitcase": ("on {his} {side} side", "with {his} {side} hand"),
    None: ("on {his} {side} side", "on the {side}"),
}


@dataclass
class Item:
    """One thing to mention: adjectives, noun, what follows it, and whether it takes an article.

    look, make: remarks before the adjectives ("tight") and before the noun ("leather"); over: what is worn beneath it; tail:
    where it is held.
    """

    name: str
    noun: str
    adjectives: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    absent: bool = False
    pair: bool = False
    hedge: Hedge | None = None
    look: str = ""
    make: str = ""
    over: str = ""
    tail: str = ""

    @property
    def plural(self) -> bool:
        return self.name in PAIRED and self.noun not in SINGULAR and not self.absent

    @property
    def bare(self) -> str:
        """The phrase without an article: "navy striped jacket", "no hat"."""
        if self.absent:
            return self.noun
        words = [self.look, *self.adjectives, self.make, self.noun, *self.after()]
        return " ".join(word for word in words if word)

    def after(self) -> list[str]:
        """Return what follows the noun: "with buttons", "over a white shirt", "in the left hand"."""
        return ([f"with {' and '.join(self.behind)}"] if self.behind else []) + [self.over, self.tail]

    @property
    def phrase(self) -> str:
        """The phrase with its article and hedge: "a navy jacket", "a pair of blue jeans", "what seems to be a red cap"."""
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
    def subject(self) -> str:
        """The thing without its adjectives: "leather jacket"."""
        return " ".join(word for word in (self.look, self.make, self.noun) if word)

    @property
    def predicate(self) -> str:
        """What the thing is like: "is navy and striped", "are blue", "is probably red with a logo"."""
        verb = "are" if self.plural else "is"
        if self.hedge:
            verb = self.hedge.many if self.plural else self.hedge.one
        like = [word for word in self.adjectives if word not in BEFORE_ONLY]
        tail = [BEFORE_ONLY[word] for word in self.adjectives if word in BEFORE_ONLY]
        return " ".join(word for word in (verb, series(like) if like else "", *tail, *self.after()) if word)


def series(phrases: list[str], last: str = " and ") -> str:
    """Join phrases as "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + last + phrases[-1]


def with_article(words: str) -> str:
    """Return `words` with "a" or "an" before them."""
    return ("an " if words[0].lower() in "aeiou" else "a ") + words


def items_of(
    told: dict[str, str], speech: Speech, draw: Callable[[], float], vague: dict[str, str] | None = None
) -> tuple[list[Item], dict[str, str]]:
    """Build the things to mention, in the usual order of ITEMS, and what they convey (colors as written).

    vague: thing -> "dark" or "light" where its color is not told.
    """
    conveyed, colors = dict(told), dict(vague or {})
    for name in (*COLORED, "upper_second", "inner"):
        if (shade := told.get(f"{name}_colour")) is not None:
            colors[name], conveyed[f"{name}_colour"] = speech.color(shade, draw)
    items = [_hair(told, speech, draw), *(_thing(name, told, speech, colors, draw) for name in ITEMS[1:])]
    return [item for item in items if item], conveyed


def _hair(told: dict[str, str], speech: Speech, draw: Callable[[], float]) -> Item | None:
    length, color = told.get("hair_length"), told.get("hair_colour")
    if length is None and color is None:
        return None
    word = speech.word(f"hair_length:{length}", draw) if length else ""
    tail = [speech.word(f"hair_colour:{color}", draw)] if color else []
    if length == "bald":
        return Item("hair", "head", [word])
    if word.endswith(("ponytail", "pony tail")):
        return Item("hair", word, tail)
    return Item("hair", "hair", ([word] if word else []) + tail)


def _thing(
    name: str, told: dict[str, str], speech: Speech, colors: dict[str, str], draw: Callable[[], float]
) -> Item | None:
    value, color = told.get(name), colors.get(name)
    if value == "none":
        return Item(name, ABSENT_NOUNS[name], absent=True)
    details = [part for part in DETAILS.get(name, ()) if part in told]
    if value is None and color is None and not details:
        return None
    item = Item(name, speech.word(f"{name}:{value}" if value else f"part:{name}", draw), pair=speech.pair)
    if name == "upper":
        _dress_up(item, told, speech, colors, draw)
    else:
        item.adjectives = [color] if color else []
    if "lower_length" in told and (name == "lower" or value == "dress"):
        item.adjectives.insert(0, speech.word(f"lower_length:{told['lower_length']}", draw))
    if side := told.get(f"{name}_side"):
        where = SIDES.get("handbag" if name == "carried" else value, SIDES[None])
        item.tail = where[0 if draw() < 0.7 else 1].format(his=HIS.get(told.get("gender"), "the"), side=side)
    return item


DETAILS = {"upper": ("upper_pattern", "sleeve"), "lower": ("lower_length",)}
HIS = {"man": "his", "woman": "her"}


def _dress_up(
    item: Item, told: dict[str, str], speech: Speech, colors: dict[str, str], draw: Callable[[], float]
) -> None:
    """Add colors, pattern, sleeves and what is beneath to the upper garment."""
    color, second = colors.get("upper"), colors.get("upper_second")
    pattern = told.get("upper_pattern")
    behind = speech.behind and (pattern is None or pattern == "color-block" or second is None or draw() < 0.8)
    if second and not (behind and pattern):
        color = f"{color} and {second}"
    words = [color] if color else []
    if pattern and behind:
        item.behind.append(BEHIND[f"upper_pattern:{pattern}"].format(f"{second} " if second else ""))
    elif pattern:
        words.append(speech.word(f"upper_pattern:{pattern}", draw))
    if told.get("sleeve") and speech.behind:
        item.behind.append(BEHIND[f"sleeve:{told['sleeve']}"])
    elif told.get("sleeve"):
        words.insert(int(draw() * 2) if words else 0, speech.word(f"sleeve:{told['sleeve']}", draw))
    item.adjectives = words
    if "inner" in colors:
        beneath = with_article(f"{colors['inner']} {speech.words['part:inner']}")
        if speech.behind:
            item.behind.append(f"{beneath} underneath")
        else:
            item.over = f"over {beneath}"


def person_words(told: dict[str, str], speech: Speech, draw: Callable[[], float] | None = None) -> str:
    """Return the person without an article: "slim man", "person"."""
    key = f"gender:{told['gender']}" if "gender" in told else "part:person"
    who = speech.word(key, draw) if draw else speech.words[key]
    return f"{speech.words['build:' + told['build']]} {who}" if "build" in told else who


def scene_words(told: dict[str, str], speech: Speech, draw: Callable[[], float]) -> list[str]:
    """Return what the person does, where and how it is seen: ["walking on the grass", "facing away"]."""
    action, scene, view = (
        speech.word(f"{name}:{told[name]}", draw) if name in told else ""
        for name in ("action", "scene", "view")
    )
    doing = " ".join(word for word in (action, scene) if word)
    return [word for word in (doing, view) if word]
