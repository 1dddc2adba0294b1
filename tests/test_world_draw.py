"""The drawn half of the world: what is drawn can be seen, what is said to be hidden cannot, colors survive the camera."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from ham.runtime import numpy_generator
from ham.world.attributes import ABSENT_WITH, COLORS, FIELDS, IMAGE_FIELDS, PERSON_FIELDS, SHADES
from ham.world.camera import Camera, expose, jpeg_bytes, sample_camera
from ham.world.domains import DOMAINS
from ham.world.draw import draw_person
from ham.world.frequencies import LEAST_CONTRAST, TOUCHING, TUCKED, contrast
from ham.world.pen import Cloth, Pen, both_sides, limb_points, oval_points, tint
from ham.world.scene import SURROUNDINGS, Framing, Scene, sample_scene, visible_attributes
from ham.world.wardrobe import Looks, consistent, sample_person, sample_persons, sample_wardrobe

CLEAN = Camera("plaza", (1.0, 1.0, 1.0), 0.0, 1.0, 0.0, 0.0, 95, 0.4)
LOOKS = Looks(1, False)
WOMAN = {
    "gender": "woman",
    "build": "average",
    "hair_length": "shoulder",
    "hair_colour": "brown",
    "headwear": "cap",
    "headwear_colour": "red",
    "glasses": "none",
    "upper": "shirt",
    "upper_colour": "light blue",
    "upper_pattern": "plain",
    "sleeve": "short",
    "neckwear": "none",
    "watch": "none",
    "belt": "none",
    "lower": "skirt",
    "lower_colour": "black",
    "lower_length": "knee",
    "shoes": "sneakers",
    "shoes_colour": "white",
    "socks": "none",
    "bag": "handbag",
    "bag_colour": "orange",
    "carried": "none",
}


def scene(view: str = "front", **changes) -> Scene:
    return replace(Scene(view, "standing", False, 98.0, 6.0, 0.0, True, "none", 0.0), **changes)


def drawn(
    person: dict[str, str], where: Scene, camera: Camera = CLEAN, size_px: tuple[int, int] = (150, 50)
) -> np.ndarray:
    return np.asarray(draw_person(person, LOOKS, where, camera, size_px, np.random.default_rng(5)), dtype=int)


# What a person has as soon as the thing that it belongs to is there.
COMPANIONS = {
    "headwear_colour": "red",
    "bag_colour": "orange",
    "hair_colour": "brown",
    "upper_second_colour": "black",
    "inner_colour": "yellow",
    "neckwear_colour": "purple",
    "belt_colour": "red",
    "socks_colour": "dark green",
    "sleeve": "short",
    "lower": "skirt",
    "lower_colour": "black",
}
# What else must be so that a field applies.
NEEDED = {
    "upper_second_colour": {"upper_pattern": "striped"},
    "inner_colour": {"upper": "vest"},
    "neckwear_colour": {"neckwear": "scarf"},
    "belt_colour": {"belt": "belt"},
    "socks_colour": {"socks": "socks"},
}


def changed(person: dict[str, str], field: str, value: str) -> dict[str, str]:
    """The person with another value, with the colors that come with it."""
    return consistent({**COMPANIONS, **person, **NEEDED.get(field, {}), field: value})


def share_changed(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.abs(a - b).max(axis=2) > 20).mean())


@pytest.mark.parametrize("view", ["front", "back", "side"])
@pytest.mark.parametrize("field", list(PERSON_FIELDS))
def test_every_visible_value_changes_the_picture(field: str, view: str) -> None:
    pictures = {}
    for value in PERSON_FIELDS[field]:
        person = changed(WOMAN, field, value)
        if field in visible_attributes(person, scene(view)):
            pictures[value] = drawn(person, scene(view))
    values = list(pictures)
    for place, value in enumerate(values):
        for other in values[:place]:
            assert share_changed(pictures[value], pictures[other]) > 0.001, (
                f"{field}: {value} looks like {other} from the {view}"
            )
    alone = {("back", "glasses"), ("back", "carried"), ("back", "neckwear"), ("side", "neckwear")}
    assert len(values) >= 2 or (view, field) in alone


@pytest.mark.parametrize(
    ("where", "field", "values"),
    [
        (scene("back"), "glasses", PERSON_FIELDS["glasses"]),
        (scene("back"), "carried", ("none",)),
        (scene(bottom=80.0), "shoes_colour", ("red", "white")),
        (scene(occluder="bottom", occluder_at=64.0), "shoes_colour", ("red", "white")),
        (scene(bottom=70.0), "lower_length", ("knee", "long")),
    ],
)
def test_hidden_fields_do_not_show(where: Scene, field: str, values: tuple[str, ...]) -> None:
    first = drawn(changed(WOMAN, field, values[0]), where)
    for value in values:
        person = changed(WOMAN, field, value)
        assert field not in visible_attributes(person, where)
        assert share_changed(first, drawn(person, where)) < 0.012


@pytest.mark.parametrize(
    ("view", "field", "clothes"),
    [
        ("front", "watch", {"sleeve": "long"}),
        ("front", "belt", {"upper": "sweater", "sleeve": "long"}),
        ("back", "belt", {"bag": "backpack"}),
        ("front", "socks", {"lower": "trousers", "lower_length": "long"}),
        ("front", "socks", {"shoes": "boots"}),
        ("back", "neckwear", {"neckwear": "tie", "upper": "vest"}),
        ("side", "neckwear", {"neckwear": "tie", "upper": "vest"}),
        ("back", "inner_colour", {"upper": "jacket"}),
    ],
)
def test_clothes_and_views_hide_what_is_under_or_behind(
    view: str, field: str, clothes: dict[str, str]
) -> None:
    person = consistent({**COMPANIONS, **WOMAN, **clothes})
    assert field not in visible_attributes(person, scene(view))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("view", ["front", "back"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bag", "handbag"),
        ("bag", "shoulder bag"),
        ("bag", "suitcase"),
        ("carried", "umbrella"),
        ("carried", "phone"),
    ],
)
def test_left_and_right_are_those_of_the_image(field: str, value: str, view: str, mirrored: bool) -> None:
    where = scene(view, mirrored=mirrored)
    person = consistent({**COMPANIONS, **WOMAN, "bag": "none", field: value})
    seen = visible_attributes(person, where)
    if field not in seen:
        assert f"{field}_side" not in seen
        return
    without = consistent({**person, field: "none"})
    difference = np.abs(drawn(person, where) - drawn(without, where)).max(axis=2) > 20
    x = float(np.nonzero(difference)[1].mean())
    assert seen[f"{field}_side"] == ("left" if x < difference.shape[1] / 2 else "right")
    assert abs(x - difference.shape[1] / 2) > 3


def test_sides_are_only_named_where_there_is_one() -> None:
    assert {"bag_side", "carried_side"} & set(visible_attributes(WOMAN, scene("side"))) == set()
    assert "bag_side" not in visible_attributes({**WOMAN, "bag": "backpack"}, scene())
    both = visible_attributes({**WOMAN, "carried": "cup"}, scene())
    assert {both["bag_side"], both["carried_side"]} == {"left", "right"}


def test_surroundings_can_be_told_apart() -> None:
    pictures = {"": drawn(WOMAN, scene())}
    for value in IMAGE_FIELDS["scene"]:
        pictures[value] = drawn(WOMAN, scene(surroundings=value))
        assert visible_attributes(WOMAN, scene(surroundings=value))["scene"] == value
    for one, other in combinations(pictures, 2):
        assert share_changed(pictures[one], pictures[other]) > 0.08, f"{one} looks like {other}"
    assert "scene" not in visible_attributes(WOMAN, scene())
    assert "scene" not in visible_attributes(WOMAN, scene(surroundings="street", bottom=80.0))
    assert set(IMAGE_FIELDS["scene"]) == {
        value for values in SURROUNDINGS.values() for value in values if value
    }


@pytest.mark.parametrize("view", ["front", "back", "side"])
@pytest.mark.parametrize(
    ("upper", "pattern"),
    [
        (upper, pattern)
        for upper in PERSON_FIELDS["upper"]
        for pattern in ("striped", "checked", "dotted", "color-block")
        if pattern != "color-block" or upper not in ("vest", "jacket", "dress")  # not worn
    ],
)
def test_second_color_shows_on_every_top(upper: str, pattern: str, view: str) -> None:
    person = consistent(
        {**COMPANIONS, **WOMAN, "bag": "none", "headwear": "none", "upper": upper, "sleeve": "long"}
    )
    person["upper_pattern"], person["upper_second_colour"] = pattern, "purple"
    pixels = drawn(consistent(person), scene(view))
    assert (np.abs(pixels - SHADES["purple"][1]).max(axis=2) < 40).sum() > 25


def test_visible_attributes_by_hand() -> None:
    everything = visible_attributes(WOMAN, scene())
    assert everything == {**WOMAN, "view": "front", "action": "standing", "bag_side": "left"}
    far = visible_attributes(WOMAN, scene("side", bag_near=False))
    assert set(everything) - set(far) == {"bag", "bag_colour", "bag_side", "neckwear"}
    cut = visible_attributes(WOMAN, scene(bottom=70.0))
    assert set(everything) - set(cut) == {"shoes", "shoes_colour", "socks", "action", "lower", "lower_length"}
    assert "hair_length" not in visible_attributes(changed(WOMAN, "hair_length", "bald"), scene())
    assert visible_attributes({**WOMAN, "carried": "umbrella"}, scene("back"))["carried"] == "umbrella"
    assert "carried" not in visible_attributes({**WOMAN, "carried": "phone"}, scene("back"))
    logo = {**WOMAN, "upper_pattern": "logo"}
    assert "upper_pattern" in visible_attributes(logo, scene("back"))
    assert "upper_pattern" not in visible_attributes({**logo, "bag": "backpack"}, scene("back"))


def test_visible_attributes_are_in_the_vocabulary() -> None:
    rng = numpy_generator(0, "test")
    wardrobe = sample_wardrobe(rng, "mixed", 1.0)
    often_hidden = Framing((5.0, 7.0), (96.0, 101.0), 2.0, cropped=0.3, occluded=0.3)
    for _ in range(300):
        seen = visible_attributes(
            sample_person(rng, wardrobe),
            sample_scene(rng, often_hidden),
        )
        assert all(value in FIELDS[field] for field, value in seen.items())
        assert {"gender", "upper", "upper_colour", "view"} <= set(seen)


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_navy_stays_apart_from_black_and_greens_from_each_other(domain: str) -> None:
    for index in range(12):
        rng = numpy_generator(index, "cameras", domain)
        camera = sample_camera(rng, DOMAINS[domain].style)
        shown = {}
        for shade in ("navy", "black", "dark green", "dark red", "white", "light grey"):
            plain = Image.new("RGB", (24, 24), SHADES[shade][1])
            shown[shade] = np.asarray(expose(plain, camera, rng), dtype=float).mean(axis=(0, 1))
        assert shown["navy"][2] - shown["navy"][0] > shown["black"][2] - shown["black"][0] + 15
        assert shown["dark green"][1] - shown["black"][1] > 20
        assert shown["dark red"][0] - shown["black"][0] > 35
        assert shown["white"].mean() - shown["light grey"].mean() > 10


def test_pictures_have_the_asked_size_and_repeat() -> None:
    for size_px in ((64, 22), (144, 52), (384, 128)):
        picture = draw_person(WOMAN, LOOKS, scene(), CLEAN, size_px, np.random.default_rng(1))
        assert (picture.height, picture.width, picture.mode) == (*size_px, "RGB")
    again = [
        jpeg_bytes(draw_person(WOMAN, LOOKS, scene(), CLEAN, (90, 30), np.random.default_rng(1)), 80)
        for _ in range(2)
    ]
    assert again[0] == again[1]


def test_mirrored_scene_mirrors_the_figure() -> None:
    canvases = []
    for mirrored in (False, True):
        canvas = Image.new("RGB", (60, 60), (255, 255, 255))
        Pen(canvas, 1.0, (30, 0), mirrored).box(5, 10, 20, 40, (200, 30, 30), edge=False)
        canvases.append(np.asarray(canvas))
    assert (canvases[0][20, 36:50] == (200, 30, 30)).all() and (canvases[1][20, 11:24] == (200, 30, 30)).all()
    assert (canvases[1][20, 36:50] == 255).all()


def test_outlines_by_hand() -> None:
    assert both_sides([(1, 0), (2, 5)]) == [(1, 0), (2, 5), (-2, 5), (-1, 0)]
    xs, ys = zip(*oval_points(10, 20, 3, 5))
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((7, 13, 15, 25))
    xs, ys = zip(*limb_points((0, 0), (0, 10), 2, 1))
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((-2, 2, -2, 11))
    assert tint((100, 200, 0), 0.5) == (50, 100, 0)
    assert tint((55, 155, 255), 1.5) == (155, 205, 255)


@pytest.mark.parametrize("pattern", ["striped", "checked", "dotted"])
def test_patterned_cloth_keeps_its_color_in_the_majority(pattern: str) -> None:
    canvas = Image.new("RGB", (120, 120), (255, 0, 255))
    Pen(canvas, 3.0, (60, 0)).box(-15, 5, 15, 35, Cloth((36, 88, 200), pattern), edge=False)
    patch = np.asarray(canvas)[20:100, 20:100].reshape(-1, 3)
    own = float((patch == (36, 88, 200)).all(axis=1).mean())
    accent = float((patch == (236, 236, 232)).all(axis=1).mean())
    assert own > 0.5 and accent > 0.12 and own + accent == pytest.approx(1.0)


# ---------------------------------------------------------------------------------------------------------------- wardrobe


def test_persons_wear_what_goes_together() -> None:
    rng = numpy_generator(3, "test")
    for season in ("summer", "winter", "mixed"):
        wardrobe = sample_wardrobe(rng, season, 0.8)
        for person in (each.attributes for each in sample_persons(rng, wardrobe, 300, 0, 0.5)):
            assert list(person) == [field for field in PERSON_FIELDS if field in person]
            for field in PERSON_FIELDS:
                beside, values = ABSENT_WITH.get(field, ("gender", ()))
                assert (field in person) == (person[beside] not in values)
            assert person.get("sleeve", "long") == "long" or person["upper"] in TUCKED
            for_women = {"skirt", "leggings", "dress", "blouse", "heels"}
            assert person["gender"] == "woman" or not for_women & set(person.values())
            assert person["belt"] == "none" or person["upper"] in TUCKED
            assert person["neckwear"] != "tie" or person["upper"] in ("shirt", "vest", "jacket")
            bare_legs = person["lower_length"] != "long"
            assert person["socks"] == "none" or (bare_legs and person["shoes"] == "sneakers")
            for one, other in map(sorted, TOUCHING):
                if one in person and other in person:
                    assert contrast(person[one], person[other]) >= LEAST_CONTRAST
            assert not (person["upper"] == "coat" and person["lower_length"] != "long")
            assert person["lower_length"] == "long" or person.get("lower", "dress") in (
                "shorts",
                "skirt",
                "dress",
            )
            assert person["lower_length"] != "long" or person.get("lower") != "shorts"


def test_look_alikes_differ_in_one_to_three_things() -> None:
    wardrobe = sample_wardrobe(numpy_generator(0, "test"), "mixed", 0.5)
    persons = sample_persons(numpy_generator(1, "test"), wardrobe, 60, 7, 1.0)
    assert [person.person_id for person in persons] == list(range(7, 67))
    for place, person in enumerate(persons[1:], start=1):
        nearest = min(
            sum(person.attributes.get(field) != earlier.attributes.get(field) for field in PERSON_FIELDS)
            for earlier in persons[:place]
        )
        assert nearest <= 7  # three things, their colors, and socks that go with other shoes
    strangers = sample_persons(numpy_generator(1, "test"), wardrobe, 60, 0, 0.0)
    distances = [
        sum(a.attributes.get(field) != b.attributes.get(field) for field in PERSON_FIELDS)
        for a, b in pairwise(strangers)
    ]
    assert np.mean(distances) > 8


def test_domains_dress_differently() -> None:
    def tops(season: str) -> float:
        rng = numpy_generator(0, "season", season)
        wardrobe = sample_wardrobe(rng, season, 0.0)
        return float(np.mean([sample_person(rng, wardrobe)["upper"] in TUCKED for _ in range(400)]))

    assert tops("summer") > 0.55 > 0.3 > tops("winter")
    one, two = (
        sample_wardrobe(numpy_generator(0, "wardrobe", name), "mixed", 0.8).tilt["upper_colour"]
        for name in "ab"
    )
    assert len(one) == len(COLORS) and np.abs(np.array(one) - np.array(two)).max() > 0.3
