"""A real HTTP server with the protocol of an exported captioner and no model: captions follow from pixels and style."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import multiprocessing
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

STYLE_TOKENS = 3
SIZE_PX = 28


@dataclass
class Behavior:
    """What the server does; may be changed while it runs.

    misbehave: mode by caption request number, or for requests whose image has this mean color. salt: another model.
    """

    model: str = "export"
    num_styles: int = 6
    salt: str = ""
    key: str = ""
    delay_s: float = 0.0
    usage: bool = True
    ignores_styles: bool = False
    modes: dict[int, str] = field(default_factory=dict)  # by number of the caption request
    poison: dict[str, str] = field(default_factory=dict)  # by digest of the image
    always: str = ""
    asked: list[tuple[str, int | None]] = field(
        default_factory=list
    )  # (image digest, style) of caption requests


def digest_of(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (SIZE_PX, SIZE_PX) and image.mode == "RGB"
        return hashlib.sha256(image.tobytes()).hexdigest()[:8]


def caption_of(digest: str, style: int | None, salt: str = "") -> str:
    number = int(hashlib.sha256(f"{digest} {style} {salt}".encode()).hexdigest()[:4], 16)
    if number % 5 == 0:
        return f"bad {number}"
    return f"a person of picture {digest} seen in style {style} with number {number}{salt}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behavior: Behavior
    lock: threading.Lock

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.refuses():
            return
        if self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": self.behavior.model, "owned_by": "fake"}]})
        elif self.path == "/version":
            self.answer({"version": "0.0-fake"})
        else:
            self.answer({"error": "not found"}, 404)

    def refuses(self) -> bool:
        if self.behavior.key and self.headers.get("Authorization") != f"Bearer {self.behavior.key}":
            self.answer({"error": f"wrong key {self.headers.get('Authorization')}"}, 401)
            return True
        return False

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refuses():
            return
        behavior = self.behavior
        image, text = request["messages"][0]["content"]
        assert image["type"] == "image_url" and text["type"] == "text" and request["temperature"] == 0
        digest = digest_of(base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,")))
        style = request.get("chat_template_kwargs", {}).get("style")
        is_probe = request["max_tokens"] == 8
        mode = ""
        if not is_probe:
            with self.lock:
                mode = behavior.modes.pop(len(behavior.asked), "") or behavior.poison.get(digest, "")
                behavior.asked.append((digest, style))
            time.sleep(behavior.delay_s)
        mode = mode or behavior.always
        if style is not None and style >= behavior.num_styles and not behavior.ignores_styles:
            self.answer({"error": f"no style {style}"}, 400)
            return
        self.misbehave(mode) if mode else self.answer(self.completion(digest, style, request))

    def completion(self, digest: str, style: int | None, request: dict[str, Any]) -> dict[str, Any]:
        text = caption_of(digest, style, self.behavior.salt)
        added = 0 if style is None or self.behavior.ignores_styles else STYLE_TOKENS
        value: dict[str, Any] = {
            "model": request["model"],
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        }
        if self.behavior.usage:
            value["usage"] = {"prompt_tokens": 40 + added, "completion_tokens": 14}
        return value

    def misbehave(self, mode: str) -> None:
        if mode.isdecimal():
            self.answer({"error": f"status {mode}"}, int(mode), {"Retry-After": "0"} if mode == "429" else {})
        elif mode == "hang":
            time.sleep(8)
            self.close_connection = True
        elif mode == "close":
            self.close_connection = True
        elif mode == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        elif mode == "html":
            self.answer(b"<html>a proxy's page</html>")
        elif mode == "deep":
            self.answer(b"[" * 100_000)
        else:
            self.answer(ANSWERS[mode])


def choice(content: Any, reason: str = "stop", tokens: int = 9) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": content}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 43, "completion_tokens": tokens},
    }


ANSWERS: dict[str, Any] = {
    "empty": choice(""),
    "null": choice(None),
    "list": choice(["a"]),
    "stopped": choice("a man in a red jacket and blue jeans", "length", 5),
    "filtered": choice("a man in a red jacket and blue jeans", "content_filter"),
    "surrogate": choice("a man in a red jacket and blue jeans \ud83d"),
    "no_choices": {"choices": []},
    "array": [1, 2],
    "string": "a man",
    "choices_of_text": {"choices": ["a man"]},
}


class QuietServer(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients that are killed or give up are part of the tests."""


class FakeServer:
    """The server in threads of this process."""

    def __init__(self, behavior: Behavior | None = None, port: int = 0) -> None:
        self.behavior = behavior or Behavior()
        handler = type("OwnHandler", (Handler,), {"behavior": self.behavior, "lock": threading.Lock()})
        self.http = QuietServer(("127.0.0.1", port), handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def _serve(port: int, behavior: Behavior) -> None:
    FakeServer(behavior, port).thread.join()


def start_process(port: int, behavior: Behavior | None = None) -> multiprocessing.Process:
    """Run the server in a process of its own, to be killed."""
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(port, behavior or Behavior()), daemon=True
    )
    process.start()
    return process


def write_export(folder: Path, **mark: Any) -> Path:
    """Write what the client reads of an export: its config.json."""
    folder.mkdir(parents=True)
    value = {
        "num_styles": 6,
        "style_tokens": STYLE_TOKENS,
        "first_style_token": 100,
        "prompt": "Describe the person.",
        "template": "v1",
        **mark,
    }
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "vision_config": {"image_size": SIZE_PX}, "ham": value})
    )
    return folder
