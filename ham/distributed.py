"""Collectives and process-group life cycle: gathering with gradients, sums over ranks, leaving a group.

Rank and world size themselves are read by `ham.runtime.dist_info`. torch is imported where it is used, as in `ham.runtime`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Part = TypeVar("Part")


def is_initialized() -> bool:
    """Return whether this process belongs to a torch process group."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def no_gather(values: Tensor) -> Tensor:
    """Return `values` unchanged: the features of this process are compared with each other only."""
    return values


def gather_rows(values: Tensor) -> Tensor:
    """Concatenate the rows [B, ...] of all processes in rank order: [world * B, ...], with gradients.

    The gradient of this process's rows is the sum of what every process computes for them.
    """
    import torch
    from torch.distributed.nn.functional import all_gather

    with warnings.catch_warnings():  # deprecated since torch 2.14; its successor does not exist in 2.2
        warnings.simplefilter("ignore", FutureWarning)
        return torch.cat(all_gather(values.contiguous()))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if is_initialized():
        import torch.distributed as dist

        dist.all_reduce(values)
    return values


def on_all_ranks(work: Callable[[range], Part], count: int) -> list[Part]:
    """Call `work(range)` for this rank's slice of `count` items; return the results of all ranks in order."""
    if not is_initialized():
        return [work(range(count))]
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    parts: list[Part] = [None] * world
    dist.all_gather_object(parts, work(range(count * rank // world, count * (rank + 1) // world)))
    return parts


@dataclass(frozen=True)
class DieWithParent:
    """Worker initialization that ends a worker when its parent is killed.

    torch's own watchdog misses a parent that dies while the worker starts.
    """

    parent: int

    def __call__(self, worker: int) -> None:
        prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != self.parent:
            os._exit(1)


def leave(code: int) -> NoReturn:
    """End this process with `code`; skip the interpreter's shutdown in a process group.

    A gloo thread may still be letting go of the last collective's tensors. When it asks for the interpreter's lock while the
    interpreter shuts down, CPython ends the thread inside a destructor and C++ aborts a process whose work is done (seen in
    1 of 22 short runs of two processes; torch 2.14, Python 3.11).
    """
    if not is_initialized():
        sys.exit(code)
    if code == 0:
        sys.modules[
            "torch.distributed"
        ].destroy_process_group()  # or a rank that leaves early aborts the others
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
