"""How the annotators of each benchmark write: frequencies of habits, drawn from figures measured on real captions.

CUHK-PEDES: many crowd workers, 23 words, one steep family of openings and a long tail. ICFG-PEDES: 37 words, fine-grained.
RSTPReid: few second-language writers, 26 words. ham/world/README.md has the table of world and real captions side by side.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One kind of annotators.

    frequencies: habit -> value -> how often (only the ratios count; absent = never). omissions: thing -> probability that an
    annotator never mentions it.
    """

    frequencies: dict[str, dict[str, float]]
    omissions: dict[str, float]


OMISSIONS = {
    "hair": 0.1,
    "build": 0.4,
    "view": 0.5,
    "action": 0.4,
    "scene": 0.4,
    "shoes": 0.06,
    "socks": 0.1,
    "watch": 0.1,
    "belt": 0.15,
    "glasses": 0.1,
    "sleeve": 0.25,
    "lower_length": 0.25,
    "upper_pattern": 0.05,
    "upper_second_colour": 0.1,
    "sides": 0.4,
    "shoes_kind": 0.2,
    "bag_kind": 0.2,
    "upper_kind": 0.05,
    "bag_colour": 0.1,
}

PROFILES = {
    "CUHK-PEDES": Profile(
        {
            "syntax": {
                "template": 20,
                "full": 15,
                "wears": 8,
                "pronoun": 9,
                "has": 8,
                "with": 5,
                "this": 6,
                "in": 3,
                "splice": 3,
                "doing": 2.5,
                "dressed": 2,
                "bare": 2.5,
                "fragments": 2.5,
                "possessive": 2,
                "runon": 2,
                "relative": 1.5,
                "there": 0.8,
                "body": 0.5,
                "participle": 0.5,
                "picture": 0.08,
                "observer": 0.4,
            },
            "order": {"clothes": 62, "hair": 16, "shoes": 9, "random": 9, "bag": 4},
            "length": {"short": 38, "brief": 26, "medium": 22, "long": 10, "thorough": 4},
            "details": {"before": 82, "behind": 18},
            "pairs": {"bare": 88, "pair": 12},
            "gender": {"told": 95, "untold": 5},
            "commas": {"plain": 66, "oxford": 30, "ands": 4},
            "punctuation": {"full": 82, "open": 18},
            "capitals": {"sentence": 94.5, "first": 2, "lower": 4, "upper": 0.35},
            "blanks": {"single": 65, "double": 26, "stray": 4, "loose": 5},
            "register": {"plain": 50, "american": 28, "formal": 8, "casual": 6, "fashion": 5, "british": 3},
            "colours": {"exact": 60, "simple": 24, "tones": 10, "colored": 6},
            "hedging": {
                "none": 96.5,
                "seems": 0.8,
                "appears": 1.5,
                "probably": 0.4,
                "possibly": 0.4,
                "maybe": 0.3,
            },
            "typos": {"none": 78, "some": 18, "many": 4},
            "flavor": {
                "none": 42,
                "fabric": 9,
                "fit": 10,
                "detail": 12,
                "style": 8,
                "activity": 8,
                "age": 8,
                "brand": 3,
            },
        },
        OMISSIONS | {"hair": 0.55, "view": 0.7, "scene": 0.6, "action": 0.6, "sides": 0.5, "shoes": 0.12},
    ),
    "ICFG-PEDES": Profile(
        {
            "syntax": {
                "full": 26,
                "with": 20,
                "has": 8,
                "this": 9,
                "body": 7,
                "wears": 7,
                "there": 5,
                "dressed": 5,
                "template": 4,
                "doing": 4,
                "relative": 3,
                "possessive": 3,
                "splice": 2,
                "in": 2,
                "pronoun": 2,
                "participle": 1.5,
                "fragments": 0.5,
                "runon": 0.5,
                "bare": 0.5,
                "picture": 0.5,
                "observer": 0.15,
            },
            "order": {"hair": 48, "clothes": 34, "random": 8, "bag": 6, "shoes": 4},
            "length": {"thorough": 46, "long": 36, "medium": 14, "short": 4, "brief": 0.5},
            "details": {"before": 62, "behind": 38},
            "pairs": {"bare": 60, "pair": 40},
            "gender": {"told": 97, "untold": 3},
            "commas": {"plain": 72, "oxford": 25, "ands": 3},
            "punctuation": {"full": 95, "open": 5},
            "capitals": {"sentence": 97, "first": 1, "lower": 1.5, "upper": 0.5},
            "blanks": {"single": 88, "double": 7, "stray": 2, "loose": 3},
            "register": {"formal": 32, "plain": 28, "fashion": 12, "american": 12, "british": 9, "casual": 7},
            "colours": {"exact": 62, "tones": 22, "simple": 11, "colored": 5},
            "hedging": {"none": 97, "seems": 1, "appears": 1, "probably": 0.5, "possibly": 0.3, "maybe": 0.2},
            "typos": {"none": 88, "some": 10, "many": 2},
            "flavor": {
                "detail": 30,
                "none": 20,
                "fabric": 12,
                "fit": 10,
                "age": 10,
                "activity": 8,
                "style": 8,
                "brand": 2,
            },
        },
        OMISSIONS | {"hair": 0.05, "build": 0.3, "sides": 0.25},
    ),
    "RSTPReid": Profile(
        {
            "syntax": {
                "this": 18,
                "splice": 17,
                "body": 15,
                "wears": 11,
                "with": 10,
                "full": 8,
                "has": 6,
                "doing": 4,
                "dressed": 3,
                "template": 2,
                "relative": 2,
                "in": 1.5,
                "possessive": 1.5,
                "there": 1,
                "pronoun": 0.5,
                "runon": 0.5,
                "bare": 0.5,
                "participle": 0.5,
                "picture": 0.5,
                "observer": 0.15,
                "fragments": 0.3,
            },
            "order": {"clothes": 48, "hair": 36, "bag": 7, "random": 6, "shoes": 3},
            "length": {"short": 44, "brief": 28, "medium": 22, "long": 5, "thorough": 1},
            "details": {"before": 70, "behind": 30},
            "pairs": {"bare": 48, "pair": 52},
            "gender": {"told": 96, "untold": 4},
            "commas": {"plain": 88, "oxford": 10, "ands": 2},
            "punctuation": {"full": 93, "open": 7},
            "capitals": {"sentence": 98, "first": 1, "lower": 0.7, "upper": 0.3},
            "blanks": {"single": 93, "double": 3, "stray": 2, "loose": 2},
            "register": {"british": 28, "plain": 27, "american": 22, "formal": 10, "casual": 8, "fashion": 5},
            "colours": {"simple": 40, "exact": 34, "tones": 20, "colored": 6},
            "hedging": {
                "none": 99,
                "seems": 0.4,
                "appears": 0.3,
                "probably": 0.1,
                "possibly": 0.1,
                "maybe": 0.1,
            },
            "typos": {"none": 90, "some": 8, "many": 2},
            "flavor": {
                "none": 48,
                "activity": 20,
                "fit": 8,
                "fabric": 7,
                "age": 7,
                "detail": 6,
                "style": 3,
                "brand": 1,
            },
        },
        OMISSIONS | {"hair": 0.15, "action": 0.25, "scene": 0.3},
    ),
}

EVERY_PROFILE = tuple(PROFILES)
FLATTER = 0.6  # power on the frequencies of a group of all profiles, so that it has the rare manners too
