"""Manners: the true styles of simulated annotators, as habits with a frequency each. The word is used for nothing else.

A manner is a `dict[str, str]` with these fields:

    syntax       the sentence grammar, one of SYNTAXES
    register     the column of the lexicon: plain, casual, formal, american, british, fashion
    order        clothes | hair | shoes | bag (what comes first), or random (another order in every caption)
    colours      exact ("navy") | simple ("blue") | tones ("dark blue") | colored ("navy colored")
    length       brief | short | medium | long | thorough: how much is mentioned
    omits        what this annotator never mentions: names of OMISSIONS joined by "+", or "nothing"
    details      before ("a striped shirt") | behind ("a shirt with stripes")
    pairs        bare ("blue jeans") | pair ("a pair of blue jeans")
    gender       told ("man") | untold ("person")
    commas       plain ("a, b and c") | oxford ("a, b, and c") | ands ("a and b and c")
    punctuation  full | open (no final stop)
    capitals     sentence | first (only the caption's first letter) | lower | upper
    blanks       single | double (two after a stop) | stray (sometimes two anywhere) | loose (one before a comma or stop)
    hedging      none | seems | appears | probably | possibly | maybe
    typos        none | some | many
    flavor       the kind of remark that says nothing about the picture: none | a group of `ham.world.embellish`
    idiolect     own words, "lower:trousers=slacks+bag:backpack=rucksack", or "nothing"
    pets         a number that decides on the favorite remarks; 0: no remarks and no words but the usual ones

`ham.world.groups` has the frequencies of each benchmark's annotators.
"""

from __future__ import annotations

import numpy as np

from ham.runtime import numpy_generator
from ham.world.groups import EVERY_PROFILE, FLATTER, PROFILES
from ham.world.lexicon import PHRASES, REGISTERS

SYNTAXES = (
    "full",
    "template",
    "wears",
    "pronoun",
    "has",
    "with",
    "this",
    "splice",
    "body",
    "doing",
    "dressed",
    "in",
    "bare",
    "fragments",
    "possessive",
    "runon",
    "relative",
    "there",
    "participle",
    "picture",
    "observer",
)

# field -> its values; the first is everybody's when the spread is 0
SYNTAX_HABITS: dict[str, tuple[str, ...]] = {
    "syntax": SYNTAXES,
    "order": ("clothes", "hair", "random", "shoes", "bag"),
    "length": ("medium", "short", "brief", "long", "thorough"),
    "details": ("before", "behind"),
    "pairs": ("bare", "pair"),
    "gender": ("told", "untold"),
    "commas": ("plain", "oxford", "ands"),
    "punctuation": ("full", "open"),
    "capitals": ("sentence", "first", "lower", "upper"),
    "blanks": ("single", "double", "stray", "loose"),
}
WORD_HABITS: dict[str, tuple[str, ...]] = {
    "register": REGISTERS,
    "colours": ("exact", "simple", "tones", "colored"),
    "hedging": ("none", "seems", "appears", "probably", "possibly", "maybe"),
    "typos": ("none", "some", "many"),
    "flavor": ("none", "fabric", "fit", "detail", "style", "activity", "age", "brand"),
}
HABITS = SYNTAX_HABITS | WORD_HABITS
GROUP_TILT = 0.15  # how far groups of one seed differ from another's: deviation of the log frequencies

MOST_OWN_WORDS = 5
# Concepts for which an annotator may have a word of its own, each as often as the next.
_OWN = (
    "lower",
    "shoes",
    "bag",
    "upper",
    "glasses",
    "headwear",
    "carried",
    "upper_pattern",
    "build",
    "socks",
    "colour",
)
IDIOLECT = tuple(key for key in PHRASES if key.split(":")[0] in _OWN and len(PHRASES[key]) > 1)


STRATA = (
    40  # annotators among whom each habit is spread evenly, so that small groups have its frequencies too
)


def profiles_of(group: str) -> tuple[str, ...]:
    """Return the profiles of a group's annotators, in turn: a benchmark's own, or those of all benchmarks."""
    return (group,) if group in PROFILES else EVERY_PROFILE


