"""Who may write what: one lock file per shard, so that two jobs on one output share the work and never write one shard.

POSIX record locks (`fcntl.lockf`): the system frees them when their process dies, however it dies, and NFS (v4, or v3 with
lockd) carries them between nodes. A file system without them is refused unless the user vouches with `--no-locks`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from ham.runtime import WorkError

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FileLock:
    """An exclusive lock that dies with its process. The file carries no data and vanishes on release.

    Record locks belong to the process: two FileLocks of one process do not exclude each other, and closing any other handle
    of the file would free the lock, so nothing else may open it.
    """

    def __init__(self, path: Path, enabled: bool = True) -> None:
        self.path, self.enabled = path, enabled
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Raises WorkError where the file system has no locks."""
        if not self.enabled:
            return True
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # a finished job's merge swept the empty folder away just now
                continue
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(handle)
                if error.errno in UNSUPPORTED:
                    raise WorkError(
                        f"{self.path.parent}: no file locks on this file system ({error.strerror}); "
                        "use another --out, or --no-locks if no other job writes there"
                    ) from None
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise
            if self._is_still_there(handle):
                self._handle = handle
                return True
            os.close(handle)  # its last holder removed it between our open and our lock: begin again

    def _is_still_there(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock file and let go."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FileLock:
        while not self.try_acquire():
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
