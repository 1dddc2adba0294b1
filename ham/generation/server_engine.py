"""The server engine: captions by OpenAI-compatible servers that hold an exported captioner. No torch, no model in this process.

    source() ─▶ todo ─▶ threads of server 1 ─┐
                    └▶ threads of server 2 ──┴▶ results ─▶ (job, captions)

All servers take images from one queue, so a slow one gets fewer. A failing server is left for a growing pause, checked again,
and used again; its images go back into the queue.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ham.generation.config import JobOptions
from ham.generation.engines import Caption, Job, Result, Source
from ham.generation.server_client import Account, Expected, ServerClient, Unavailable, WrongServer
from ham.generation.server_export import LoadPng, read_export
from ham.generation.style_draws import Draw
from ham.records import NO_STYLE
from ham.runtime import UsageError, WorkError, log

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
TRIES = 5  # failures of one image, at a server that answers other requests, until it becomes a row


def count_styles(options: JobOptions) -> int:
    """Return the number of styles of the export; also check the options that only this engine has."""
    if not options.server:
        raise UsageError("--engine server needs --server URL [URL ...]")
    for url in options.server:
        ServerClient(url, options.server_timeout_s)
    if len(set(options.server)) < len(options.server):
        raise UsageError("--server: an address is listed twice")
    if not options.is_greedy or options.top_p != 1.0:
        raise UsageError(
            "--engine server decodes greedily: a sampled token could be a style token, which servers do not mask alike; "
            "use --temperature 0, or the native engine"
        )
    return read_export(options)[0].num_styles


def open_engine(options: JobOptions, captions_per_image: int) -> ServerEngine:
    """Check the servers and return the engine."""
    expected, facts = read_export(options)
    assert options.server
    servers = [Server(ServerClient(url, options.server_timeout_s)) for url in options.server]
    engine = ServerEngine(
        servers,
        expected,
        LoadPng(facts["size_px"]),
        options.concurrency,
        captions_per_image,
        options.server_patience_s,
    )
    engine.connect()
    engine.settings |= {"prompt": facts["prompt"], "template": facts["template"]}
    return engine


# ------------------------------------------------------------------------------------------------------------- the servers


@dataclass
class Server:
    """A server and its condition. account: what it said when last checked, None before that and while it is left."""

    client: ServerClient
    account: Account | None = None
    failures: int = 0
    ready_at: float = 0.0
    is_refused: bool = False
    last_error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def leave(self, error: Unavailable) -> None:
        """Leave the server for a growing pause; unless it is only busy, it is checked before it is used again."""
        with self.lock:
            now = time.monotonic()
            self.last_error = str(error)
            if now < self.ready_at:
                return  # another thread has just left it
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.failures)
            self.failures += not error.is_closed
            self.ready_at = now + (pause if error.pause_s is None else error.pause_s)
            if not error.is_busy:
                self.account = None
        if not error.is_closed:
            log.warning("%s; tried again in %.1f s", error, self.ready_at - now)


@dataclass
class Item:
    """A job in the queue, with the captions that it has so far."""

    job: Job
    captions: dict[Draw, Caption] = field(default_factory=dict)
    tries: int = 0


class ServerEngine:
    """Caption with several servers at once."""

    def __init__(
        self,
        servers: list[Server],
        expected: Expected,
        load: LoadPng,
        concurrency: int,
        captions_per_image: int,
        patience_s: float,
    ) -> None:
        self.servers, self.expected, self.load, self.patience_s = servers, expected, load, patience_s
        self.concurrency = concurrency
        self.slots = max(1, concurrency // captions_per_image)  # images in work per server
        self.settings: dict[str, Any] = {"engine": "server"}
        self.info: dict[str, Any] = {"num_styles": expected.num_styles}
        self.seconds: dict[str, float] = {}
        self.agreed: Account | None = None
        self.last_answer = time.monotonic()
        self.todo: queue.Queue[Item] = queue.Queue()
        self.results: queue.Queue[Item | BaseException] = queue.Queue()
        self.is_closed = threading.Event()
        self.threads: list[threading.Thread] = []

    @property
    def batch_images(self) -> int:
        return 2 * self.slots * len(self.servers)  # as many wait as are in work

    # -------------------------------------------------------------------------------------------------- checking servers

    def connect(self) -> None:
        """Check all servers; at least one must answer. Raises UsageError for a wrong one, WorkError when none answers."""
        self.last_answer = time.monotonic()
        while True:
            for server in self.servers:
                if server.account is None and time.monotonic() >= server.ready_at:
                    self._check(server)
            if any(server.account for server in self.servers):
                break
            self._check_patience()
            time.sleep(0.1)
        assert self.agreed
        self.settings |= {"model": f"{self.agreed.digest}", "dtype": "as served"}
        self.info["servers"] = [
            {
                "url": server.client.url,
                "model": server.account.model,
                "version": server.account.version,
                **server.account.details,
            }
            for server in self.servers
            if server.account
        ]

    def _check(self, server: Server) -> None:
        """Check one server; leave it when it does not answer. Raises UsageError when it holds another model."""
        try:
            account = server.client.check(self.expected)
        except Unavailable as error:
            server.leave(error)
            return
        except WrongServer as error:
            raise UsageError(str(error)) from None
        if self.agreed is not None and account.digest != self.agreed.digest:
            raise UsageError(
                f"{server.client.url}: holds another model than the job was begun with (it calls it {account.model}, and "
                "answers the probe image otherwise)"
            )
        self.agreed = self.agreed or account
        self.last_answer = time.monotonic()
        server.account = account
        log.info("%s: %s, version %s", server.client.url, account.model, account.version)

    def _check_patience(self) -> None:
        waited = time.monotonic() - self.last_answer
        if waited > self.patience_s:
            reasons = "; ".join(server.last_error or server.client.url for server in self.servers)
            raise WorkError(
                f"no server has given a caption for {waited:.0f} s ({reasons[:500]}); the same command continues"
            )

    # --------------------------------------------------------------------------------------------------------- captioning

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job with its captions as its server answers. Raises WorkError when no server answers for long."""
        in_work = 0
        self.last_answer = time.monotonic()
        while True:
            while in_work < self.batch_images and (job := source()) is not None:
                self.todo.put(Item(job))
                in_work += 1
            if not in_work:
                return
            self._start_threads()  # after the first image: its reader processes are forked before there are threads
            item = self._next_result()
            in_work -= 1
            yield item.job, [item.captions[draw] for draw in item.job.draws]

    def _next_result(self) -> Item:
        while True:
            try:
                result = self.results.get(timeout=0.2)
            except queue.Empty:
                self._check_patience()
                continue
            if isinstance(result, BaseException):
                raise result
            return result

    def _start_threads(self) -> None:
        if self.threads:
            return
        for server in self.servers:
            for number in range(self.slots):
                thread = threading.Thread(
                    target=self._serve, args=(server,), name=f"{server.client.url} {number}", daemon=True
                )
                self.threads.append(thread)
                thread.start()

    def _serve(self, server: Server) -> None:
        """Caption images with one server until the engine closes."""
        try:
            while not self.is_closed.is_set() and not server.is_refused:
                account = self._account_of(server)
                if account is None:
                    self.is_closed.wait(0.05)
                    continue
                try:
                    item = self.todo.get(timeout=0.2)
                except queue.Empty:
                    continue
                self._caption(server, account, item)
        except BaseException as error:  # a bug or a refusal: the main thread raises it
            self.results.put(error)

    def _account_of(self, server: Server) -> Account | None:
        """Return the server's account when it may be used now; one thread at a time checks it again after a failure."""
        if time.monotonic() < server.ready_at:
            return None
        account = server.account
        if account is not None or not server.lock.acquire(blocking=False):
            return account
        try:
            if server.account is not None:
                return server.account
            fresh = self._recheck(server)
        finally:
            server.lock.release()
        return fresh

    def _recheck(self, server: Server) -> Account | None:
        try:
            account = server.client.check(self.expected)
        except Unavailable as error:
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**server.failures)
            server.failures += 1
            server.last_error = str(error)
            server.ready_at = time.monotonic() + pause
            return None
        except WrongServer as error:
            self._refuse(server, str(error))
            return None
        if self.agreed is not None and account.digest != self.agreed.digest:
            self._refuse(
                server,
                f"{server.client.url}: now holds another model than the job was begun with (it calls it {account.model}, "
                "and answers the probe image otherwise)",
            )
            return None
        server.account = account
        log.info("%s answers again", server.client.url)
        return account

    def _refuse(self, server: Server, reason: str) -> None:
        server.is_refused = True
        server.last_error = reason
        if all(other.is_refused for other in self.servers):
            raise UsageError(reason)
        log.error("%s; it is not used any more", reason)

    def _caption(self, server: Server, account: Account, item: Item) -> None:
        """Request all captions that an image lacks at once, so that the server's prefix cache serves them together."""
        missing = [draw for draw in item.job.draws if draw not in item.captions]
        png = item.job.pixels.tobytes()
        problems: list[Unavailable | WrongServer] = []

        def ask(draw: Draw) -> None:
            style = None if draw.style_id == NO_STYLE else draw.style_id
            try:
                item.captions[draw] = server.client.caption(self.expected, account, png, style)
            except (Unavailable, WrongServer) as error:
                problems.append(error)
            except BaseException as error:  # a bug: the main thread raises it
                self.results.put(error)

        others = [threading.Thread(target=ask, args=(draw,), daemon=True) for draw in missing[1:]]
        for thread in others:
            thread.start()
        ask(missing[0])
        for thread in others:
            thread.join()
        if not problems:
            server.failures = 0
            self.last_answer = time.monotonic()
            self.results.put(item)
            return
        for problem in problems:
            if isinstance(problem, WrongServer):
                self.todo.put(item)
                self._refuse(server, str(problem))
                return
        self._try_again(server, item, problems[0])

    def _try_again(self, server: Server, item: Item, problem: Exception) -> None:
        """Return an image into the queue, or give it up when the server answers other requests but not this one."""
        assert isinstance(problem, Unavailable)
        server.leave(problem)
        item.tries += not (problem.is_busy or problem.is_closed)
        if item.tries >= TRIES and self._answers(server):
            self.last_answer = time.monotonic()
            for draw in item.job.draws:
                item.captions.setdefault(draw, Caption("", 0, _row_reason(problem, server)))
            self.results.put(item)
            return
        self.todo.put(item)

    def _answers(self, server: Server) -> bool:
        try:
            server.client.check(self.expected)
        except (Unavailable, WrongServer):
            return False
        return True

    def close(self) -> None:
        """Stop the threads; requests in flight are abandoned."""
        self.is_closed.set()


def _row_reason(problem: Unavailable, server: Server) -> str:
    """Return the reason for a row: the same whichever server it was."""
    return f"server: {str(problem).removeprefix(f'{server.client.url}: ')}, {TRIES} times"[:300]
