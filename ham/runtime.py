"""What every run needs whatever its stage: errors, seeds, device, rank, logging, progress, metrics.jsonl.

Knows nothing of captions, images or models. torch is imported where it is used: planning a job or asking how far one is needs
none, and it costs seconds and 250 MB.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
log = logging.getLogger("ham")

DTYPES = ("float32", "bfloat16", "float16")  # torch's names
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class UsageError(Exception):
    """The user asked for something that cannot be: a missing file, a wrong option, malformed data. Exit code 2."""


class WorkError(Exception):
    """The request was sound but the work failed: a non-finite loss, a full disk, too many broken images. Exit code 1."""


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run `main` and turn our two errors, Ctrl-C and a full disk into one clear line and an exit code.

    Returns: 0 or what `main` returned; 2 for `UsageError`; 1 for `WorkError` and operating-system errors; 130 for Ctrl-C.
    """
    try:
        return main() or 0
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except WorkError as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.stderr.write(f"failed: {error.strerror or error}{where}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped by Ctrl-C\n")
        return 130


# ---------------------------------------------------------------------------------------------------------- randomness


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from (seed, what it is for, index): the same on every machine, process and Python run."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Give a NumPy generator of its own to one purpose: `numpy_generator(0, "erasing", epoch)`."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Give a torch generator of its own to one purpose, on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, for the libraries that draw from them."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# ------------------------------------------------------------------------------------------------------ device and rank


def resolve_device(name: str = "auto") -> torch.device:
    """Turn auto | cpu | cuda | cuda:N into a device; `auto` takes this process's GPU where there is one."""
    import torch

    if name == "auto":
        name = f"cuda:{dist_info().local_rank}" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no GPU here; use --device cpu")
    return torch.device(name)


def resolve_dtype(name: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Turn auto | float32 | bfloat16 | float16 (or fp32, bf16, fp16) into a dtype; `auto` is bfloat16 on a GPU."""
    if name == "auto":
        name = "bfloat16" if device is not None and device.type == "cuda" else "float32"
    name = DTYPE_ALIASES.get(name, name)
    if name not in DTYPES:
        raise UsageError(
            f"dtype '{name}' is not known; use one of auto, {', '.join([*DTYPES, *DTYPE_ALIASES])}"
        )
    import torch

    return getattr(torch, name)


@dataclass(frozen=True)
class DistInfo:
    """Where this process stands among all the processes of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def dist_info() -> DistInfo:
    """Read rank, world size and local rank as torchrun, accelerate and DeepSpeed set them (RANK, WORLD_SIZE, LOCAL_RANK)."""
    return DistInfo(
        *(
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    )


# ------------------------------------------------------------------------------------------------------ logging, progress


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the package's log to standard error, one line each; ranks other than 0 only warn, and say who they are."""
    place = dist_info()
    handler = logging.StreamHandler()
    who = "" if place.world_size == 1 else f"[rank {place.rank}] "
    handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(level if place.is_main else logging.WARNING)
    log.propagate = False


def progress(
    items: Iterable[Item], total: int | None = None, what: str = "", unit: str = "it", every_s: float = 15.0
) -> Iterator[Item]:
    """Yield `items` with a bar (rate, ETA) on a terminal and a plain log line every `every_s` seconds elsewhere."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if not dist_info().is_main:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            rate = done / (now - start)
            left = "" if total is None else f"/{total}, {(total - done) / rate:.0f} s left"
            log.info("%s: %d%s, %.1f %s/s", what, done, left, rate, unit)


# ------------------------------------------------------------------------------------------------------------ accounting


class MetricsLog:
    """Append one JSON object per line to `metrics.jsonl`, flushed at once; a line also carries `time_s` since the start."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.start = time.monotonic()

    def write(self, **fields: Any) -> None:
        line = json.dumps({**fields, "time_s": round(time.monotonic() - self.start, 3)}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def git_revision() -> str:
    """Name the checkout's commit, with `+changes` when the tree is not clean; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
