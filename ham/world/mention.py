"""What an annotator mentions: fields chosen by chance, by the length of its captions and by what it never mentions."""

from __future__ import annotations

from collections.abc import Callable

from ham.world.attributes import SHADES
from ham.world.speech import Speech

NEEDS = {  # a field that cannot be mentioned without one of others
    "headwear_colour": ("headwear",),
    "neckwear_colour": ("neckwear",),
    "belt_colour": ("belt",),
    "socks_colour": ("socks",),
    "inner_colour": ("upper",),
    "upper_second_colour": ("upper_colour",),
    "bag_side": ("bag", "bag_colour"),
    "carried_side": ("carried",),
}
KINDS = ("shoes", "bag", "upper")  # an annotator may call them just "shoes", "bag", "top"
TEMPLATE_TELLS_LESS = ("hair_length", "hair_colour", "build", "action", "view", "scene", "lower_length")
VAGUE = 0.45  # chance that a thing without a color is called dark or light
DARK, LIGHT = 95, 170  # mean of RGB below and above which it is


def select(attributes: dict[str, str], speech: Speech, draw: Callable[[], float]) -> dict[str, str]:
    """Choose the fields to mention."""
    told = {}
    for name, value in attributes.items():
        if name == "gender":
            if speech.manner["gender"] == "told":
                told[name] = value
            continue
        chance = speech.chances.get(f"{name}={value}", speech.chances.get(name, 0.0))
        if speech.manner["syntax"] == "template" and name in TEMPLATE_TELLS_LESS:
            chance *= 0.25
        if name not in speech.omits and draw() < chance:
            told[name] = value
    for name in KINDS:
        whole = told.get(name) in ("none", "dress")
        if f"{name}_kind" in speech.omits and f"{name}_colour" in told and not whole:
            told.pop(name, None)
    for name in ("shoes", "bag"):
        if name in speech.omits or (name not in told and f"{name}_kind" not in speech.omits):
            told.pop(name, None)
            told.pop(f"{name}_colour", None)
    return settle(told, attributes)


def settle(told: dict[str, str], attributes: dict[str, str]) -> dict[str, str]:
    """Drop what cannot be mentioned alone: the color or length of an unmentioned garment, a bald head's color."""
    for name, others in NEEDS.items():
        if not any(told.get(other, "none") != "none" for other in others):
            told.pop(name, None)
    if "lower" not in told and told.get("upper") != "dress":
        told.pop("lower_length", None)
    if told.get("hair_length") == "bald":
        told.pop("hair_colour", None)
    return told


def vague_colors(
    told: dict[str, str], attributes: dict[str, str], draw: Callable[[], float]
) -> dict[str, str]:
    """Return "dark" or "light" for some things that are mentioned without their color; it conveys nothing."""
    found = {}
    for name in ("upper", "lower", "shoes", "bag"):
        shade = attributes.get(f"{name}_colour")
        if shade is None or f"{name}_colour" in told or told.get(name, "none") == "none" or draw() > VAGUE:
            continue
        brightness = sum(SHADES[shade][1]) / 3
        if brightness < DARK or brightness > LIGHT:
            word = "dark" if brightness < DARK else "light"
            found[name] = f"{word} colored" if draw() < 0.5 else word
    return found
