"""One OpenAI-compatible server: requests over HTTP, what it holds, and whether that is the model that is expected.

Standard library only. A key comes from the environment variable HAM_SERVER_KEY and goes nowhere but into the request's header.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ham.generation.engines import Caption
from ham.records import SURROGATE
from ham.runtime import UsageError

KEY_VARIABLE = "HAM_SERVER_KEY"
MOST_ANSWER_BYTES = 16 << 20
BUSY = {408, 425, 429, 503}  # asked to come again
PROBE_TOKENS = 8
CONNECT_S = 20.0


class Unavailable(Exception):
    """The server gives no usable answer now; another try may.

    is_busy: it asked to wait. pause_s: for so long. is_closed: only an idle connection was closed, by a restart or by age.
    """

    def __init__(
        self, reason: str, pause_s: float | None = None, is_busy: bool = False, is_closed: bool = False
    ) -> None:
        super().__init__(reason)
        self.pause_s, self.is_busy, self.is_closed = pause_s, is_busy, is_closed


class BadAnswer(Exception):
    """A complete answer that cannot be used; another try would give the same."""


class WrongServer(Exception):
    """The server holds another model than the job needs."""


@dataclass(frozen=True)
class Expected:
    """The export that the servers must hold, from its config.json.

    model_name: the name at the servers; None takes the only one. image: a PNG of the model's size for the probe.
    """

    folder_name: str
    model_name: str | None
    num_styles: int
    style_tokens: int
    prompt: str
    max_new_tokens: int
    probe_image: bytes


@dataclass(frozen=True)
class Account:
    """What a server says of itself. probe: what it answers to a fixed image, which tells two models apart."""

    model: str
    answers_as: str
    version: str
    details: dict[str, Any]
    probe: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.probe.encode()).hexdigest()[:16]


class ServerClient:
    """Requests to one server, over connections that are kept open between requests."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = url, timeout_s
        self.scheme, self.host, self.port, self.base = split_url(url)
        self.key = os.environ.get(KEY_VARIABLE, "")
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    # ----------------------------------------------------------------------------------------------------------- requests

    def request(self, method: str, path: str, value: Any = None) -> Any:
        """Send a request and return the JSON of its answer. Raises Unavailable, BadAnswer, or WrongServer without access."""
        body = None if value is None else json.dumps(value).encode()
        try:
            status, headers, data = self._exchange(method, path, body)
        except TimeoutError:
            raise Unavailable(f"{self.url}: no answer within {self.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{self.url}: {type(error).__name__}: {str(error)[:200]}") from None
        if status == 200:
            return self._json(data)
        message = self._scrubbed(" ".join(data[:300].decode("utf-8", "replace").split()))
        reason = f"{self.url}: HTTP {status}: {message}"
        if status in BUSY:
            raise Unavailable(reason, _seconds(headers.get("Retry-After")), is_busy=True)
        if status >= 500 or (
            status == 404 and method == "POST"
        ):  # 404: the model is gone, which the next check finds
            raise Unavailable(reason)
        if status in (401, 403):
            raise WrongServer(f"{reason}; put the server's key into the environment variable {KEY_VARIABLE}")
        raise BadAnswer(f"HTTP {status}: {message}")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, Any, bytes]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._exchange_on(connection, method, path, body)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._drop_idle()
                raise Unavailable(f"{self.url}: closed the connection", 0.0, is_closed=True) from None
        return self._exchange_on(self._connect(), method, path, body)

    def _exchange_on(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, Any, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        is_kept = False
        try:
            connection.request(method, self.base + path, body, headers)
            response = connection.getresponse()
            data = self._read(response)
            is_kept = not response.will_close
        finally:
            if not is_kept:
                connection.close()
        with self._lock:
            if is_kept:
                self._idle.append(connection)
        return response.status, response.headers, data

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        pieces, size = [], 0
        while piece := response.read1(65536):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_ANSWER_BYTES:
                raise BadAnswer(f"an answer of more than {MOST_ANSWER_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"".join(pieces), response.length)
        response.close()  # so that the connection takes the next request
        return b"".join(pieces)

    def _drop_idle(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=min(self.timeout_s, CONNECT_S))
        connection.connect()
        connection.sock.settimeout(self.timeout_s)
        return connection

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Unavailable(f"{self.url}: an answer that is cut or is no JSON: {data[:80]!r}") from None

    def _scrubbed(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    # ------------------------------------------------------------------------------------------------------------ captions

    def ask(
        self, expected: Expected, model: str, png: bytes, style: int | None, max_tokens: int
    ) -> dict[str, Any]:
        """Send one captioning request and return the answer's JSON object."""
        image = "data:image/png;base64," + base64.b64encode(png).decode()
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": expected.prompt},
        ]
        value: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": False,
        }
        if style is not None:
            value["chat_template_kwargs"] = {"style": style}
        answer = self.request("POST", "/v1/chat/completions", value)
        if not isinstance(answer, dict):
            raise BadAnswer(f"an answer of an unknown shape: {str(answer)[:80]!r}")
        return answer

    def caption(self, expected: Expected, account: Account, png: bytes, style: int | None) -> Caption:
        """Caption an image in one style. Raises Unavailable; an answer that cannot be used is a caption with a failure."""
        try:
            answer = self.ask(expected, account.model, png, style, expected.max_new_tokens)
            if answer.get("model", account.answers_as) != account.answers_as:
                raise Unavailable(
                    f"{self.url}: answers as {answer['model']!r:.80}, was {account.answers_as!r:.80}"
                )
            return read_answer(answer, expected.max_new_tokens)
        except BadAnswer as error:
            return Caption("", 0, f"server: {self._scrubbed(str(error))}"[:300])

    # ------------------------------------------------------------------------------------------------------------- account

    def check(self, expected: Expected) -> Account:
        """Query what the server holds. Raises WrongServer naming model or styles, Unavailable when it does not answer."""
        self._drop_idle()
        try:
            return self._check(expected)
        except BadAnswer as error:
            raise WrongServer(f"{self.url}: not a server of an exported captioner: {error}") from None

    def _check(self, expected: Expected) -> Account:
        model, details = self._find_model(expected)
        version = self._version()
        plain = self._probe(expected, model, None)
        if not expected.num_styles:
            return Account(model, str(plain.get("model", "")), version, details, _text(plain))
        last_style = expected.num_styles - 1
        try:
            last = self._probe(expected, model, last_style)
        except BadAnswer as error:
            raise WrongServer(
                f"{self.url}: model {model} has no style {last_style}, {expected.folder_name} has {expected.num_styles} "
                f"styles: {error}"
            ) from None
        self._check_styles(expected, model, plain, last)
        first = last if last_style == 0 else self._probe(expected, model, 0)
        return Account(model, str(first.get("model", "")), version, details, f"{_text(first)}\0{_text(last)}")

    def _find_model(self, expected: Expected) -> tuple[str, dict[str, Any]]:
        listing = self.request("GET", "/v1/models")
        entries = listing.get("data") if isinstance(listing, dict) else None
        models = [one for one in entries or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        names = [one["id"] for one in models]
        if not names:
            raise WrongServer(f"{self.url}: /v1/models lists no model; is it an OpenAI-compatible server?")
        wanted = expected.model_name
        if wanted is None:
            same = [name for name in names if name.rstrip("/").rpartition("/")[2] == expected.folder_name]
            wanted = same[0] if same else names[0] if len(names) == 1 else None
        if wanted not in names:
            raise WrongServer(
                f"{self.url}: holds {', '.join(names)[:200]}; expected {wanted or expected.folder_name}. If it is the same "
                "model under another name, give that name with --server-model"
            )
        kept = ("id", "root", "owned_by", "max_model_len", "dtype", "created")
        entry = models[names.index(wanted)]
        return wanted, {key: entry[key] for key in kept if isinstance(entry.get(key), str | int)}

    def _version(self) -> str:
        for path in ("/version", "/get_server_info"):
            try:
                answer = self.request("GET", path)
            except (Unavailable, BadAnswer, WrongServer):
                continue
            if isinstance(answer, dict) and isinstance(answer.get("version"), str):
                return answer["version"][:80]
        return "unknown"

    def _probe(self, expected: Expected, model: str, style: int | None) -> dict[str, Any]:
        return self.ask(expected, model, expected.probe_image, style, PROBE_TOKENS)

    def _check_styles(self, expected: Expected, model: str, plain: Any, last: Any) -> None:
        """Compare prompt lengths: the last style adds its tokens, the one after it does not exist."""
        without, with_last = _prompt_tokens(plain), _prompt_tokens(last)
        if without is None or with_last is None:
            return  # no token counts: only the probe's text can tell servers apart
        if with_last - without != expected.style_tokens:
            raise WrongServer(
                f"{self.url}: model {model} has no style {expected.num_styles - 1}: it adds {with_last - without} tokens to "
                f"the prompt, expected {expected.style_tokens}; {expected.folder_name} has {expected.num_styles} styles"
            )
        try:
            beyond = _prompt_tokens(self._probe(expected, model, expected.num_styles))
        except (BadAnswer, Unavailable):
            return
        if beyond == with_last:
            raise WrongServer(
                f"{self.url}: model {model} has more than the {expected.num_styles} styles of {expected.folder_name}"
            )


def split_url(url: str) -> tuple[str, str, int | None, str]:
    """Split a server's address into scheme, host, port and path. Raises UsageError for what is none, or holds a password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--server {url!r}: not an address: {error}") from None
    if parts.username or parts.password or "@" in parts.netloc:
        raise UsageError(f"--server: an address with a user or password; put the key into {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--server {url!r}: expected an address such as http://node1:8000")
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1")


def read_answer(answer: dict[str, Any], max_new_tokens: int) -> Caption:
    """Read the caption of an answer. Raises BadAnswer for one that is cut, empty or of an unknown shape."""
    choice = _choice(answer)
    text = _text(answer)
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tokens = tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**31 else 0
    reason = choice.get("finish_reason")
    if reason == "length" and 0 < tokens < max_new_tokens:
        raise BadAnswer(
            f"cut: the server stopped after {tokens} of {max_new_tokens} tokens; raise its context length"
        )
    if reason not in ("stop", "length", None):
        raise BadAnswer(f"finish_reason {reason!r:.40}; expected stop")
    if not text:
        raise BadAnswer("an empty answer")
    return Caption(text, tokens)


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadAnswer(f"an answer of an unknown shape: no choices in {str(answer)[:80]!r}")
    return choices[0]


def _text(answer: dict[str, Any]) -> str:
    message = _choice(answer).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if content is None:
        raise BadAnswer("an empty answer, without content")
    if not isinstance(content, str):
        raise BadAnswer(f"an answer of an unknown shape: content is {type(content).__name__}")
    if SURROGATE.search(content):
        raise BadAnswer("an answer whose text cannot be written as UTF-8")
    return content.strip()


def _prompt_tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


def _seconds(text: str | None) -> float | None:
    try:
        return min(max(float(text or ""), 0.0), 300.0)
    except ValueError:
        return None
