"""Write samples.html: images drawn at random, with their captions and styles, so that a person can judge a job."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from ham.records import CaptionRow, atomic_write, path_below
from ham.report.page import html_page, image_tag
from ham.runtime import UsageError


def write_samples(
    page: Path, samples: Mapping[str, Sequence[CaptionRow]], image_root: Path, total: int, about: str = ""
) -> Path:
    """Write the page: one block per image of `samples`, with all its rows. Returns the page's path.

    total: number of images of the job. about: how the captions were made, one line.
    """
    title = f"{len(samples)} of {total} images, drawn at random"
    blocks = "\n".join(sample_block(image, rows, image_root) for image, rows in samples.items())
    body = (
        f"<header><h1>{html.escape(title)}</h1><p class=note>{html.escape(about)}</p></header>"
        f"<main>{blocks}</main><footer></footer>"
    )
    with atomic_write(page) as file:
        file.write(html_page(title, body))
    return page


def sample_block(image: str, rows: Sequence[CaptionRow], image_root: Path) -> str:
    """Return the HTML of one image with its captions; an unreadable image is replaced by a note."""
    lines = []
    for row in rows:
        if row.status == "failed":
            lines.append(f'<p class="bad">failed: {html.escape(row.reason or "")}</p>')
            continue
        note = (
            "no style" if row.style_id is None or row.style_id < 0 else f"style {row.style_id}"
        )  # -1: none used
        note += f", attempt {row.attempt}" if row.attempt else ""
        note += f", rejected: {row.reason}" if row.reason else ""
        kind = ' class="bad"' if row.status == "rejected" else ""
        lines.append(f"<p{kind}>{html.escape(row.caption)}<br><small>{html.escape(note)}</small></p>")
    try:
        picture = image_tag(path_below(image_root, image), "", (192, 512))
    except UsageError:
        picture = '<span class="lost">no picture: outside the image root</span>'
    return f'<article class="sample"><div>{picture}</div><div>{"".join(lines)}<code>{html.escape(image)}</code></div></article>'
