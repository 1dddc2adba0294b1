"""Killing a launcher with all that it started."""

from __future__ import annotations

import contextlib
import subprocess

import psutil


def kill_all(process: subprocess.Popen) -> None:
    """Kill a launcher and its workers, which have sessions of their own, at once and without a word."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, 30)
    process.wait()
