"""What the search page answers: images found, captions and problems as HTML, and the images themselves.

Images are served by their row in the index, re-encoded, so that no path comes from the browser.
"""

from __future__ import annotations

import html
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ham.images import ImageError, open_image
from ham.records import NO_STYLE
from ham.reid.encode import EncodeSettings, RetrievalModel
from ham.reid.queries import Query, check_queries, encode_queries, query_warnings
from ham.reid.search import answer
from ham.reid.search_index import SearchIndex
from ham.runtime import UsageError, WorkError, numpy_generator

THUMB_PX = (240, 480)  # largest width and height of an image in the page
MOST_HITS = 100
MOST_CAPTIONS = 8


@dataclass(frozen=True)
class Captioner:
    """What the second tab needs: the number of styles, and a function from an image and style ids to captions."""

    num_styles: int
    describe: Callable[[Image.Image, Sequence[int]], list[str]]


def find_html(
    model: RetrievalModel,
    settings: EncodeSettings,
    index: SearchIndex,
    text: str | None,
    upload: str | None,
    count: int,
) -> str:
    """Return the answer to one request as HTML; a problem is a sentence in it."""
    query = Query((text or "").strip() or None, Path(upload) if upload else None)
    if query.text is None and query.image is None:
        return problem("Type a description or choose a picture.")
    try:
        check_queries([query])
        feats = encode_queries(model, [query], settings)
    except (UsageError, WorkError) as error:
        reason = "This picture cannot be read: it is damaged or no image file."
        return problem(
            reason if isinstance(error, WorkError) else f"{query.text}: this is the path of a picture."
        )
    hints = query_warnings(query.text, settings.for_model(model).text_length) if query.text else []
    (row,) = answer(index, [query], feats, max(1, min(count, MOST_HITS)))
    parts = [f'<p class="hint">Note: {html.escape(hint)}.</p>' for hint in hints]
    return "".join([*parts, hits_html(row["hits"])])


def hits_html(hits: Sequence[dict[str, Any]]) -> str:
    items = []
    for rank, hit in enumerate(hits, start=1):
        name = html.escape(Path(hit["image"]).name.encode("utf-8", "backslashreplace").decode(), quote=True)
        label = f"{rank}: {hit['score']:.3f}"
        items.append(
            f'<li><figure><a href="/picture/{hit["row"]}?full=1" target="_blank" rel="noopener">'
            f'<img src="/picture/{hit["row"]}" alt="rank {label}, {name}"></a>'
            f"<figcaption><b>{label}</b><br>{name}</figcaption></figure></li>"
        )
    return f'<ol class="hits" aria-label="images found">{"".join(items)}</ol>'


def picture_bytes(index: SearchIndex, row: int, full: bool) -> tuple[bytes, int, None, str]:
    """Return an image of the index as JPEG: (content, status, headers, media type); status 404 where there is none."""
    try:
        image = open_image(index.gallery / index.path(row))
    except (IndexError, ImageError):
        return b"no such picture", 404, None, "text/plain"
    if not full:
        image.thumbnail(THUMB_PX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), 200, None, "image/jpeg"


def describe_html(captioner: Captioner, upload: str | None, styles: str | None, count: int) -> str:
    """Return captions of a picture in the chosen styles, or in `count` random ones, as HTML."""
    if not upload:
        return problem("Choose a picture.")
    try:
        image = open_image(upload)
    except ImageError as error:
        return problem(f"This picture cannot be read: {error.reason}")
    try:
        chosen = parse_styles(styles, captioner.num_styles)
    except UsageError as error:
        return problem(str(error))
    if not chosen:
        draw = numpy_generator(int.from_bytes(os.urandom(6), "big"), "styles of the page")
        chosen = draw.permutation(captioner.num_styles)[:count].tolist() or [NO_STYLE]
    cells = []
    for style, caption in zip(chosen, captioner.describe(image, chosen)):
        title = "Without a style" if style == NO_STYLE else f"Style {style}"
        cells.append(f"<div><dt>{title}</dt><dd>{html.escape(caption)}</dd></div>")
    return f'<dl class="captions">{"".join(cells)}</dl>'


def parse_styles(text: str | None, num_styles: int) -> list[int]:
    """Parse `0, 5 12` into style ids. Raises UsageError for a word that is none."""
    words = (text or "").replace(",", " ").split()  # the page sends None for a field that it does not show
    for word in words:
        if not word.isascii() or not word.isdecimal() or len(word) > 9 or int(word) >= num_styles:
            raise UsageError(f"'{word}' is no style; the styles are 0 to {num_styles - 1}")
    if len(words) > MOST_CAPTIONS:
        raise UsageError(f"{len(words)} styles; at most {MOST_CAPTIONS} at a time")
    return [int(word) for word in words]


def problem(sentence: str) -> str:
    return f'<p class="problem" role="alert">{html.escape(sentence)}</p>'
