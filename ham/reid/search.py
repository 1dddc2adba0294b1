"""Find persons in a folder of images by a sentence, a picture, or both. The folder is embedded once.

The index (ham/reid/search_index.py) is in `<gallery>/.ham-index/<key>/` unless `index_dir` says otherwise. The key depends on
the model's weights and on how images are encoded, so that every checkpoint has its own index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham.image_folder import SUFFIXES, stat_images
from ham.reid.encode import DEFAULTS, EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.reid.queries import Query, check_queries, encode_queries
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
