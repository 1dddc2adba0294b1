"""Locks between processes, on one machine or on several nodes that share a file system."""

from __future__ import annotations

import errno
import inspect
import time
from pathlib import Path

import filelock

from ham.runtime import WorkError

LOCKS_MISSING = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # of a file system without locks


class FileLock:
    """An exclusive lock between processes that the system frees when its process dies, however it dies.

    Built on the filelock library (`flock`; NFS carries it between nodes). A file system without locks is refused.
    enabled: False when the user passed --no-locks, True when not; None in commands without this option, which always lock.
    The lock file stays on release, because removing it would let two processes lock two files of one name;
    `release(remove=True)` is for locks that nobody needs again.
    """

    def __init__(self, path: Path, enabled: bool | None = None) -> None:
        self.path = path
        self.enabled = enabled
        options = inspect.signature(filelock.FileLock.__init__).parameters
        native = {"fallback_to_soft": False} if "fallback_to_soft" in options else {}
        self._lock = filelock.FileLock(str(path), timeout=0, thread_local=False, **native)

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free. Raises WorkError where the file system has no locks."""
        if self.enabled is False:
            return True
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
                return True
            except filelock.Timeout:
                return False
            except FileNotFoundError:  # the folder was removed just now by the merge of a finished job
                continue
            except NotImplementedError as error:
                raise self._no_locks(str(error)) from None
            except OSError as error:
                if error.errno in LOCKS_MISSING:
                    raise self._no_locks(error.strerror) from None
                raise

    def _no_locks(self, reason: str) -> WorkError:
        remedy = "" if self.enabled is None else ", or --no-locks if no other process writes there"
        return WorkError(
            f"{self.path.parent}: no file locks on this file system ({reason}); use a folder on another one{remedy}"
        )

    def release(self, remove: bool = False) -> None:
        """Release the lock if it is held. remove: delete the lock file too."""
        if self._lock.is_locked:
            if remove:
                self.path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> FileLock:
        while not self.try_acquire():
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.release(remove=True)
