"""A page to search a gallery with a browser: a sentence or a picture in, the best images with scores out.

The page loads nothing from other machines, and its uploads can be read by nobody. What it answers is computed in
serve_answers.py. Needs the extra `demo` (gradio).
"""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ham.reid.encode import EncodeSettings, RetrievalModel
from ham.reid.search_index import SearchIndex
from ham.reid.serve_answers import (
    MOST_CAPTIONS,
    MOST_HITS,
    Captioner,
    describe_html,
    find_html,
    picture_bytes,
)
from ham.runtime import UsageError, log

if TYPE_CHECKING:
    from fastapi import FastAPI

PACKAGES = ("gradio", "fastapi", "uvicorn")
FIRST_HITS = 10
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
