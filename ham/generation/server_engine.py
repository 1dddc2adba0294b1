"""The server engine: captions by OpenAI-compatible servers that hold an exported captioner. No torch, no model in this process.

    source() ─▶ todo ─▶ threads of server 1 ─┐
                    └▶ threads of server 2 ──┴▶ results ─▶ (job, captions)

All servers take images from one queue, so a slow one gets fewer. A failing server is left for a growing pause, checked again,
and used again; its images go back into the queue.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ham.generation.config import JobOptions
from ham.generation.engines import Caption, Job, Result, Source
from ham.generation.server_client import Account, ServerClient
from ham.generation.server_export import LoadPng, read_export
from ham.generation.server_http import Unavailable, WrongServer
from ham.generation.server_pool import Server, ServerPool
from ham.generation.style_draws import Draw
from ham.records import NO_STYLE
from ham.runtime import UsageError

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


def untrained_styles(options: JobOptions) -> list[int]:
    """Return the styles that the export records as untrained."""
    return read_export(options)[1]["untrained_styles"]


def open_engine(options: JobOptions, captions_per_image: int) -> ServerEngine:
    """Check the servers and return the engine."""
    expected, facts = read_export(options)
    assert options.server
    servers = [Server(ServerClient(url, options.server_timeout_s)) for url in options.server]
    pool = ServerPool(servers, expected, options.server_patience_s)
    engine = ServerEngine(pool, LoadPng(facts["size_px"]), options.concurrency, captions_per_image)
    engine.connect()
    engine.settings |= {"prompt": facts["prompt"], "template": facts["template"]}
    return engine


@dataclass
class Item:
    """A job in the queue, with the captions that it has so far."""

    job: Job
    captions: dict[Draw, Caption] = field(default_factory=dict)
    tries: int = 0


class ServerEngine:
    """Caption with several servers at once. concurrency: requests in flight per server."""

    def __init__(self, pool: ServerPool, load: LoadPng, concurrency: int, captions_per_image: int) -> None:
        self.pool, self.load = pool, load
        self.slots = max(1, concurrency // captions_per_image)  # images in work per server
        self.settings: dict[str, Any] = {"engine": "server"}
        self.info: dict[str, Any] = {"num_styles": pool.expected.num_styles}
        self.seconds: dict[str, float] = {}
        self.todo: queue.Queue[Item] = queue.Queue()
        self.results: queue.Queue[Item | BaseException] = queue.Queue()
        self.is_closed = threading.Event()
        self.threads: list[threading.Thread] = []

    @property
    def batch_images(self) -> int:
        return 2 * self.slots * len(self.pool.servers)  # as many wait as are in work

    def connect(self) -> None:
        """Check all servers, and record what they said of themselves."""
        agreed = self.pool.connect()
        self.settings |= {"model": agreed.digest, "dtype": "as served"}
        self.info["servers"] = self.pool.describe()

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job with its captions as its server answers. Raises WorkError when no server answers for long."""
        in_work = 0
        self.pool.note_answer()
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
                self.pool.check_patience()
                continue
            if isinstance(result, BaseException):
                raise result
            return result

    def _start_threads(self) -> None:
        if self.threads:
            return
        for server in self.pool.servers:
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
                account = self.pool.account_of(server)
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

    def _caption(self, server: Server, account: Account, item: Item) -> None:
        """Request all captions that an image lacks at once, so that the server's prefix cache serves them together."""
        missing = [draw for draw in item.job.draws if draw not in item.captions]
        png = item.job.pixels.tobytes()
        problems: list[Unavailable | WrongServer] = []

        def ask(draw: Draw) -> None:
            style = None if draw.style_id == NO_STYLE else draw.style_id
            try:
                item.captions[draw] = server.client.caption(self.pool.expected, account, png, style)
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
            if server.account is not account and not self.pool.confirm(server, account):
                self._put_back(item, missing)
                return
            server.failures = 0
            self.pool.note_answer()
            self.results.put(item)
            return
        for problem in problems:
            if isinstance(problem, WrongServer):
                self._put_back(item, missing)
                self.pool.refuse(server, str(problem))
                return
        problem = problems[0]
        assert isinstance(problem, Unavailable)
        server.leave(problem)
        if self._is_given_up(server, item, problem):
            return
        made = [draw for draw in missing if draw in item.captions]
        is_kept = problem.is_busy or not made or self.pool.confirm(server, account)
        self._put_back(item, [] if is_kept else made)

    def _put_back(self, item: Item, draws: list[Draw]) -> None:
        """Return an image into the queue without the captions of `draws`: another model may have written them."""
        for draw in draws:
            item.captions.pop(draw, None)
        self.todo.put(item)

    def _is_given_up(self, server: Server, item: Item, problem: Unavailable) -> bool:
        """Return whether an image has failed for good: its server answers other requests, but not this one."""
        item.tries += not (problem.is_busy or problem.is_closed)
        if item.tries < TRIES or not self.pool.answers(server):
            return False
        self.pool.note_answer()
        for draw in item.job.draws:
            item.captions.setdefault(draw, Caption("", 0, _row_reason(problem, server)))
        self.results.put(item)
        return True

    def close(self) -> None:
        """Stop the threads; requests in flight are abandoned."""
        self.is_closed.set()


def _row_reason(problem: Unavailable, server: Server) -> str:
    """Return the reason for a row: the same whichever server it was."""
    return f"server: {str(problem).removeprefix(f'{server.client.url}: ')}, {TRIES} times"[:300]
