"""Manners: the true styles of simulated annotators, as habits with a frequency each. The word is used for nothing else.

A manner is a `dict[str, str]` with these fields:

    syntax       the sentence grammar, one of SYNTAXES
    register     the column of the lexicon: plain, casual, formal, american, british, fashion
    order        hair | clothes | shoes | bag (what comes first), or random (another order in every caption)
    colours      exact ("navy") | simple ("blue") | tones ("dark blue") | coloured ("navy-coloured")
    length       brief | medium | thorough: how much is mentioned
    omits        what this annotator never mentions: names of OMISSIONS joined by "+", or "nothing"
    opening      words before the description, or "none"
    closing      words after it, or "none"
    hedging      none | seems | looks | probably | possibly | maybe
    details      before ("a striped shirt") | behind ("a shirt with stripes")
    pairs        bare ("blue jeans") | pair ("a pair of blue jeans")
    gender       told ("man") | untold ("person")
    punctuation  full | open (no final stop) | semicolons | dots | shout (!)
    capitals     sentence | first (only the caption's first letter) | lower
    typos        none | some | many
    idiolect     words taken from another register, "lower:trousers=american+bag:backpack=british", or "nothing"
"""

from __future__ import annotations

import numpy as np

from ham.runtime import numpy_generator
from ham.world.lexicon import REGISTERS, ROWS

SYNTAXES = (
    "full",
    "long",
    "participle",
    "fragments",
    "list",
    "observer",
    "this",
    "possessive",
    "there",
    "chain",
    "spoken",
    "steps",
    "passive",
    "keyvalue",
    "search",
    "story",
    "relative",
)

# field -> its values from the commonest to the rarest; the first is everybody's when the spread is 0
SYNTAX_HABITS: dict[str, tuple[str, ...]] = {
    "syntax": SYNTAXES,
    "order": ("hair", "clothes", "random", "shoes", "bag"),
    "length": ("medium", "thorough", "brief"),
    "details": ("before", "behind"),
    "pairs": ("bare", "pair"),
    "gender": ("told", "untold"),
    "punctuation": ("full", "open", "semicolons", "dots", "shout"),
    "capitals": ("sentence", "lower", "first"),
}
WORD_HABITS: dict[str, tuple[str, ...]] = {
    "register": REGISTERS,
    "colours": ("exact", "simple", "tones", "coloured"),
    "opening": ("none", "in this", "here", "in the", "as the"),
    "closing": ("none", "that is all", "nothing else", "hope"),
    "hedging": ("none", "seems", "probably", "looks", "maybe", "possibly"),
    "typos": ("none", "some", "many"),
}
# How steeply the frequency falls with the rank: frequency ~ 1 / rank ** exponent (Zipf).
EXPONENTS = {
    "syntax": 1.0,
    "order": 0.8,
    "length": 0.7,
    "details": 1.2,
    "pairs": 1.5,
    "gender": 4.0,
    "punctuation": 1.4,
    "capitals": 1.3,
    "register": 0.8,
    "colours": 0.9,
    "opening": 1.8,
    "closing": 2.6,
    "hedging": 1.8,
    "typos": 2.0,
}
GROUP_TILT = (
    0.4  # how far groups of annotators (those of one dataset) differ: deviation of the log frequencies
)

