"""Starting several processes of one command, and killing a launcher with all that it started."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import psutil

# torchrun; the number of processes and the program follow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def kill_all(process: subprocess.Popen) -> None:
    """Kill a launcher and its workers, which have sessions of their own, at once and without a word."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, 30)
    process.wait()
