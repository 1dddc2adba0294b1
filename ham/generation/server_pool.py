"""The servers of a job: which of them may be used now, whether all hold one model, and how long none has answered."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ham.generation.server_client import Account, Expected, ServerClient
from ham.generation.server_http import Unavailable, WrongServer
from ham.runtime import UsageError, WorkError, log

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


def pause_after(failures: int) -> float:
    """Return the seconds to wait after a number of failures in a row: twice as long each time, up to a limit."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 100))


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
            pause = pause_after(self.failures) if error.pause_s is None else error.pause_s
            self.failures += not error.is_closed
            self.ready_at = now + pause
            if not error.is_busy:
                self.account = None
        if not error.is_closed:
            log.warning("%s; tried again in %.1f s", error, pause)


class ServerPool:
    """All servers of a job. agreed: what the first of them said of itself; the others must answer the probe alike."""

    def __init__(self, servers: list[Server], expected: Expected, patience_s: float) -> None:
        self.servers = servers
        self.expected = expected
        self.patience_s = patience_s
        self.agreed: Account | None = None
        self.last_answer = time.monotonic()

    def connect(self) -> Account:
        """Check all servers; at least one must answer. Raises UsageError for a wrong one, WorkError when none answers."""
        self.note_answer()
        while True:
            for server in self.servers:
                if server.account is None and time.monotonic() >= server.ready_at:
                    self._check_first(server)
            if self.agreed is not None and any(server.account for server in self.servers):
                return self.agreed
            self.check_patience()
            time.sleep(0.1)

    def account_of(self, server: Server) -> Account | None:
        """Return the server's account when it may be used now; one thread at a time checks it again after a failure."""
        if time.monotonic() < server.ready_at:
            return None
        account = server.account
        if account is not None or not server.lock.acquire(blocking=False):
            return account
        try:
            if server.account is None:
                server.account = self._check_again(server)
            return server.account
        finally:
            server.lock.release()

    def confirm(self, server: Server, account: Account) -> bool:
        """Return whether an answer counts that was requested with `account`.

        A server that was left meanwhile may hold another model by now: wait for its next check.
        """
        failures = server.failures
        while server.account is None and not server.is_refused and server.failures <= failures:
            if self.account_of(server) is None:
                time.sleep(0.02)
        return server.account is not None and server.account.digest == account.digest

    def answers(self, server: Server) -> bool:
        """Return whether a server answers the probe, as the job's model does."""
        try:
            return not self._differs(server.client.check(self.expected))
        except (Unavailable, WrongServer):
            return False

    def refuse(self, server: Server, reason: str) -> None:
        """Stop using a server. Raises UsageError when it was the last one."""
        server.is_refused = True
        server.account = None
        server.last_error = reason
        if all(other.is_refused for other in self.servers):
            raise UsageError(reason)
        log.error("%s; it is not used any more", reason)

    def note_answer(self) -> None:
        """Record that a server has answered now."""
        self.last_answer = time.monotonic()

    def check_patience(self) -> None:
        """Raise WorkError when no server has answered for too long."""
        waited = time.monotonic() - self.last_answer
        if waited > self.patience_s:
            reasons = "; ".join(server.last_error or server.client.url for server in self.servers)
            raise WorkError(
                f"no server has given a caption for {waited:.0f} s ({reasons[:500]}); the same command continues"
            )

    def describe(self) -> list[dict[str, Any]]:
        """Return what each server that answers said of itself, for plan.json."""
        return [
            {
                "url": server.client.url,
                "model": server.account.model,
                "version": server.account.version,
                **server.account.details,
            }
            for server in self.servers
            if server.account
        ]

    def _check_first(self, server: Server) -> None:
        """Check a server before the job begins; leave it when it does not answer. Raises UsageError for a wrong one."""
        try:
            account = server.client.check(self.expected)
        except Unavailable as error:
            server.leave(error)
            return
        except WrongServer as error:
            raise UsageError(str(error)) from None
        if self._differs(account):
            raise UsageError(_other_model(server, account, "holds"))
        self.agreed = self.agreed or account
        self.note_answer()
        server.account = account
        log.info("%s: %s, version %s", server.client.url, account.model, account.version)

    def _check_again(self, server: Server) -> Account | None:
        """Check a server that had failed; its lock is held. A wrong one is refused."""
        try:
            account = server.client.check(self.expected)
        except Unavailable as error:
            server.last_error = str(error)
            server.ready_at = time.monotonic() + pause_after(server.failures)
            server.failures += 1
            return None
        except WrongServer as error:
            self.refuse(server, str(error))
            return None
        if self._differs(account):
            self.refuse(server, _other_model(server, account, "now holds"))
            return None
        log.info("%s answers again", server.client.url)
        return account

    def _differs(self, account: Account) -> bool:
        return self.agreed is not None and account.digest != self.agreed.digest


def _other_model(server: Server, account: Account, holds: str) -> str:
    return (
        f"{server.client.url}: {holds} another model than the job was begun with (it calls it {account.model}, and answers the "
        "probe image otherwise)"
    )