# How often an annotator of medium length mentions a field; "field=value" goes before "field".
CHANCES = {
    "build": 0.6,
    "build=average": 0.15,
    "hair_length": 0.9,
    "hair_colour": 0.92,
    "headwear": 0.97,
    "headwear=none": 0.04,
    "headwear_colour": 0.95,
    "glasses": 0.9,
    "glasses=none": 0.03,
    "upper": 0.98,
    "upper_colour": 0.98,
    "upper_pattern": 0.93,
    "upper_pattern=plain": 0.06,
    "sleeve": 0.8,
    "sleeve=long": 0.2,
    "lower": 0.98,
    "lower_colour": 0.97,
    "lower_length": 0.75,
    "lower_length=long": 0.05,
    "shoes": 0.93,
    "shoes_colour": 0.93,
    "bag": 0.98,
    "bag=none": 0.03,
    "bag_colour": 0.95,
    "carried": 0.95,
    "carried=none": 0.03,
    "view": 0.35,
    "action": 0.55,
}
# What a complete description leaves out.
UNREMARKABLE = {
    "build": "average",
    "headwear": "none",
    "glasses": "none",
    "upper_pattern": "plain",
    "sleeve": "long",
    "lower_length": "long",
    "bag": "none",
    "carried": "none",
}
LENGTH_POWER = {"brief": 2.2, "medium": 1.0, "thorough": 0.35}  # the chance is raised to this power
# What an annotator may never mention, with the probability that it is so.
OMISSIONS = {
    "build": 0.35,
    "view": 0.5,
    "action": 0.3,
    "shoes": 0.08,
    "glasses": 0.12,
    "sleeve": 0.3,
    "lower_length": 0.3,
    "hair_length": 0.06,
    "hair_colour": 0.06,
    "upper_pattern": 0.05,
    "shoes_kind": 0.15,
    "bag_kind": 0.1,
    "upper_kind": 0.06,
    "bag_colour": 0.06,
}
# Concepts for which an annotator may prefer the word of another register.
IDIOLECT = tuple(
    key
    for key in ROWS
    if key.split(":")[0]
    in ("lower", "shoes", "bag", "upper", "glasses", "headwear", "carried", "upper_pattern", "build")
)


def _frequencies(values: tuple[str, ...], field: str, tilt: np.ndarray) -> np.ndarray:
    frequency = np.arange(1, len(values) + 1, dtype=float) ** -EXPONENTS[field] * np.exp(tilt)
    return frequency / frequency.sum()


def manner_frequencies(seed: int, group: str) -> dict[str, dict[str, float]]:
    """Return for each habit the frequency of each value among the annotators of `group`, at full spread."""
    rng = numpy_generator(seed, "manner frequencies", group)
    return {
        field: dict(
            zip(values, _frequencies(values, field, GROUP_TILT * rng.standard_normal(len(values))).tolist())
        )
        for field, values in (SYNTAX_HABITS | WORD_HABITS).items()
    }


def draw_manner(
    rng: np.random.Generator,
    frequencies: dict[str, dict[str, float]],
    vocabulary_spread: float,
    syntax_spread: float,
) -> dict[str, str]:
    """Sample the habits of one annotator.

    Each habit is the common one with probability 1 - spread and else drawn by its frequency: so a spread of 0 makes everybody
    alike in words (vocabulary_spread) or in sentences, order and omissions (syntax_spread).
    """
    manner = {}
    for habits, spread in ((SYNTAX_HABITS, syntax_spread), (WORD_HABITS, vocabulary_spread)):
        for field, values in habits.items():
            drawn = rng.choice(len(values), p=list(frequencies[field].values()))
            manner[field] = values[drawn] if rng.random() < spread else values[0]
    omitted = [name for name, chance in OMISSIONS.items() if rng.random() < chance * syntax_spread]
    manner["omits"] = "+".join(omitted) or "nothing"
    own = []
    for key in sorted(rng.choice(len(IDIOLECT), size=int(rng.integers(0, 5)), replace=False).tolist()):
        register = REGISTERS[int(rng.integers(len(REGISTERS)))]
        if rng.random() < vocabulary_spread:
            own.append(f"{IDIOLECT[key]}={register}")
    manner["idiolect"] = "+".join(own) or "nothing"
    return manner


def worth_telling(attributes: dict[str, str]) -> dict[str, str]:
    """Return attributes without those that nobody mentions (no hat, an average build): the truth for a caption's recall."""
    return {name: value for name, value in attributes.items() if UNREMARKABLE.get(name) != value}


def hint_of(manner: dict[str, str]) -> str:
    """Return a manner in 8 to 12 words of a closed vocabulary: "(list; casual words; exact colours; hair first; brief)"."""
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
            ("opening", manner["opening"] != "none"),
            ("behind", manner["details"] == "behind"),
            ("capital" if manner["capitals"] == "first" else "lower", manner["capitals"] != "sentence"),
            (manner["punctuation"], manner["punctuation"] != "full"),
            ("pair", manner["pairs"] == "pair"),
            ("typos", manner["typos"] != "none"),
        )
        if unusual
    ]
    return "(" + "; ".join(parts + flags[:4]) + ")"
