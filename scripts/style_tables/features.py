"""Tables of what style features reveal: the manner of an annotator, the attributes of a person, the presence of a thing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ham.runtime import log
from ham.style.analysis import linear_probe, mutual_information
from ham.style.cluster import kmeans_clusters
from ham.style.features import chars_features, clip_features, hf_features
from ham.style.neutral import keep, lexicon_neutralizer
from ham.world.attributes import FIELDS, base_color
from scripts.style_tables.captions import SimulatedCaption

NEUTRALIZERS = {
    "none": keep,
    "lists": lexicon_neutralizer(False),
    "lists + tagger": lexicon_neutralizer(True),
}
ASPECTS = ("syntax", "register", "capitals", "hedging")

# Whether a caption mentions a thing; "gender" asks which of two words it uses.
PRESENCE = {
    "skirt": r"\bskirts?\b",
    "dress": r"\bdress(?:es)?\b",
    "glasses": r"\b(?:sun|eye)?glasses\b",
    "T-shirt": r"\b(?:t[- ]?shirts?|tee)\b",
    "walking": r"\bwalk(?:s|ing)?\b",
    "hair": r"\bhair\b",
    "bag": r"\b\w*(?:bag|purse|backpack)s?\b",
}
GENDER = (
    r"\b(?:man|men|male|boy|guy|gentleman|he|his|him)\b",
    r"\b(?:woman|women|female|girl|lady|she|her)\b",
)
LEAST_CAPTIONS = 20  # of either answer, for a probe


def encoders(
    dim: int, clip: str | None, hf: str | None
) -> dict[str, Callable[[list[str]], NDArray[np.float32]]]:
    """Return the encoders that can run here."""
    found: dict[str, Callable] = {f"chars {dim}": lambda texts: chars_features(texts, dim)}
    if clip:
        found["clip"] = lambda texts: clip_features(texts, clip)
    if hf:
        found["hf"] = lambda texts: hf_features(texts, hf)
    return found


def feature_rows(
    captions: list[SimulatedCaption], styles: int, dim: int, clip: str | None, hf: str | None
) -> Iterator[list[str]]:
    """Yield a row per neutralizer and encoder: do KMeans clusters follow manners, what does a linear probe read."""
    targets = {name: [row.manner[name] for row in captions] for name in ASPECTS}
    targets = {"annotator": [row.annotator for row in captions]} | targets
    for neutral_name, neutralize in NEUTRALIZERS.items():
        texts = [row.neutral for row in neutralize([one.caption for one in captions])]
        for encoder_name, encode in encoders(dim, clip, hf).items():
            log.info("%s, %s", neutral_name, encoder_name)
            features = encode(texts)
            clusters = kmeans_clusters(features, styles, 0)
            shared = [
                mutual_information(clusters, targets[name]) for name in ("annotator", "syntax", "register")
            ]
            skills = [linear_probe(features, labels).skill for labels in targets.values()]
            attributes = attribute_skills(features, captions)
            best = max(attributes, key=attributes.__getitem__)
            yield [
                neutral_name,
                encoder_name,
                *(f"{value:.0f}" for value in [*shared, *skills]),
                f"{np.mean(list(attributes.values())):.0f}",
                f"{attributes[best]:.0f} ({best})",
            ]


def attribute_skills(features: NDArray[np.float32], captions: list[SimulatedCaption]) -> dict[str, float]:
    """Return for each attribute the skill of a probe over the captions that mention it; colors as plain colors."""
    skills = {}
    for field in FIELDS:
        rows = [row for row, one in enumerate(captions) if field in one.mentioned]
        labels = [base_color(captions[row].mentioned[field]) for row in rows]
        if len({label for label in labels if labels.count(label) >= 5}) > 1:
            skills[field] = linear_probe(features[rows], labels).skill
    return skills


def presence_rows(captions: Sequence[str], dim: int) -> Iterator[list[str]]:
    """Yield a row per neutralizer: the skill of a linear probe that predicts whether a caption mentions a thing.

    Unlike the attribute probes these look at all captions: that a thing is left unsaid tells as well.
    """
    for name, neutralize in NEUTRALIZERS.items():
        log.info("presence probes: %s", name)
        texts = [row.neutral for row in neutralize(captions)]
        skills = presence_skills(captions, chars_features(texts, dim))
        yield [name, f"chars {dim}", *("-" if skill is None else f"{skill:.0f}" for skill in skills.values())]


def presence_skills(captions: Sequence[str], features: NDArray[np.float32]) -> dict[str, float | None]:
    """Return the skill of each presence probe; None where too few captions mention the thing, or too few do not."""
    skills: dict[str, float | None] = {}
    for name, pattern in PRESENCE.items():
        mentions = np.array([re.search(pattern, caption, re.I) is not None for caption in captions])
        skills[name] = probe_skill(features, mentions)
    found = [[re.search(pattern, caption, re.I) is not None for pattern in GENDER] for caption in captions]
    rows = np.flatnonzero([man != woman for man, woman in found])
    skills["gender"] = probe_skill(features[rows], np.array([found[row][0] for row in rows]))
    return skills


def probe_skill(features: NDArray[np.float32], answers: NDArray[np.bool_]) -> float | None:
    """Return the skill of a linear probe for yes and no, None when one of them is too rare."""
    if min(answers.sum(), (~answers).sum()) < LEAST_CAPTIONS:
        return None
    return linear_probe(features, [str(answer) for answer in answers]).skill
