"""The attribute parser reads back what annotators mention, attaches colors to the right noun, and survives anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_world_text import random_person

from ham.world.annotators import annotator_population, plain_description, short_description
from ham.world.attributes import FIELDS
from ham.world.lexicon import PHRASES as WORDS_OF
from ham.world.parser import parse, score, score_content
from ham.world.parser_words import known_word, one_slip

CASES = {
    "A man with short black hair wearing a navy jacket, blue jeans and white sneakers.": {
        "gender": "man",
        "hair_length": "short",
        "hair_colour": "black",
        "upper": "jacket",
        "upper_colour": "navy",
        "lower": "jeans",
        "lower_colour": "blue",
        "shoes": "sneakers",
        "shoes_colour": "white",
    },
    "The girl's jacket is dark blue and striped. Her skirt is short and red; her shoes are white.": {
        "gender": "woman",
        "upper": "jacket",
        "upper_colour": "navy",
        "upper_pattern": "striped",
        "lower": "skirt",
        "lower_length": "short",
        "lower_colour": "red",
        "shoes_colour": "white",
    },
    "hair: long silver; top: silver tee; bag: no bag; hand: nothing in hand": {
        "hair_length": "long",
        "hair_colour": "grey",
        "upper": "t-shirt",
        "upper_colour": "light grey",
        "bag": "none",
        "carried": "none",
    },
    "She has a ginger ponytail, dark glasses and a woolly hat, no bag": {
        "gender": "woman",
        "hair_length": "ponytail",
        "hair_colour": "red",
        "glasses": "sunglasses",
        "headwear": "beanie",
        "bag": "none",
    },
    "a lass with a shoulder bag and shoulder-length hair": {
        "gender": "woman",
        "bag": "shoulder bag",
        "hair_length": "shoulder",
    },
    "bloke, navy-coloured jumper with checks, short trousers": {
        "gender": "man",
        "upper": "sweater",
        "upper_colour": "navy",
        "upper_pattern": "checked",
        "lower": "trousers",
        "lower_length": "short",
    },
    "A bald man without a hat, his hair is black": {
        "gender": "man",
        "hair_length": "bald",
        "headwear": "none",
    },
    "There is no hat. There is a red cap.": {"headwear": "none"},  # what is denied keeps no color
    "green": {},
    "A phone that is red, with short sleeves": {"carried": "phone", "sleeve": "short"},
    "A man in flip flops and a black bracelet, wearing jeans.": {
        "gender": "man",
        "shoes": "sandals",
        "lower": "jeans",
    },
    "wearing jeans, black and white gloves": {"lower": "jeans"},
    "a skirt, a red leather bracelet and a white tee; her necklace is green": {
        "lower": "skirt",
        "upper": "t-shirt",
        "upper_colour": "white",
        "gender": "woman",
    },
    "a black leather jacket, grey knee patch shorts and blue flip flop": {
        "upper": "jacket",
        "upper_colour": "black",
        "lower": "shorts",
        "lower_colour": "grey",
        "shoes": "sandals",
        "shoes_colour": "blue",
    },
    "A bloke in a red and grey striped polo shirt, black trousers and a green tie.": {
        "gender": "man",
        "upper": "shirt",
        "upper_colour": "red",
        "upper_second_colour": "grey",
        "upper_pattern": "striped",
        "lower": "trousers",
        "lower_colour": "black",
        "neckwear": "tie",
        "neckwear_colour": "green",
    },
    "A blue, white and pink plaid blouse with olive/brown boots": {
        "upper": "blouse",
        "upper_colour": "blue",
        "upper_second_colour": "white",
        "upper_pattern": "checked",
        "shoes": "boots",
        "shoes_colour": "dark green",
    },
    "She wears a yellow dress with brown dots, knee-length, and a black belt.": {
        "gender": "woman",
        "upper": "dress",
        "upper_colour": "yellow",
        "upper_second_colour": "brown",
        "upper_pattern": "dotted",
        "lower_length": "knee",
        "belt": "belt",
        "belt_colour": "black",
    },
    "grey shorts with white stripes and a plaid skirt": {"lower": "shorts", "lower_colour": "grey"},
    "A boy in a navy vest over a white shirt and beige shorts": {
        "gender": "man",
        "upper": "vest",
        "upper_colour": "navy",
        "inner_colour": "white",
        "lower": "shorts",
        "lower_colour": "beige",
    },
    "A red shirt under an open black jacket, orange socks": {
        "upper": "jacket",
        "upper_colour": "black",
        "inner_colour": "red",
        "socks": "socks",
        "socks_colour": "orange",
    },
    "Her green coat has a pink top underneath, a handbag over her left arm and a cup in the right hand.": {
        "gender": "woman",
        "upper": "coat",
        "upper_colour": "green",
        "bag": "handbag",
        "bag_side": "left",
        "carried": "cup",
        "carried_side": "right",
    },
    "His left shoe is untied, a watch on the right wrist": {"gender": "man", "watch": "watch"},
    "He has short curly hair and is wearing all black. The sneakers seem to be red.": {
        "gender": "man",
        "hair_length": "short",
        "shoes": "sneakers",
        "shoes_colour": "red",
    },
    "A long-haired girl; black lettering on a pale pink tee, writing something": {
        "gender": "woman",
        "hair_length": "long",
        "upper": "t-shirt",
        "upper_colour": "pink",
        "upper_pattern": "logo",
    },
    "a grey tank top with white writing, blue jean shorts, yellow flipflops": {
        "upper": "t-shirt",
        "upper_colour": "grey",
        "upper_pattern": "logo",
        "lower": "shorts",
        "lower_colour": "blue",
        "shoes": "sandals",
        "shoes_colour": "yellow",
    },
    "walking away from the camera in a short sleeved tie dye shirt and dress pants": {
        "action": "walking",
        "view": "back",
        "sleeve": "short",
        "upper": "shirt",
        "lower": "trousers",
    },
    "BLACK JACKTE AND BLUE JEENS, wearing a tee with a logo": {
        "upper": "jacket",
        "upper_colour": "black",
        "lower": "jeans",
        "lower_colour": "blue",
        "upper_pattern": "logo",
    },
}


@pytest.mark.parametrize("caption", CASES, ids=lambda caption: caption[:30])
def test_captions_read_by_hand(caption: str) -> None:
    """Written for this test: what each of them says, and what it only seems to say."""
    assert parse(caption) == CASES[caption]


@pytest.mark.parametrize("spread", [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_reads_what_annotators_mention(spread: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    said = [
        writer.describe(random_person(rng), rng) for writer in annotator_population(2, "p", 2000, *spread)
    ]
    result = score([one.text for one in said], [one.mentioned for one in said])
    assert result["f1"] >= 0.99
    assert all(shares["f1"] >= 0.98 for shares in result["per_field"].values()), result["per_field"]


@pytest.mark.parametrize("describe", [plain_description, short_description])
def test_reads_plain_and_short_captions(describe) -> None:
    rng = np.random.default_rng(1)
    said = [describe(random_person(rng), rng) for _ in range(1000)]
    assert score([one.text for one in said], [one.mentioned for one in said])["f1"] >= 0.99


def test_a_caption_of_somebody_else_scores_low() -> None:
    rng = np.random.default_rng(2)
    people = [random_person(rng) for _ in range(500)]
    captions = [plain_description(person).text for person in people]
    assert score(captions, people)["precision"] == 1.0
    assert score(captions, people[1:] + people[:1])["precision"] < 0.45


def test_content_asks_no_recall_of_what_goes_without_saying() -> None:
    """claims: gender, headwear (both true); told of what is worth telling: gender, not the jacket; an average build is not."""
    person = {"gender": "man", "upper": "jacket", "build": "average", "headwear": "none"}
    assert score_content(["a man without a hat"], [person]) == pytest.approx(
        {"precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    )
    assert score_content([], []) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_score_by_hand() -> None:
    truths = [
        {"gender": "man", "upper": "jacket", "upper_colour": "navy"},
        {"gender": "woman", "lower": "skirt"},
    ]
    result = score(["a man in a blue jacket", "a man in a red skirt"], truths)
    # claims: gender, upper, upper_colour (blue fits navy) | gender (wrong), lower, lower_colour (not in the truth)
    assert (result["precision"], result["recall"], result["f1"]) == pytest.approx((4 / 6, 4 / 5, 8 / 11))
    assert result["per_field"]["gender"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5})
    assert result["per_field"]["lower_colour"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert "shoes" not in result["per_field"]
    assert score([], []) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "per_field": {}}
    with pytest.raises(ValueError, match="2 captions but 1 truths"):
        score(["a", "b"], [{}])


def test_slips_of_the_pen() -> None:
    assert [
        one_slip("jacket", other)
        for other in ("jaket", "jackett", "jacker", "jakcet", "acket", "jackal", "packer")
    ] == [True, True, True, True, True, False, False]
    assert known_word("bakcpack") == "backpack" and known_word("umberlla") == "umbrella"
    assert (
        known_word("toted") == "toted" and known_word("xyzzyx") == "xyzzyx" and known_word("shrt") == "shrt"
    )


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_junk_gives_only_known_values(text: str) -> None:
    check_values(parse(text))


PHRASES = sorted(
    {phrase for row in WORDS_OF.values() for phrase in row}
    | {"a", "with", "and", "no", "is", ",", ".", ";", ":", "-", "'", "his", "-coloured"}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PHRASES), max_size=30))
def test_word_salad_gives_only_known_values(words: list[str]) -> None:
    check_values(parse(" ".join(words)))


def check_values(found: dict[str, str]) -> None:
    colors = set(FIELDS["upper_colour"]) | {"grey", "green", "blue"}
    for name, value in found.items():
        assert value in (colors if name.endswith("_colour") and name != "hair_colour" else FIELDS[name])


def test_truncated_captions_never_say_more() -> None:
    rng = np.random.default_rng(3)
    for writer in annotator_population(8, "t", 200):
        said = writer.describe(random_person(rng), rng)
        words = said.text.split(" ")
        cut = parse(" ".join(words[: int(rng.integers(1, len(words)))]))
        assert sum(said.mentioned.get(name) == value for name, value in cut.items()) >= len(cut) - 1
