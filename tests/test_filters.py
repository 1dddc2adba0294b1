"""The caption filter: the reference's own rule table, the one difference, and the rules at their limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ham.generation.filters import reject_reason

DATA = Path(__file__).parent / "data" / "generation"
GOOD = "a man in a black jacket and blue jeans"


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (GOOD, None),
        ("one two three four five six seven", "short"),
        ("one two three four five six seven eight", None),
        ("", "short"),
        ("       ", None),  # seven single spaces separate eight empty words
        (" ".join(["w"] * 130), None),
        (" ".join(["w"] * 131), "long"),
        (" ".join(["w"] * 129) + "  w", "long"),  # a doubled space makes the 131st word
        ("\t".join(["word"] * 9), "short"),  # only spaces separate
        (GOOD + "\n", "newline"),
        (GOOD + "\r", None),
        (GOOD + " <unk>", "angle_bracket"),
        (GOOD + " >", "angle_bracket"),
        (GOOD + " and a black/navy bag", None),
    ],
)
def test_rules_at_their_limits(caption: str, reason: str | None) -> None:
    assert reject_reason(caption) == reason


def test_slash_n_is_rejected_on_request_only() -> None:
    assert reject_reason(GOOD + " black/navy") is None
    assert reject_reason(GOOD + " black/navy", reject_slash_n=True) == "slash_n"
    assert reject_reason(GOOD, reject_slash_n=True) is None


def test_a_small_table_of_the_reference_always_runs() -> None:
    for row in json.loads((DATA / "filter_rules.json").read_text(encoding="utf-8")):
        assert (reject_reason(row["text"], reject_slash_n=True) is None) == row["accepted"], row


def test_equals_the_recorded_reference(parity: Path) -> None:
    rows = json.loads((parity / "caption_filter.json").read_text(encoding="utf-8"))["rule_table"]
    assert len(rows) > 40
    differing = []
    for row in rows:
        assert (reject_reason(row["text"], reject_slash_n=True) is None) == row["accepted"], row
        if (reject_reason(row["text"]) is None) != row["accepted"]:
            differing.append(row["text"])
    assert differing and all(
        "/n" in text and "\n" not in text for text in differing
    )  # the typo is the only difference
