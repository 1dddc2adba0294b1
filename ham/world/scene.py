"""Everything about one image except the person, and what of the person can be seen in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ham.world.figure import HELD_UP
from ham.world.frequencies import TUCKED

# place of a camera -> what may be behind a person there
SURROUNDINGS = {
    "campus": ("", "grass", "stairs", "wall"),
    "street": ("street", "street", "crosswalk", "wall"),
    "mall": ("", "", "stairs"),
    "station": ("", "stairs", "wall"),
    "park": ("", "grass", "grass"),
    "plaza": ("", "", "crosswalk", "stairs"),
}


@dataclass(frozen=True)
class Scene:
    """Everything about one image except the person.

    bottom: the height, in body units, at which the image ends. headroom, shift: above the crown and sideways, in body units.
    occluder: none | bottom | left | right, where it begins in `occluder_at`. bag_near: from the side, whether the bag hangs on
    the side of the viewer. surroundings: a value of the field `scene`, or "".
    """

    view: str
    action: str
    mirrored: bool
    bottom: float
    headroom: float
    shift: float
    bag_near: bool
    occluder: str
    occluder_at: float
    surroundings: str = ""


@dataclass(frozen=True)
class Framing:
    """How a dataset's boxes fit its persons: ranges in body units, shares of the images that are cropped or occluded.

    headroom: above the crown; bottom: where the box of a whole person ends (the feet end at 95); shift: largest sideways.
    """

    headroom: tuple[float, float]
    bottom: tuple[float, float]
    shift: float
    cropped: float
    occluded: float


def sample_scene(rng: np.random.Generator, framing: Framing, place: str = "") -> Scene:
    """Sample viewpoint, action, crop, occlusion and what is behind the person in the camera's place ("" for any)."""
    place = place or str(rng.choice(tuple(SURROUNDINGS)))
    view = ("front", "back", "side")[int(rng.choice(3, p=(0.42, 0.27, 0.31)))]
    action = "walking" if rng.random() < 0.6 else "standing"
    cropped = rng.random() < framing.cropped
    bottom = rng.uniform(62.0, 90.0) if cropped else rng.uniform(*framing.bottom)
    occluder, at = "none", 0.0
    if not cropped and rng.random() < framing.occluded:
        occluder = ("bottom", "left", "right")[int(rng.integers(3))]
        at = rng.uniform(62.0, 86.0) if occluder == "bottom" else rng.uniform(6.5, 11.0)
    return Scene(
        view,
        action,
        bool(rng.random() < 0.5),
        float(bottom),
        float(rng.uniform(*framing.headroom)),
        float(rng.uniform(-framing.shift, framing.shift)),
        bool(rng.random() < 0.65),
        occluder,
        float(at),
        str(rng.choice(SURROUNDINGS[place])),
    )


def visible_attributes(person: dict[str, str], scene: Scene) -> dict[str, str]:
    """Return the fields that can be seen in the image: what an annotator may write about.

    Left and right are those of the image; from the side nothing hangs left or right of a person.
    """
    seen = {**person, "view": scene.view, "action": scene.action}
    right_of_b = scene.mirrored  # the arm "b", which holds the bag, is drawn at -x
    if person["bag"] not in ("none", "backpack"):
        seen["bag_side"] = "right" if right_of_b else "left"
    if person["carried"] != "none":
        seen["carried_side"] = "left" if right_of_b else "right"
    if scene.surroundings:
        seen["scene"] = scene.surroundings
    hidden = _hidden_by_view(person, scene) | _hidden_by_clothes(person) | _hidden_by_crop(person, scene)
    if scene.occluder in ("left", "right"):
        hidden.add("watch")
        if _side_is_hidden(person, scene):
            hidden |= {"bag", "bag_colour", "bag_side", "carried", "carried_side"}
    return {field: value for field, value in seen.items() if field not in hidden}


def _hidden_by_view(person: dict[str, str], scene: Scene) -> set[str]:
    """Return what the viewpoint hides.

    From behind one sees no glasses, no tie, nothing under a jacket and nothing that a bent arm holds; from the side no tie and
    no bag on the far shoulder; a backpack or an arm hides a printed logo, a backpack the belt behind.
    """
    hidden: set[str] = set()
    if scene.view == "back":
        hidden.add("glasses")
        if person["carried"] != "umbrella":
            hidden |= {"carried", "carried_side"}
        if person["upper"] == "jacket":
            hidden.add("inner_colour")
        if person["bag"] == "backpack":
            hidden |= {"belt", "belt_colour"}
    if scene.view != "front" and person["neckwear"] != "scarf":
        hidden |= {"neckwear", "neckwear_colour"}
    if scene.view == "side":
        hidden |= {"bag_side", "carried_side"}
        if not scene.bag_near and person["bag"] in ("handbag", "shoulder bag"):
            hidden |= {"bag", "bag_colour"}
    logo_is_hidden = scene.view == "side" or (scene.view == "back" and person["bag"] == "backpack")
    if person["upper_pattern"] == "logo" and logo_is_hidden:
        hidden.add("upper_pattern")
    return hidden


def _hidden_by_clothes(person: dict[str, str]) -> set[str]:
    """Return what is hidden from everywhere: a bald head under a hat, a wrist in a sleeve, a waist under a jacket, ankles."""
    hidden: set[str] = set()
    if person["hair_length"] == "bald" and person["headwear"] != "none":
        hidden.add("hair_length")
    if person.get("sleeve", "long") == "long":
        hidden.add("watch")
    if person["upper"] not in TUCKED:
        hidden.add("belt")
    if person["lower_length"] == "long" or person["shoes"] != "sneakers":
        hidden.add("socks")
    return hidden


def _hidden_by_crop(person: dict[str, str], scene: Scene) -> set[str]:
    """Return what lies below the image's end or behind an occluder at its bottom."""
    end = scene.occluder_at if scene.occluder == "bottom" else scene.bottom
    hidden: set[str] = set()
    if end < 93.0:
        hidden |= {"shoes", "shoes_colour", "socks", "socks_colour"}
    if end < 88.0:
        hidden.add("action")
        if scene.surroundings != "wall":
            hidden.add("scene")
    if end < (90.0 if person["bag"] == "suitcase" else 60.0):
        hidden |= {"bag", "bag_colour", "bag_side"}
    hem = {"short": 62.0, "knee": 75.0, "long": 84.0}[person["lower_length"]]
    if end < hem:
        hidden.add("lower_length")
    if end < min(hem, 75.0):
        hidden.add("lower")  # above the knee shorts may be trousers
    return hidden


def _side_is_hidden(person: dict[str, str], scene: Scene) -> bool:
    """Return whether a post at the image's left or right covers what a hand may hold (either hand)."""
    by_hand = person["bag"] in ("handbag", "shoulder bag", "suitcase") or person["carried"] != "none"
    return by_hand and (scene.view != "side" or person["carried"] in HELD_UP)
