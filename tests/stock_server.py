"""A small HTTP server around stock transformers that holds exports: python tests/stock_server.py EXPORT PORT [EXPORT PORT ...].

Nothing of this package is imported: it stands for the servers that people operate. Each export has a port of its own.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

LOCK = threading.Lock()


class Model:
    """The export, as its model card says to use it."""

    def __init__(self, folder: str) -> None:
        self.name = folder
        self.processor = AutoProcessor.from_pretrained(folder)
        self.network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        text = self.processor.apply_chat_template(
            [{**message, "content": parts_of(message["content"])} for message in request["messages"]],
            add_generation_prompt=True,
            tokenize=False,
            **request.get("chat_template_kwargs", {}),
        )
        image = image_of(request["messages"][0]["content"][0]["image_url"]["url"])
        inputs = self.processor(text=text, images=image, add_special_tokens=False, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        ids = self.network.generate(**inputs, max_new_tokens=request["max_tokens"], do_sample=False)[
            0, length:
        ]
        content = self.processor.decode(ids, skip_special_tokens=True).strip()
        reason = "length" if len(ids) == request["max_tokens"] else "stop"
        return {
            "model": request["model"],
            "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}],
            "usage": {"prompt_tokens": length, "completion_tokens": len(ids)},
        }


def parts_of(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a message's parts as servers hand them to a chat template: an image is a part without its data."""
    return [{"type": "image"} if part["type"] == "image_url" else part for part in content]


def image_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        is_models = self.path == "/v1/models"
        self.answer({"data": [{"id": self.model.name}]} if is_models else {}, 200 if is_models else 404)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            with LOCK:
                value = self.model.complete(request)
        except Exception as error:  # such as the template's refusal of a style
            self.answer({"error": str(error)}, 400)
            return
        self.answer(value)


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    threads = []
    for folder, port in zip(words[::2], words[1::2], strict=True):
        handler = type("HandlerOfOne", (Handler,), {"model": Model(folder)})
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
        threads.append(threading.Thread(target=server.serve_forever))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(sys.argv[1:])
