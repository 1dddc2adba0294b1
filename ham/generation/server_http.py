"""JSON over HTTP to one server: connections that are kept open, timeouts, and what a failure means.

Standard library only. A key comes from the environment variable HAM_SERVER_KEY and goes nowhere but into the request's header.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from ham.runtime import UsageError

KEY_VARIABLE = "HAM_SERVER_KEY"
MOST_ANSWER_BYTES = 16 << 20
BUSY = {408, 425, 429, 503}  # asked to come again
CONNECT_S = 20.0


class Unavailable(Exception):
    """The server gives no usable answer now; another try may.

    is_busy: it asked to wait. pause_s: for so long. is_closed: only an idle connection was closed, by a restart or by age.
    """

    def __init__(
        self, reason: str, pause_s: float | None = None, is_busy: bool = False, is_closed: bool = False
    ) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.is_busy = is_busy
        self.is_closed = is_closed


class BadAnswer(Exception):
    """A complete answer that cannot be used; another try would give the same."""


class WrongServer(Exception):
    """The server holds another model than the job needs."""


class JsonClient:
    """JSON requests to one address, over connections that are kept open between requests."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = url, timeout_s
        self.scheme, self.host, self.port, self.base = split_url(url)
        self.key = os.environ.get(KEY_VARIABLE, "")
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

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
        message = self.scrubbed(" ".join(data[:300].decode("utf-8", "replace").split()))
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
                self.drop_idle()
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

    def drop_idle(self) -> None:
        """Close the connections that no request uses."""
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

    def scrubbed(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self.key, "[key]") if self.key else text


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


def _seconds(text: str | None) -> float | None:
    try:
        return min(max(float(text or ""), 0.0), 300.0)
    except ValueError:
        return None
