"""Which captions are kept: the word counts and forbidden signs of the paper's released loop."""

from __future__ import annotations

MIN_WORDS = 8
MAX_WORDS = 130
FILTER_VERSION = (
    1  # part of every job's plan: raise it when a rule changes, so that no output mixes two sets of rules
)


def reject_reason(caption: str, reject_slash_n: bool = False) -> str | None:
    """Return the rule that a caption breaks: `short`, `long`, `angle_bracket`, `newline` or `slash_n`; None for a good one.

    Words are what single spaces separate, so doubled, leading and trailing spaces count; 8 and 130 words are still good.
    reject_slash_n: also reject the two characters `/n`, as the reference does ("black/navy").
    Source: HAM, caption.py.
    """
    words = len(caption.split(" "))
    if words < MIN_WORDS:
        return "short"
    if words > MAX_WORDS:
        return "long"
    if "<" in caption or ">" in caption:
        return "angle_bracket"
    if "\n" in caption:
        return "newline"
    # deviation: the reference's "/n" is a typo of the newline escape that costs good captions; rejected only on request.
    if reject_slash_n and "/n" in caption:
        return "slash_n"
    return None
