"""Annotators: legible, persistent, various, repeatable; the knobs turn what they say; the syntax can be told from the text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ham.runtime import UsageError
from ham.world.annotators import (
    Annotator,
    annotator_population,
    hint_of,
    plain_description,
    short_description,
)
from ham.world.attributes import ABSENT_WITH, FIELDS, agree
from ham.world.chances import worth_telling
from ham.world.groups import PROFILES
from ham.world.lexicon import COLORS, PHRASES, REGISTERS, color_words
from ham.world.manners import HABITS, SYNTAX_HABITS, SYNTAXES, WORD_HABITS, manner_frequencies
from ham.world.parser import parse
from ham.world.rare_words import POOLS
from ham.world.syntax import syntax_of
from scripts.style_tables.captions import simulate_captions
from scripts.style_tables.surface import surface_figures

COMMON = {habit: values[0] for habit, values in HABITS.items()}
COMMON |= {"omits": "nothing", "idiolect": "nothing", "pets": "0"}
MAN = {
    "gender": "man",
    "build": "slim",
    "hair_length": "short",
    "hair_colour": "black",
    "upper": "jacket",
    "upper_colour": "navy",
    "lower": "jeans",
    "lower_colour": "orange",
    "shoes": "boots",
    "shoes_colour": "brown",
    "bag": "backpack",
    "bag_colour": "red",
    "headwear": "none",
    "glasses": "none",
    "upper_pattern": "striped",
    "carried": "phone",
    "upper_second_colour": "white",
    "inner_colour": "light grey",
    "carried_side": "left",
    "scene": "grass",
    "action": "walking",
    "view": "back",
}


def random_person(rng: np.random.Generator, hidden: float = 0.05) -> dict[str, str]:
    """Draw a pedestrian as drawn ones are: dependent fields absent where they do not apply, some fields hidden from view."""
    person = {name: values[rng.integers(len(values))] for name, values in FIELDS.items()}
    for name in ("headwear", "glasses", "neckwear", "watch", "belt", "socks", "bag", "carried"):
        if rng.random() < 0.6:
            person[name] = "none"
    if person["upper"] not in ("t-shirt", "shirt", "blouse", "dress"):
        person["sleeve"] = "long"
    if person["lower"] in ("trousers", "jeans", "leggings") and person["upper"] != "dress":
        person["lower_length"] = "long"
    for dependent, (name, values) in ABSENT_WITH.items():
        if person.get(name) in values:
            person.pop(dependent, None)
    return {name: value for name, value in person.items() if rng.random() >= hidden}


def describe_all(people: list[Annotator], each: int, rng: np.random.Generator) -> list[tuple[Annotator, str]]:
    return [(writer, writer.describe(random_person(rng), rng).text) for writer in people for _ in range(each)]


@pytest.fixture(scope="module")
def staff() -> list[Annotator]:
    return annotator_population(3, "staff", 1500)


def test_captions_pass_the_captioners_filter(staff: list[Annotator]) -> None:
    lengths = []
    for _, text in describe_all(staff, 2, np.random.default_rng(0)):
        lengths.append(len(text.split()))
        assert not re.search(r"[<>\n{}]|/n|   ", text), text
        assert text == text.strip()
    assert min(lengths) >= 8 and max(lengths) <= 130
    assert 20 <= np.mean(lengths) <= 38


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "attributes", [{}, {"gender": "woman"}, {"hair_length": "bald"}, {"upper_colour": "red"}, {"bag": "none"}]
)
def test_even_little_gives_eight_words(syntax: str, attributes: dict[str, str]) -> None:
    writer = Annotator("a", COMMON | {"syntax": syntax, "length": "brief"}, 1.0)
    said = writer.describe(attributes, np.random.default_rng(1))
    assert len(said.text.split()) >= 8
    assert set(said.mentioned) <= set(attributes)
    assert len(plain_description(attributes).text.split(" ")) >= 8


def test_thorough_manners_word_for_word() -> None:
    """Hand-written: one man in several syntaxes, by somebody who tells everything but what goes without saying."""
    telling = {name: value for name, value in MAN.items() if value != "none"}

    def write(**manner: str) -> str:
        writer = Annotator("a", COMMON | {"length": "thorough"} | manner, 1.0)
        writer.speech.chances.update(dict.fromkeys(FIELDS, 1.0))
        return writer.describe(telling, np.random.default_rng(2)).text

    assert write() == (
        "The slim man is wearing a navy and white striped jacket over a light grey shirt, orange jeans and brown boots. He has "
        "short black hair. He is carrying a red backpack. He is holding a phone in his left hand. He is walking on the grass "
        "and facing away."
    )
    assert write(syntax="template", order="shoes", register="british", colours="tones") == (
        "A bloke wearing a pair of dark brown boots, a pair of bright orange jeans, a dark blue and white stripy jacket over a "
        "light gray top, a mobile in his left hand and a bright red rucksack."
    )
    assert write(syntax="fragments", capitals="lower", colours="simple", punctuation="open") == (
        "slim man, blue and white striped jacket over a grey shirt, orange jeans, brown boots, short black hair, red backpack, "
        "phone in his left hand, walking on the grass, facing away"
    )
    assert write(syntax="splice", order="bag", register="formal", details="behind", commas="oxford") == (
        "A slender gentleman is wearing a dark blue jacket with white stripes and a light grey shirt underneath, orange denim "
        "trousers, and brown boots, he carries a red knapsack, he holds a mobile phone in his left hand, his hair is short and "
        "black, he is walking on the lawn and seen from behind."
    )
    assert write(
        syntax="possessive", register="american", pairs="pair", colours="colored", blanks="double"
    ) == (
        "The thin man's jacket is navy blue colored and white and striped over a light gray colored undershirt.  His jeans are "
        "orange colored.  His boots are brown colored.  His hair is short and black.  His backpack is red colored.  He has a "
        "cell phone in his left hand.  He is walking on the grass and facing away."
    )
    assert write(syntax="has", gender="untold", capitals="upper").startswith(
        "THE SLIM PERSON HAS ON A NAVY AND WHITE STRIPED"
    )
    assert plain_description(MAN).text == (
        "A slim man with short black hair wearing a navy and white striped jacket over a light grey shirt, orange jeans and "
        "brown boots, carrying a red backpack, holding a phone, walking on the grass and facing away."
    )


def test_articles_and_agreement(staff: list[Annotator]) -> None:
    wrong = re.compile(
        r"\ba [aeiou]|\ban [^aeiou]|\ba (?:[^\s,]+ )?(?:jeans|trousers|pants|boots|shorts|glasses|shoes)\b"
        r"|(?:jeans|trousers|boots) is\b|\b(?:jacket|coat|hair) are\b|\bhe's|\bthey has\b",
        re.IGNORECASE,
    )
    fine = re.compile(r"(?:pair of|what \w+ (?:to )?(?:be|probably)) [a-z -]+ (?:is|are)\b", re.IGNORECASE)
    careful = [person for person in staff if person.manner["typos"] == "none"]
    for writer, text in describe_all(careful, 2, np.random.default_rng(1)):
        text = " ".join(text.split())
        assert not wrong.search(fine.sub("", text)), (writer.manner["syntax"], text)


def test_mentioned_is_true_and_most_of_what_matters_is_told(staff: list[Annotator]) -> None:
    rng = np.random.default_rng(2)
    told = matters = 0
    for writer in staff:
        person = random_person(rng)
        said = writer.describe(person, rng).mentioned
        assert all(agree(name, value, person[name]) for name, value in said.items())
        worth = worth_telling(person).keys() - {"view"}
        matters += len(worth)
        told += len(worth & said.keys())
    assert 0.55 <= told / matters <= 0.7


def test_the_same_seed_writes_the_same_texts_in_another_process() -> None:
    top = Path(__file__).resolve().parent.parent
    program = (
        "import sys, numpy as np; sys.path.insert(0, 'tests'); from test_world_text import *; "
        "print([t for _, t in describe_all(annotator_population(5, 'g', 20), 3, np.random.default_rng(7))])"
    )
    here = str(
        [text for _, text in describe_all(annotator_population(5, "g", 20), 3, np.random.default_rng(7))]
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": "."},
        cwd=top,
    )
    assert there.stdout.strip() == here
    other = str(
        [text for _, text in describe_all(annotator_population(6, "g", 20), 3, np.random.default_rng(7))]
    )
    assert other != here


def test_what_goes_without_saying() -> None:
    assert worth_telling(
        {"headwear": "none", "build": "average", "sleeve": "long", "bag": "backpack", "view": "side"}
    ) == {"bag": "backpack", "view": "side"}


def test_a_longer_staff_begins_with_the_shorter_one() -> None:
    short, long = annotator_population(1, "g", 10), annotator_population(1, "g", 40)
    assert [person.manner for person in short] == [person.manner for person in long[:10]]
    assert len({str(person.manner) for person in annotator_population(1, "g", 1000)}) > 950
    assert sum(person.weight for person in long) == pytest.approx(1.0)
    assert long[0].weight > 3 * long[-1].weight


def test_the_two_knobs_turn_words_and_sentences_apart() -> None:
    alike = annotator_population(0, "g", 200, vocabulary_spread=0.0, syntax_spread=0.0)
    assert {str(person.manner) for person in alike} == {str(alike[0].manner)}
    words = annotator_population(0, "g", 200, vocabulary_spread=1.0, syntax_spread=0.0)
    sentences = annotator_population(0, "g", 200, vocabulary_spread=0.0, syntax_spread=1.0)
    for habit in SYNTAX_HABITS:
        assert {person.manner[habit] for person in words} == {alike[0].manner[habit]}
        assert len({person.manner[habit] for person in sentences}) > 1
    for habit in WORD_HABITS:
        assert {person.manner[habit] for person in sentences} == {alike[0].manner[habit]}
        assert len({person.manner[habit] for person in words}) > 1
    assert (
        {person.manner["idiolect"] for person in sentences}
        == {"nothing"}
        == {person.manner["omits"] for person in words}
    )
    half = annotator_population(0, "g", 400, vocabulary_spread=0.5, syntax_spread=0.5)
    kinds = [
        len({str(person.manner) for person in staff})
        for staff in (alike, half[:200], annotator_population(0, "g", 200))
    ]
    assert kinds[0] < kinds[1] <= kinds[2]


def test_manners_follow_zipf_with_a_rare_tail() -> None:
    for group in ("CUHK-PEDES", "RSTPReid"):
        frequencies = manner_frequencies(0, group)
        assert all(sum(values.values()) == pytest.approx(1.0) for values in frequencies.values())
        rarest = min(frequencies["syntax"].values()) * min(frequencies["register"].values())
        assert rarest < 0.005 < 0.05 < max(frequencies["syntax"].values())
    assert manner_frequencies(0, "CUHK-PEDES") != manner_frequencies(0, "RSTPReid")


def test_impossible_populations_are_refused() -> None:
    with pytest.raises(UsageError, match=r"syntax_spread is 1\.5"):
        annotator_population(0, "g", 3, syntax_spread=1.5)
    with pytest.raises(UsageError, match="at least 1"):
        annotator_population(0, "g", 0)


# figure -> that of 5,803 real captions (ham/world/README.md has the table), and how far the simulated ones may be from it
REAL_FIGURES = {
    "words, mean": (23.5, 1.1),
    "words, deviation": (7.2, 1.3),
    "words, 5 %": (16, 1.5),
    "words, 95 %": (37, 1.2),
    "sentences": (1.6, 1.3),
    "hedges (seems, appears, probably ...), %": (2.7, 1.9),
    "lower-case start, %": (3.3, 1.7),
    "left or right, %": (10.1, 1.5),
    "two-color things, %": (17.0, 1.5),
    "dress, blouse, vest, belt, watch, socks, scarf, tie, leggings, %": (22.7, 1.6),
    "double blanks, %": (14.4, 1.5),
    "blank before a stop, %": (3.1, 1.7),
    "ten commonest three-word openings, %": (52.4, 1.4),
    "distinct-1 of 20,000 words": (0.051, 1.2),
    "distinct-2 of 20,000 words": (0.257, 1.4),
}


def test_captions_look_like_real_ones() -> None:
    """3,000 captions of two seeds; what is too rare to be counted in so few is bounded from above."""
    texts = [
        one.caption for seed in (0, 1) for one in simulate_captions(1500, 300, 1.0, seed, ("CUHK-PEDES",))
    ]
    figures = surface_figures(texts)
    for name, (real, factor) in REAL_FIGURES.items():
        assert real / factor <= figures[name] <= real * factor, (name, figures[name], real)
    assert figures["colon lists, %"] == 0
    assert figures['"In this picture ..." openings, %'] <= 1 and figures["first person, %"] <= 1
    assert figures["all capitals, %"] <= 2.5
    assert figures["vocabulary"] >= 1300 and figures["vocabulary used once"] >= 0.3 * figures["vocabulary"]


def test_benchmarks_differ_in_length() -> None:
    means = {}
    for group in PROFILES:
        texts = [one.caption for one in simulate_captions(800, 300, 1.0, 0, (group,))]
        means[group] = np.mean([len(text.split()) for text in texts])
    assert means["CUHK-PEDES"] == pytest.approx(23.5, abs=2)
    assert means["ICFG-PEDES"] == pytest.approx(37, abs=3)
    assert means["RSTPReid"] == pytest.approx(26.5, abs=2.5)


def test_frequencies_of_benchmarks_name_every_value() -> None:
    for profile in PROFILES.values():
        assert {habit: set(shares) for habit, shares in profile.frequencies.items()} == {
            habit: set(values) for habit, values in HABITS.items()
        }


FORMS = (
    "a red {} shirt and blue jeans",
    "a {} red shirt, blue jeans",
    "a red shirt, blue jeans with {}",
    "red shirt. {}. blue jeans",
)


@pytest.mark.parametrize("pool", POOLS)
def test_remarks_convey_nothing(pool: str) -> None:
    outfit = {"upper": "shirt", "upper_colour": "red", "lower": "jeans", "lower_colour": "blue"}
    for phrase in POOLS[pool]:
        for form in FORMS if " " not in phrase else FORMS[2:]:
            assert parse(form.format(phrase)) == outfit, form.format(phrase)


def test_every_phrase_names_one_thing() -> None:
    owners: dict[str, list[str]] = {}
    for key, phrases in PHRASES.items():
        for phrase in phrases:
            owners.setdefault(phrase, []).append(key)
    shared = {
        phrase: keys for phrase, keys in owners.items() if len(keys) > 1 and not keys[0].startswith("hair_")
    }
    assert all(phrase in ("green", "blue", "red", "shirt", "top", "grey", "gray") for phrase in shared), (
        shared
    )


def test_hints_are_short_and_of_few_words(staff: list[Annotator]) -> None:
    hints = [hint_of(person.manner) for person in staff]
    assert all(8 <= len(hint.split()) <= 14 for hint in hints)
    assert len({word for hint in hints for word in re.findall(r"[a-z]+", hint)}) <= 75
    manner = COMMON | {
        "syntax": "fragments",
        "register": "casual",
        "order": "random",
        "length": "brief",
        "typos": "many",
    }
    assert hint_of(manner) == "(fragments; casual words; exact colours; random order; brief; typos)"
    assert len(set(hints)) > 800


@pytest.mark.parametrize("spread", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_syntax_is_recognized(spread: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    texts = describe_all(annotator_population(4, "s", 1500, *spread), 1, rng)
    right = Counter(
        writer.manner["syntax"] for writer, text in texts if syntax_of(text) == writer.manner["syntax"]
    )
    seen = Counter(writer.manner["syntax"] for writer, _ in texts)
    assert sum(right.values()) / len(texts) >= 0.97
    assert all(right[syntax] / seen[syntax] >= 0.85 for syntax in seen if seen[syntax] >= 20)


def test_syntax_of_other_texts() -> None:
    rng = np.random.default_rng(5)
    plain = [syntax_of(plain_description(random_person(rng)).text) == "plain" for _ in range(300)]
    assert np.mean(plain) >= 0.98
    assert {syntax_of(text) for text in ("", "?!", "qwertz", "woman in red coat")} == {None}


def test_short_texts_tell_one_to_three_things() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        person = random_person(rng)
        said = short_description(person, rng)
        assert len(said.mentioned) <= 3 and len(said.text.split()) <= 12
        assert all(agree(name, value, person[name]) for name, value in said.mentioned.items())
    assert short_description({"gender": "man"}, rng).text


def test_color_words_convey_what_they_name() -> None:
    assert color_words("fashion", "exact")["dark red"] == ("burgundy", "dark red")
    assert color_words("american", "simple")["dark grey"] == ("gray", "grey")
    assert color_words("plain", "tones")["navy"] == ("dark blue", "navy")
    assert color_words("american", "colored")["navy"] == ("navy blue colored", "navy")
    for register in REGISTERS:
        for granularity in WORD_HABITS["colours"]:
            assert all(
                agree("upper_colour", color_words(register, granularity)[shade][1], shade) for shade in COLORS
            )
