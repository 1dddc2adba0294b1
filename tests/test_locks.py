"""File locks between processes."""

from __future__ import annotations

import subprocess
import sys

import filelock
import pytest

from ham.locks import FileLock
from ham.runtime import WorkError


def test_locks_exclude_and_vanish_with_their_process(tmp_path):
    path = tmp_path / "locks" / "x.lock"
    lock, other = FileLock(path), FileLock(path)
    assert lock.try_acquire() and not other.try_acquire()
    assert FileLock(path, enabled=False).try_acquire()
    lock.release()
    assert other.try_acquire()
    other.release(remove=True)
    assert not path.exists()
    program = (
        "import os, pathlib; from ham.locks import FileLock; "
        f"FileLock(pathlib.Path({str(path)!r})).try_acquire(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert lock.try_acquire()


def test_file_systems_without_locks_are_refused_with_the_remedy(tmp_path, monkeypatch):
    for error in (OSError(37, "No locks available"), NotImplementedError("no flock here")):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with pytest.raises(WorkError, match=r", or --no-locks if no other process writes there$"):
            FileLock(tmp_path / "x.lock", enabled=True).try_acquire()
        with pytest.raises(WorkError, match=r"use a folder on another one$"):  # a command without the option
            FileLock(tmp_path / "x.lock").try_acquire()
