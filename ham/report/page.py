"""The frame and the look shared by all HTML pages: one file each, with its pictures inside and no scripts."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from ham.images import ImageError, open_image

QUALITY = 82  # of the JPEG thumbnails


def html_page(title: str, body: str) -> str:
    """Return a whole HTML document around `body` (HTML), with the shared style sheet."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style_sheet()}</style></head>\n<body>{body}</body></html>\n"
    )


def style_sheet() -> str:
    """Return the shared style sheet."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def image_tag(path: str | Path, description: str, size_px: tuple[int, int] = (220, 320)) -> str:
    """Return an image element with a JPEG thumbnail inside, or the reason why the file cannot be read.

    size_px: largest width and height.
    """
    description = html.escape(description)
    try:
        image = open_image(path)
    except ImageError as error:
        reason = html.escape(error.reason.split(":")[0])
        return f'<span class="lost" role="img" aria-label="{description}">no picture: {reason}</span>'
    image.thumbnail(size_px)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return (
        f'<img alt="{description}" width="{image.width}" height="{image.height}" '
        f'src="{data_uri(buffer.getvalue(), "jpeg")}">'
    )


def data_uri(picture: bytes, kind: str = "png") -> str:
    """Return the bytes of a picture as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
