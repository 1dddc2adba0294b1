"""Remarks that say nothing a picture could contradict: fabrics, fits, brands, ages, moods, prints."""

from __future__ import annotations

from collections.abc import Callable

from ham.world.lexicon import PHRASES
from ham.world.phrases import Item, with_article
from ham.world.rare_words import POOLS

FAVORITE = 0.55  # chance of a remark of the annotator's flavor: its favorite phrases and the common ones
OTHER = 0.35  # chance of one more, any phrase of any kind
OTHERS = {
    "style": 22,
    "detail": 13,
    "fabric": 12,
    "brand": 14,
    "role": 12,
    "occasion": 11,
    "activity": 9,
    "fit": 4,
    "age": 4,
}
LIKE = {"role": "dressed like a {}", "occasion": "dressed for {}"}
LENGTH_FACTOR = {"brief": 0.7, "short": 0.85, "medium": 1.0, "long": 1.2, "thorough": 1.4}
PETS = 2  # favorite phrases of an annotator in each pool
PET = 0.45  # chance that a remark of its flavor is one of them
PRINTS = ("a {} on it", "a {} on the front", "a picture of a {} on the chest", "a {} design", "a {} print")
WORDS = ("the word {} on it", "the word {} on the front", "{} written on the chest", "{} lettering")
REMARK = 0.02  # chance of a last sentence
PRINT = 0.8  # chance that a logo's subject is named
ACTIONS = frozenset(
    phrase.split()[0] for value in ("walking", "standing") for phrase in PHRASES[f"action:{value}"]
)
PRINTED = frozenset(PHRASES["upper_pattern:logo"])
_OTHER_KINDS = tuple(kind for kind, share in OTHERS.items() for _ in range(share))
PLACED = {  # kind of remark -> the things that it fits
    "fabric": ("upper", "lower", "shoes", "bag", "headwear", "neckwear"),
    "fit": ("upper", "lower"),
    "style": ("upper", "lower", "shoes", "bag", "headwear"),
    "brand": ("shoes", "upper", "bag"),
    "detail": ("upper", "lower", "shoes", "bag", "hair"),
}


def pick(pool: str, pets: int, draw: Callable[[], float]) -> str:
    """Draw a phrase of a pool: a favorite of the annotator or a common one (pets > 0), or any (0)."""
    phrases = POOLS[pool]
    if pets == 0:
        return phrases[int(draw() * len(phrases))]
    if draw() < PET:
        return phrases[(pets * (7 + len(pool)) + int(draw() * PETS) * 31) % (len(phrases) // 3)]
    return phrases[int(len(phrases) ** draw()) - 1]


def fill(form: str, phrase: str) -> str:
    """Return a form with a phrase in it, and the right article before it."""
    return form.replace("a {}", with_article(phrase)).format(phrase)


def embellish(
    items: list[Item], who: str, doing: list[str], manner: dict[str, str], draw: Callable[[], float]
) -> tuple[str, list[str]]:
    """Add remarks to things, to the person or to what it does; return the person and the doing with theirs."""
    if manner["pets"] == "0":
        return who, doing
    factor = LENGTH_FACTOR[manner["length"]]
    remarks = []
    if manner["flavor"] != "none" and draw() < FAVORITE * factor:
        remarks.append((manner["flavor"], int(manner["pets"])))
    if draw() < OTHER * factor:
        remarks.append((_OTHER_KINDS[int(draw() * len(_OTHER_KINDS))], 0))
    print_on(items, draw)
    for kind, pets in remarks:
        if kind == "age":
            who = f"{pick('age', pets, draw)} {who}"
        elif kind in LIKE:
            doing = [*doing, fill(LIKE[kind], pick(kind, pets, draw))]
        elif kind == "activity":
            doing = active(doing, pets, draw)
        else:
            fitting = [
                item for item in items if item.name in PLACED[kind] and not item.absent and plain(item)
            ]
            if fitting:
                remark_on(fitting[int(draw() * len(fitting))], kind, pets, draw)
    return who, doing


def plain(item: Item) -> bool:
    """Return whether a thing has no remark yet; a bald head takes none."""
    return not (item.look or item.make) and item.noun != "head"


def remark_on(item: Item, kind: str, pets: int, draw: Callable[[], float]) -> None:
    """Add one remark to a thing."""
    if item.name == "hair":
        if draw() < 0.5:
            item.make = pick("hair", pets, draw)
        else:
            item.behind.append(pick("hair_detail", pets, draw))
    elif kind == "detail":
        item.behind.append(pick(f"{item.name}_detail", pets, draw))
    elif kind in ("fabric", "brand"):
        named = kind == "brand" and not pets and draw() < 0.75
        item.make = pick("place_word" if named else kind, pets, draw)
    else:
        word = pick(kind, pets, draw)
        item.look = f"{pick('very', pets, draw)} {word}" if draw() < 0.12 else word


def print_on(items: list[Item], draw: Callable[[], float]) -> None:
    """Write what a logo shows."""
    for item in items:
        if item.name != "upper" or not any(
            word in " ".join(item.adjectives + item.behind) for word in PRINTED
        ):
            continue
        if draw() < PRINT:
            pool, forms = ("print", PRINTS) if draw() < 0.6 else ("place_word", WORDS)
            item.behind.append(fill(forms[int(draw() * len(forms))], pick(pool, 0, draw)))


def active(doing: list[str], pets: int, draw: Callable[[], float]) -> list[str]:
    """Return what the person does with a remark: "walking slowly", "looking down"."""
    if doing and doing[0].split()[0] in ACTIONS and draw() < 0.5:
        first, _, rest = doing[0].partition(" ")
        return [f"{first} {pick('mood', pets, draw)} {rest}".strip(), *doing[1:]]
    what = pick("activity", pets, draw)
    if " " not in what and draw() < 0.4:
        what = f"{what} {pick('mood', 0, draw)}"
    return [*doing, what]


def closing(manner: dict[str, str], draw: Callable[[], float]) -> list[str]:
    """Return a last sentence that says nothing checkable, or nothing at all."""
    return [pick("remark", 0, draw)] if manner["pets"] != "0" and draw() < REMARK else []
