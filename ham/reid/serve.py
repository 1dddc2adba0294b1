"""A page to search a gallery with a browser: a sentence or a picture in, the best images with scores out.

Images are served by their row in the index, re-encoded, so that no path comes from the browser. The page loads nothing from
other machines, and its uploads can be read by nobody. Needs the extra `demo` (gradio).
"""

from __future__ import annotations

import html
import importlib.util
import io
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ham.images import ImageError, open_image
from ham.records import NO_STYLE
from ham.reid.encode import EncodeSettings, RetrievalModel
from ham.reid.queries import Query, check_queries, encode_queries, query_warnings
from ham.reid.search import answer
from ham.reid.search_index import SearchIndex
from ham.runtime import UsageError, WorkError, log, numpy_generator

if TYPE_CHECKING:
    from fastapi import FastAPI

PACKAGES = ("gradio", "fastapi", "uvicorn")
THUMB_PX = (240, 480)  # largest width and height of an image in the page
MOST_HITS, FIRST_HITS = 100, 10
MOST_CAPTIONS = 8
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
CSS = """
.gradio-container { max-width: 1200px !important; }
ol.hits { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px;
          grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); }
ol.hits img { width: 100%; height: 260px; object-fit: contain; background: #8882; border-radius: 6px; }
ol.hits a:focus-visible { outline: 3px solid #2563eb; outline-offset: 2px; display: block; }
ol.hits figcaption { font-size: 0.85rem; overflow-wrap: anywhere; }
ol.hits figure { margin: 0; }
p.problem { color: #b91c1c; font-weight: 600; }
p.hint { opacity: 0.8; }
dl.captions { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
dl.captions div { border: 1px solid #8886; border-radius: 6px; padding: 10px; }
dl.captions dt { font-weight: 600; } dl.captions dd { margin: 4px 0 0; }
@media (max-width: 480px) { ol.hits { grid-template-columns: repeat(3, 1fr); gap: 8px; } ol.hits img { height: 170px; } }
"""


@dataclass(frozen=True)
class Captioner:
    """What the second tab needs: the number of styles, and a function from an image and style ids to captions."""

    num_styles: int
    describe: Callable[[Image.Image, Sequence[int]], list[str]]


def require_packages() -> None:
    """Raise UsageError unless the packages of the extra `demo` are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"serve needs the package {missing[0]}: pip install 'ham[demo]'")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises UsageError when the address is not free or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UsageError(
            f"--host {host} --port {port}: {error}; choose another --port (0: any free one)"
        ) from None
    return found


def run_app(app: FastAPI, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    host, port = listening.getsockname()[:2]
    log.info("search page: http://%s:%d (stop with Ctrl-C)", f"[{host}]" if ":" in host else host, port)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


# ----------------------------------------------------------------------------------------------------------------- app


def build_app(
    model: RetrievalModel,
    settings: EncodeSettings,
    index: SearchIndex,
    captioner: Captioner | None = None,
    only_local: bool = True,
) -> FastAPI:
    """Build the web application. only_local: answer only requests that name this machine itself."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    uploads = tempfile.mkdtemp(prefix="ham-uploads-")
    os.environ["GRADIO_TEMP_DIR"] = uploads
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_policy(request: Any, call_next: Callable[[Any], Any]) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    if only_local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    @app.get("/picture/{row}")
    def picture(row: int, full: bool = False) -> Response:
        return Response(*picture_bytes(index, row, full))

    blocks = build_page(model, settings, index, captioner)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        blocked_paths=[uploads],  # what one visitor uploads is nobody's to read
        show_error=False,
        ssr_mode=False,
        max_file_size="30mb",
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=[],
        favicon_path=None,
    )


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


def build_page(
    model: RetrievalModel, settings: EncodeSettings, index: SearchIndex, captioner: Captioner | None
) -> Any:
    """Build the page: a search tab, and a tab of captions where there is a captioner."""
    import gradio as gr

    def find(text: str, upload: str | None, count: float) -> str:
        return find_html(model, settings, index, text, upload, int(count))

    with gr.Blocks(title="Person search", analytics_enabled=False) as page:
        gr.Markdown(f"# Person search\n{len(index):,} images of `{index.gallery.name}`")
        with gr.Tab("Search"):
            text = gr.Textbox(
                label="Description, in English",
                placeholder="a woman in a red coat with a black backpack",
                autofocus=True,
                elem_id="description",
            )
            with gr.Accordion("Search by a picture, alone or with the description", open=False):
                upload = gr.File(label="Picture", file_count="single", elem_id="picture")
            count = gr.Slider(
                1,
                min(MOST_HITS, max(2, len(index))),
                FIRST_HITS,
                step=1,
                label="How many images",
                elem_id="count",
            )
            button = gr.Button("Search", variant="primary", elem_id="search")
            found = gr.HTML(elem_id="found")
            inputs = [text, upload, count]
            gr.on(
                [button.click, text.submit, upload.upload, count.release],
                find,
                inputs,
                found,
                api_name="find",
            )
        if captioner is not None:
            with gr.Tab("Describe"):
                add_caption_tab(captioner)
    return page


def add_caption_tab(captioner: Captioner) -> None:
    """Add the tab that describes a picture in chosen or random styles side by side."""
    import gradio as gr

    def describe(upload: str | None, styles: str, count: float) -> str:
        return describe_html(captioner, upload, styles, int(count))

    picture = gr.File(label="Picture", file_count="single", elem_id="described")
    has_styles = captioner.num_styles > 0
    styles = gr.Textbox(
        label=f"Styles, 0 to {captioner.num_styles - 1}; empty: random ones",
        placeholder="0, 5, 12",
        elem_id="styles",
        visible=has_styles,
    )
    number = gr.Slider(1, MOST_CAPTIONS, 4, step=1, label="How many random styles", visible=has_styles)
    button = gr.Button("Describe", variant="primary", elem_id="describe")
    captions = gr.HTML(elem_id="captions")
    gr.on([button.click, styles.submit], describe, [picture, styles, number], captions, api_name="describe")


# ------------------------------------------------------------------------------------------------------------- answers


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
