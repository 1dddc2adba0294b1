"""How often annotators mention what they see, and what a complete description mentions."""

from __future__ import annotations

# How often an annotator mentions a field at length 1; "field=value" goes before "field".
CHANCES = {
    "build": 0.2,
    "build=average": 0.02,
    "hair_length": 0.68,
    "hair_colour": 0.8,
    "headwear": 0.85,
    "headwear=none": 0.004,
    "headwear_colour": 0.9,
    "glasses": 0.62,
    "glasses=none": 0.002,
    "upper": 0.99,
    "upper_colour": 0.98,
    "upper_pattern": 0.75,
    "upper_pattern=plain": 0.004,
    "upper_pattern=logo": 0.93,
    "upper_pattern=color-block": 0.2,
    "upper_second_colour": 0.9,
    "inner_colour": 0.75,
    "sleeve": 0.55,
    "sleeve=long": 0.2,
    "neckwear": 0.68,
    "neckwear=none": 0.002,
    "neckwear_colour": 0.85,
    "watch": 0.42,
    "watch=none": 0.001,
    "belt": 0.33,
    "belt=none": 0.002,
    "belt_colour": 0.85,
    "lower": 0.985,
    "lower_colour": 0.97,
    "lower_length": 0.45,
    "lower_length=long": 0.03,
    "shoes": 0.85,
    "shoes_colour": 0.93,
    "socks": 0.42,
    "socks=none": 0.002,
    "socks_colour": 0.9,
    "bag": 0.85,
    "bag=none": 0.004,
    "bag_colour": 0.88,
    "bag_side": 0.65,
    "carried": 0.8,
    "carried=none": 0.002,
    "carried_side": 0.65,
    "view": 0.07,
    "action": 0.2,
    "scene": 0.2,
}
# What a complete description leaves out.
UNREMARKABLE = {
    "build": "average",
    "headwear": "none",
    "glasses": "none",
    "neckwear": "none",
    "watch": "none",
    "belt": "none",
    "socks": "none",
    "upper_pattern": "plain",
    "sleeve": "long",
    "lower_length": "long",
    "bag": "none",
    "carried": "none",
}
SELDOM_TOLD = ("bag_side", "carried_side")
LENGTH_POWER = {"brief": 3.2, "short": 1.9, "medium": 1.0, "long": 0.5, "thorough": 0.22}  # of the chance


def worth_telling(attributes: dict[str, str]) -> dict[str, str]:
    """Return attributes without those that nobody has to mention (no hat, an average build): the truth for recall."""
    return {
        name: value
        for name, value in attributes.items()
        if UNREMARKABLE.get(name) != value and name not in SELDOM_TOLD
    }