def manner_frequencies(seed: int, group: str, profile: str | None = None) -> dict[str, dict[str, float]]:
    """Return for each habit the frequency of each value among the annotators of `group`, at full spread.

    profile: one of several that the group's annotators have; of the first if not given.
    """
    name = profile or profiles_of(group)[0]
    power = 1.0 if group in PROFILES else FLATTER
    rng = numpy_generator(seed, "manner frequencies", group, name)
    found = {}
    for field, values in HABITS.items():
        shares = np.array([PROFILES[name].frequencies[field].get(value, 0.0) for value in values]) ** power
        shares *= np.exp(GROUP_TILT * rng.standard_normal(len(values)))
        found[field] = dict(zip(values, (shares / shares.sum()).tolist()))
    return found


def even_points(seed: int, group: str, count: int) -> np.ndarray:
    """Return a point in [0, 1) for each annotator and habit, evenly spread among every STRATA annotators.

    Returns: [count, habits]; the first rows do not depend on `count`.
    """
    blocks = []
    for block in range(-(-count // STRATA)):
        rng = numpy_generator(seed, "manner points", group, block)
        strata = rng.permuted(np.tile(np.arange(STRATA)[:, None], (1, len(HABITS))), axis=0)
        within = (strata * 0.754878 + np.arange(len(HABITS)) * 0.569840 + block * 0.618034) % 1.0
        blocks.append((strata + within) / STRATA)
    return np.concatenate(blocks)[:count]


def draw_manner(
    rng: np.random.Generator,
    frequencies: dict[str, dict[str, float]],
    omissions: dict[str, float],
    points: np.ndarray,
    vocabulary_spread: float,
    syntax_spread: float,
) -> dict[str, str]:
    """Sample the habits of one annotator.

    Each habit is the common one with probability 1 - spread and else drawn by its frequency: so a spread of 0 makes everybody
    alike in words (vocabulary_spread) or in sentences, order and omissions (syntax_spread). points: of `even_points`.
    """
    manner = {}
    for (field, values), point in zip(HABITS.items(), points.tolist()):
        spread = syntax_spread if field in SYNTAX_HABITS else vocabulary_spread
        below = np.cumsum(list(frequencies[field].values()))
        drawn = min(int(np.searchsorted(below, point, side="right")), len(values) - 1)
        manner[field] = values[drawn] if rng.random() < spread else values[0]
    if manner["syntax"] == "pronoun":
        manner["gender"] = "told"
    omitted = [name for name, chance in omissions.items() if rng.random() < chance * syntax_spread]
    manner["omits"] = "+".join(omitted) or "nothing"
    own = []
    count = int(rng.integers(0, MOST_OWN_WORDS + 1))
    for place in sorted(rng.choice(len(IDIOLECT), size=count, replace=False).tolist()):
        phrases = PHRASES[IDIOLECT[place]]
        phrase = phrases[int(rng.integers(len(phrases)))]
        if rng.random() < vocabulary_spread:
            own.append(f"{IDIOLECT[place]}={phrase}")
    manner["idiolect"] = "+".join(own) or "nothing"
    pets = int(rng.integers(1, 10_000))
    manner["pets"] = str(pets) if rng.random() < vocabulary_spread else "0"
    return manner


def hint_of(manner: dict[str, str]) -> str:
    """Return a manner in 8 to 14 words of a closed vocabulary: "(full; casual words; exact colours; hair first; brief)"."""
    parts = [
        manner["syntax"],
        f"{manner['register']} words",
        f"{manner['colours']} colours",
        "random order" if manner["order"] == "random" else f"{manner['order']} first",
        manner["length"],
    ]
    flags = [
        word
        for word, unusual in (
            ("doubt", manner["hedging"] != "none"),
            ("person", manner["gender"] == "untold"),
            ("behind", manner["details"] == "behind"),
            (
                "capital" if manner["capitals"] == "first" else manner["capitals"],
                manner["capitals"] != "sentence",
            ),
            ("pair", manner["pairs"] == "pair"),
            (manner["flavor"], manner["flavor"] != "none"),
            (manner["commas"], manner["commas"] != "plain"),
            (manner["blanks"], manner["blanks"] != "single"),
            ("open", manner["punctuation"] == "open"),
            ("typos", manner["typos"] != "none"),
        )
        if unusual
    ]
    return "(" + "; ".join(parts + flags[:5]) + ")"
