"""A picture of queries with the images ranked first: right ones framed green, wrong ones red, unjudged ones gray.

Takes the rows of `ham.reid.evaluate.pick_examples` and `ham.reid.search.search` as plain dictionaries.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ham.images import ImageError, check_png_path, open_image
from ham.records import atomic_write
from ham.report.fonts import load_font, showable
from ham.runtime import UsageError

THUMB_PX = (96, 240)  # width, height of an image; pedestrians are 1 : 2.5 to 1 : 3
FRAME_PX = 5
GAP_PX = 10
TEXT_PX = 330  # width of the caption column
FONT_PX, SMALL_FONT_PX, TITLE_FONT_PX = 16, 13, 22
COLORS = {True: "#1a9641", False: "#d7191c", None: "#9a9a9a"}
INK, PALE_INK, PAPER, EMPTY = "#1b1b1b", "#6b6b6b", "#ffffff", "#d9d9d9"


def draw_gallery(rows: Sequence[dict[str, Any]], path: str | Path, title: str = "") -> Path:
    """Draw one line for each row {query, query_image (optional), hits [{image, score, right}]} and write a PNG.

    right: True, False, or None where nobody knows. Captions are wrapped and, where they are too long for their line, cut with
    an ellipsis. An image that is missing or broken becomes a gray box that says so. Raises UsageError without rows.
    """
    check_png_path(path)
    if not rows:
        raise UsageError(f"{path}: no queries to draw a gallery of")
    with_image = any(row.get("query_image") for row in rows)
    most = max(1, *(len(row["hits"]) for row in rows))
    cell = THUMB_PX[0] + 2 * FRAME_PX + GAP_PX
    line = THUMB_PX[1] + 2 * FRAME_PX + SMALL_FONT_PX + 2 * GAP_PX
    left = GAP_PX + TEXT_PX + GAP_PX + (cell + GAP_PX if with_image else 0)
    top = 2 * GAP_PX + (TITLE_FONT_PX + GAP_PX if title else 0)
    foot = SMALL_FONT_PX + 2 * GAP_PX
    sheet = Image.new("RGB", (left + most * cell + GAP_PX, top + len(rows) * line + foot), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP_PX, GAP_PX), title, INK, load_font(TITLE_FONT_PX))
    for number, row in enumerate(rows):
        y = top + number * line
        _draw_caption(draw, f"{number + 1}. {row['query'].strip() or '(no words)'}", (GAP_PX, y))
        if row.get("query_image"):
            _draw_image(sheet, row["query_image"], (left - cell - GAP_PX, y), None, "described")
        for place, hit in enumerate(row["hits"]):
            _draw_image(
                sheet,
                hit["image"],
                (left + place * cell, y),
                hit["right"],
                f"{place + 1}: {hit['score']:.3f}",
            )
        draw.line([(GAP_PX, y + line - GAP_PX), (sheet.width - GAP_PX, y + line - GAP_PX)], EMPTY)
    _draw_legend(draw, rows, (GAP_PX, sheet.height - foot + GAP_PX // 2))
    with atomic_write(path, "wb") as file:
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG", optimize=True)
        file.write(buffer.getvalue())
    return Path(path)


def wrap(text: str, width_px: int, font: ImageFont.FreeTypeFont, most_lines: int) -> list[str]:
    """Break text into lines of at most width_px, words longer than a line too; an ellipsis ends what does not fit."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width_px:
            lines[-1] = joined
            continue
        lines = [*lines, word] if lines[-1] else [word]
        while (
            len(lines[-1]) > 1 and font.getlength(lines[-1]) > width_px
        ):  # alphabets without spaces, and pasted links
            long = lines[-1]
            fits = next(n for n in range(2, len(long) + 1) if font.getlength(long[:n]) > width_px) - 1
            lines[-1:] = [long[:fits], long[fits:]]
    if len(lines) <= most_lines:
        return lines
    last = lines[most_lines - 1]
    while last and font.getlength(last + " …") > width_px:
        last = last[:-1]
    return [*lines[: most_lines - 1], last + " …"]


def _draw_caption(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int]) -> None:
    step = FONT_PX + 5
    text, file = showable(text)
    font = load_font(FONT_PX, file)
    for number, line in enumerate(wrap(text, TEXT_PX, font, (THUMB_PX[1] + 2 * FRAME_PX) // step)):
        draw.text((corner[0], corner[1] + number * step), line, INK, font)


def _draw_image(
    sheet: Image.Image, source: str | Path, corner: tuple[int, int], right: bool | None, label: str
) -> None:
    """Draw one framed image with its label below."""
    draw = ImageDraw.Draw(sheet)
    (x, y), (width, height) = corner, THUMB_PX
    box = (x, y, x + width + 2 * FRAME_PX - 1, y + height + 2 * FRAME_PX - 1)
    draw.rectangle(box, EMPTY, COLORS[right], FRAME_PX)
    try:
        thumb = ImageOps.pad(open_image(source), THUMB_PX, color=EMPTY)
        sheet.paste(thumb, (x + FRAME_PX, y + FRAME_PX))
    except ImageError as error:  # the picture says which image it was
        reason = "missing" if error.reason.startswith("missing") else "unreadable"
        name, file = showable(f"{reason}: {Path(source).name}")
        font = load_font(SMALL_FONT_PX, file)
        for number, line in enumerate(wrap(name, width - 4, font, 6)):
            top = y + height // 3 + number * (SMALL_FONT_PX + 4)
            draw.text((x + FRAME_PX + 2, top), line, INK, font)
    ink = INK if right is None else COLORS[right]
    draw.text((x + FRAME_PX, y + height + 2 * FRAME_PX + 2), label, ink, load_font(SMALL_FONT_PX))


def _draw_legend(draw: ImageDraw.ImageDraw, rows: Sequence[dict[str, Any]], corner: tuple[int, int]) -> None:
    judged = {hit["right"] for row in rows for hit in row["hits"]}
    words = {True: "the person described", False: "another person", None: "not judged"}
    x, y = corner
    for right in (right for right in words if right in judged):
        draw.rectangle((x, y + 2, x + SMALL_FONT_PX, y + 2 + SMALL_FONT_PX), None, COLORS[right], 3)
        draw.text((x + SMALL_FONT_PX + 6, y), words[right], PALE_INK, load_font(SMALL_FONT_PX))
        x += SMALL_FONT_PX + 30 + int(load_font(SMALL_FONT_PX).getlength(words[right]))
    draw.text((x, y), "under each image: rank: score", PALE_INK, load_font(SMALL_FONT_PX))
