"""Queries of a search: sentences and pictures, how they are read, checked and encoded."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ham.clip import tokenize
from ham.image_folder import SUFFIXES
from ham.records import read_jsonl
from ham.reid.encode import DEFAULTS, EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.runtime import UsageError, log

MOST_TOKENS = 4096  # tokens of a query that are counted


@dataclass(frozen=True)
class Query:
    """What to search for: a sentence, a picture, or both (the mean of their unit features)."""

    text: str | None = None
    image: Path | None = None

    @property
    def title(self) -> str:
        return " + ".join(part for part in (self.text, str(self.image) if self.image else None) if part)


def check_queries(queries: Sequence[Query], top: int = 1) -> None:
    """Raise UsageError when there is no query, an empty one, or a sentence that is the path of a picture."""
    empty = [
        number
        for number, query in enumerate(queries, start=1)
        if query.image is None and not (query.text or "").strip()
    ]
    if not queries or empty or top < 1:
        raise UsageError(
            f"search needs at least one query, each of at least one word, and a top of 1 or more; found "
            f"{len(queries)} queries, empty ones: {empty}, top {top}"
        )
    for query in queries:
        if query.text is not None and is_picture_path(query.text):
            raise UsageError(
                f"'{query.text}' is the path of a picture, not a description; search by a picture with --image "
                f"{query.text}"
            )
        if query.image is not None and not query.image.is_file():
            raise UsageError(f"--image {query.image}: no such file")


def is_picture_path(text: str) -> bool:
    """Return whether a query is a file's path: an image suffix at the end of one word, or an existing image file."""
    stripped = text.strip()
    if not stripped.lower().endswith(tuple(SUFFIXES)):
        return False
    try:
        return " " not in stripped or Path(stripped).is_file()
    except (OSError, ValueError):
        return False


def query_warnings(text: str, text_length: int) -> list[str]:
    """Return what a user should know about a sentence: that its end is cut off, or that the model cannot read it."""
    found = []
    tokens = int((tokenize([text], MOST_TOKENS) != 0).sum())
    if tokens > text_length:
        found.append(
            f"it has {tokens} tokens and the model reads {text_length}: the end is not used. Shorten it, or describe the "
            "most distinctive things first"
        )
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    if len(foreign) * 2 > len(letters):
        found.append(
            "it is not in Latin letters and the model was trained on English; describe it in English"
        )
    return found


def encode_queries(
    model: RetrievalModel, queries: Sequence[Query], settings: EncodeSettings = DEFAULTS
) -> Tensor:
    """Encode queries as unit features [q, D]; a sentence with a picture is the normalized mean of both.

    Warns where a sentence is cut or not understood. Raises WorkError when a picture cannot be read.
    """
    settings = settings.for_model(model)
    texts = [query.text for query in queries if query.text]
    images = [query.image for query in queries if query.image is not None]
    for text in texts:
        for warning in query_warnings(text, settings.text_length):
            log.warning("query '%s': %s", text if len(text) <= 60 else text[:60] + " ...", warning)
    text_feats = iter(encode_texts(model, texts, settings, "queries"))
    image_feats = iter(
        encode_images(model, images, replace(settings, max_failed_share=0.0), "query pictures").feats
    )
    rows = []
    for query in queries:
        parts = [next(text_feats)] if query.text else []
        parts += [next(image_feats)] if query.image is not None else []
        rows.append(F.normalize(torch.stack(parts).mean(dim=0), dim=0))
    return torch.stack(rows)


def read_queries(path: Path) -> list[Query]:
    """Read queries from a file: a sentence a line, or JSON lines with the keys `text` (or `query`) and `image`.

    Raises UsageError naming file and line.
    """
    if path.suffix == ".jsonl":
        queries = []
        for number, row in enumerate(read_jsonl(path), start=1):
            keys = set(row) if isinstance(row, dict) else set()
            text = row.get("text", row.get("query")) if keys else None
            image = row.get("image") if keys else None
            strings = all(value is None or isinstance(value, str) for value in (text, image))
            if not keys & {"text", "query", "image"} or not strings:
                raise UsageError(
                    f"{path}, line {number}: expected {{text: sentence}}, {{image: path}} or both, found {row!r:.80}"
                )
            queries.append(Query(text, path.parent / image if image else None))
        return queries
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UsageError(f"--queries {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--queries {path}: not UTF-8 text ({error}); save it as UTF-8") from None
    return [Query(text=line.strip()) for line in lines if line.strip()]
