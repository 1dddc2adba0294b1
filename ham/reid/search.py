"""Find persons in a folder of images by a sentence, a picture, or both. The folder is embedded once.

The index (ham/reid/search_index.py) is in `<gallery>/.ham-index/<key>/` unless `index_dir` says otherwise. The key depends on
the model's weights and on how images are encoded, so that every checkpoint has its own index.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ham.clip import tokenize
from ham.image_folder import SUFFIXES, stat_images
from ham.records import read_jsonl
from ham.reid.encode import DEFAULTS, EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.reid.search_index import (
    SEGMENT_ROWS,
    SearchIndex,
    Segment,
    Stamp,
    keep_current,
    load_segments,
    merge_small,
    next_file,
    write_failures,
)
from ham.runtime import UsageError, WorkError, dist_info, log

FOLDER = ".ham-index"
MAX_FAILED_SHARE = 0.1  # a user's own folder is less clean than a benchmark
MOST_TOKENS = 4096  # tokens of a query that are counted


@dataclass(frozen=True)
class Query:
    """What to search for: a sentence, a picture, or both (the mean of their unit features)."""

    text: str | None = None
    image: Path | None = None

    @property
    def title(self) -> str:
        return " + ".join(part for part in (self.text, str(self.image) if self.image else None) if part)


def search(
    model: RetrievalModel,
    gallery: str | Path,
    queries: Sequence[str | Query],
    top: int = 10,
    settings: EncodeSettings = DEFAULTS,
    index_dir: str | Path | None = None,
    threshold: float | None = None,
    refresh: bool = True,
    max_failed_share: float = MAX_FAILED_SHARE,
) -> list[dict[str, Any]]:
    """Answer each query with the gallery's best images: rows {query, hits: [{image, score, right: None}]}, best first.

    The rows are what `ham.report.gallery.draw_gallery` draws. threshold: leave out hits with a lower score. Raises UsageError
    for an empty query or gallery, and for a picture's path given as a sentence.
    """
    asked = [query if isinstance(query, Query) else Query(text=query) for query in queries]
    check_queries(asked, top)
    index = open_index(model, gallery, settings, index_dir, max_failed_share, refresh)
    return answer(index, asked, encode_queries(model, asked, settings), top, threshold)


def answer(
    index: SearchIndex,
    queries: Sequence[Query],
    query_feats: Tensor,
    top: int,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Rank the index for encoded queries; rows as `search` returns them, with the row number of each hit."""
    scores, rows = index.top(query_feats, top)
    answers = []
    for query, their_scores, their_rows in zip(queries, scores.tolist(), rows.tolist()):
        hits = [
            {"image": str(index.gallery / index.path(row)), "score": score, "right": None, "row": row}
            for score, row in zip(their_scores, their_rows)
            if threshold is None or score >= threshold
        ]
        answers.append({"query": query.title, "hits": hits})
        if query.image is not None:
            answers[-1]["query_image"] = str(query.image)
    return answers


# ------------------------------------------------------------------------------------------------------------- queries


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


def to_json(answers: Sequence[dict[str, Any]]) -> str:
    """Return the answers as one JSON document: [{query, image?, hits: [{image, score}]}]."""
    rows = []
    for answered in answers:
        row = {"query": answered["query"]}
        if "query_image" in answered:
            row["image"] = answered["query_image"]
        row["hits"] = [{"image": hit["image"], "score": round(hit["score"], 6)} for hit in answered["hits"]]
        rows.append(row)
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    # file names that are not UTF-8: \udc.. is a valid escape inside a JSON string
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --------------------------------------------------------------------------------------------------------------- index


def open_index(
    model: RetrievalModel,
    gallery: str | Path,
    settings: EncodeSettings = DEFAULTS,
    index_dir: str | Path | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
    refresh: bool = True,
) -> SearchIndex:
    """Open the gallery's index for this model and refresh it: new images are embedded, lost ones dropped.

    index_dir: where the index is when not inside the gallery. refresh: False opens what is there and does not look at the
    gallery. Raises UsageError when the gallery is no folder or holds no image, WorkError when more than max_failed_share of it
    cannot be read.
    """
    gallery, settings = Path(gallery), settings.for_model(model)
    if not gallery.is_dir():
        raise UsageError(f"gallery {gallery}: no such folder")
    folder = Path(index_dir or gallery / FOLDER) / index_key(model, settings)
    width = encode_texts(model, ["a person"], settings, "a probe").shape[1]
    segments = load_segments(folder, width)
    if not refresh:
        index = SearchIndex(gallery, segments)
        if not len(index):
            raise UsageError(f"{folder}: no index yet; search once with --refresh true to embed the gallery")
        return index
    present = gallery_files(gallery)
    if not present:
        raise UsageError(f"gallery {gallery}: no image found; looked for {', '.join(sorted(SUFFIXES))}")
    rows_before = sum(map(len, segments))
    kept, known = keep_current(segments, present)
    new = [path for path in present if path not in known]
    log.info(
        "gallery %s: %d images, %d known, %d to embed, %d dropped",
        gallery,
        len(present),
        len(known),
        len(new),
        rows_before - len(known),
    )
    kept, failed = _embed(model, gallery, folder, kept, new, present, settings)
    index = SearchIndex(gallery, merge_small(kept))
    if not len(index) or len(failed) > max_failed_share * len(present):
        raise WorkError(
            f"{gallery}: {len(failed)} of {len(present)} images cannot be read, more than the accepted "
            f"{max_failed_share:.0%}; see {folder / 'failed.jsonl'}; --max-failed-share accepts more"
        )
    return index


def _embed(
    model: RetrievalModel,
    gallery: Path,
    folder: Path,
    segments: list[Segment],
    new: Sequence[str],
    present: dict[str, Stamp],
    settings: EncodeSettings,
) -> tuple[list[Segment], list[dict[str, str]]]:
    """Embed new images, one segment at a time; return all segments and the failures."""
    failed: list[dict[str, str]] = []
    lenient = replace(settings, max_failed_share=1.0)  # checked by the caller, over the whole gallery
    for start in range(0, len(new), SEGMENT_ROWS):
        block = new[start : start + SEGMENT_ROWS]
        done = encode_images(model, [gallery / path for path in block], lenient, "gallery images")
        failed += done.failed
        if not done.places:
            continue
        entries = [(block[place], present[block[place]]) for place in done.places]
        segments.append(Segment.write(next_file(segments, folder), done.feats, entries))
    if dist_info().is_main:
        write_failures(folder, failed)
    return segments, failed


def gallery_files(gallery: Path) -> dict[str, Stamp]:
    """Return a folder's images at any depth with size and time of change."""
    return {path: (state.st_size, state.st_mtime_ns) for path, state in stat_images(gallery)}


def index_key(model: RetrievalModel, settings: EncodeSettings) -> str:
    """Return a digest of what features depend on: the weights, the image size, the precision. 16 hex digits."""
    settings = settings.for_model(model)
    digest = hashlib.blake2b(f"{tuple(settings.image_size_px)} {settings.dtype}".encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
