"""From sentences to a caption as it was typed: stops, capitals, blanks."""

from __future__ import annotations

import re
from collections.abc import Callable

STRAY = 0.07  # chance of a second blank at any place, of an annotator who makes stray ones
LOOSE = 0.4  # chance of a blank before a comma or a stop, of an annotator who sets them loosely
SLIP = 0.012  # chance that anybody sets a second blank after a stop


def finish(sentences: list[str], manner: dict[str, str], draw: Callable[[], float]) -> str:
    """Join sentences with the stops, capitals and blanks of a manner."""
    capitals = manner["capitals"]
    parts = []
    for place, sentence in enumerate(sentences):
        if capitals == "sentence" or (capitals == "first" and place == 0):
            sentence = sentence[0].upper() + sentence[1:]
        parts.append(sentence + ("" if place == len(sentences) - 1 else "."))
    gap = "  " if manner["blanks"] == "double" or draw() < SLIP else " "
    text = gap.join(parts) + ("" if manner["punctuation"] == "open" else ".")
    text = re.sub(r"(^|\W)i (can|see)\b", r"\1I \2", text) if capitals != "lower" else text.lower()
    text = text.upper() if capitals == "upper" else text
    if manner["blanks"] == "stray":
        text = re.sub(r"(?<=\S) (?=\S)", lambda _: "  " if draw() < STRAY else " ", text)
    elif manner["blanks"] == "loose":
        text = re.sub(r"(?<=\w)[,.]", lambda stop: (" " if draw() < LOOSE else "") + stop[0], text)
    return text
