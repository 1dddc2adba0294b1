"""The words, order and hedges of one annotator, looked up once from its manner."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ham.world.chances import CHANCES, LENGTH_POWER
from ham.world.lexicon import PHRASES, RARER, color_words, words_of

ITEMS = (
    "hair",
    "headwear",
    "glasses",
    "neckwear",
    "upper",
    "belt",
    "lower",
    "watch",
    "socks",
    "shoes",
    "bag",
    "carried",
)
_WORN_LAST = ("neckwear", "belt", "watch", "headwear", "glasses")
ORDERS = {
    "hair": ITEMS,
    "clothes": ("upper", "lower", "socks", "shoes", *_WORN_LAST, "hair", "bag", "carried"),
    "shoes": (
        "shoes",
        "socks",
        "lower",
        "belt",
        "upper",
        "neckwear",
        "watch",
        "glasses",
        "headwear",
        "hair",
        "carried",
        "bag",
    ),
    "bag": ("bag", "carried", "upper", "lower", "socks", "shoes", *_WORN_LAST, "hair"),
}
COLORED = tuple(name for name in ITEMS if name not in ("hair", "glasses", "watch", "carried"))
LEAST_POWER = 0.8  # what goes without saying is seldom said by the thorough too
RARE_WORD = 0.05  # chance that a thing or a color is called by any of its names, not by the annotator's own


class Hedge(NamedTuple):
    """One way to hedge: before a phrase, as the verb of one thing or of many, before a bare phrase."""

    before: str
    one: str
    many: str
    bare: str


HEDGES = {
    "seems": Hedge("what seems to be", "seems", "seem", "seemingly"),
    "appears": Hedge("what appears to be", "appears", "appear", "apparently"),
    "probably": Hedge("what is probably", "is probably", "are probably", "probably"),
    "possibly": Hedge("possibly", "is possibly", "are possibly", "possibly"),
    "maybe": Hedge("maybe", "is maybe", "are maybe", "maybe"),
}


class Speech:
    """The words of one manner, looked up once: concept -> phrase, shade -> (phrase, color conveyed)."""

    def __init__(self, manner: dict[str, str]) -> None:
        self.manner = manner
        self.rare = RARE_WORD if manner["pets"] != "0" else 0.0
        self.words = words_of(manner["register"])
        self.colors = color_words(manner["register"], manner["colours"])
        for own in manner["idiolect"].split("+") if manner["idiolect"] != "nothing" else ():
            key, phrase = own.split("=")
            self.words[key] = phrase
            if key.startswith("colour:") and manner["colours"] == "exact":
                self.colors[key[7:]] = conveying(phrase, key[7:])
        self.hedge = HEDGES.get(manner["hedging"])
        self.behind = manner["details"] == "behind"
        self.pair = manner["pairs"] == "pair" or manner["syntax"] == "template"
        self.order = ORDERS.get(manner["order"])
        omits = set(manner["omits"].split("+"))
        omits |= {"hair_length", "hair_colour"} if "hair" in omits else set()
        self.omits = frozenset(omits | ({"bag_side", "carried_side"} if "sides" in omits else set()))
        power = LENGTH_POWER[manner["length"]]
        self.chances = {
            key: chance ** (max(power, LEAST_POWER) if "=" in key else power)
            for key, chance in CHANCES.items()
        }

    def word(self, key: str, draw: Callable[[], float]) -> str:
        """Return the annotator's word for a concept, now and then another one."""
        if self.rare and draw() < self.rare:
            return PHRASES[key][int(draw() * len(PHRASES[key]))]
        return self.words[key]

    def color(self, shade: str, draw: Callable[[], float]) -> tuple[str, str]:
        """Return a shade's word and the color that it conveys."""
        if self.rare and draw() < self.rare:
            rarer = RARER[f"colour:{shade}"]
            return rarer[int(draw() * len(rarer))], shade
        return self.colors[shade]


def conveying(phrase: str, shade: str) -> tuple[str, str]:
    """Return a phrase for a shade with the color that it conveys: a plain color's name no more than that color."""
    return phrase, phrase if phrase in ("green", "red", "blue") else shade
