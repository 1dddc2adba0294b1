"""What every stage needs: seeds, device and rank, logging, progress, metrics.jsonl.

torch is imported only where it is used, because importing it costs seconds and 250 MB that planning a job does not need.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

from ham.errors import UsageError as UsageError
from ham.errors import WorkError as WorkError
from ham.errors import exit_code_of as exit_code_of

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
log = logging.getLogger("ham")

DTYPES = ("float32", "bfloat16", "float16")  # torch's names
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


# ---------------------------------------------------------------------------------------------------------- randomness


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from (seed, what it is for, index): the same on every machine, process and Python run."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose: `numpy_generator(0, "erasing", epoch)`."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator for one purpose, on `device`."""
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
    """Return the device for auto | cpu | cuda | cuda:N; `auto` takes this process's GPU where there is one."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,4}))?", name)
    if match is None:
        hint = {"gpu": "cuda", "mps": "cpu"}.get(name.lower(), f"cuda:{name}" if name.isdecimal() else "auto")
        raise UsageError(f"--device {name!r}: expected auto, cpu, cuda or cuda:N; try {hint}")
    import torch

    if name == "auto":
        name = f"cuda:{dist_info().local_rank}" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no GPU here; use --device cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise UsageError(f"--device {name}: torch sees {count} GPUs here, cuda:0 to cuda:{count - 1}")
    return device


def resolve_dtype(name: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype for auto | float32 | bfloat16 | float16 (or fp32, bf16, fp16); `auto` is bfloat16 on a GPU."""
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
    """Rank of this process among all processes of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def dist_info() -> DistInfo:
    """Read rank, world size and local rank as torchrun, accelerate and DeepSpeed set them (RANK, WORLD_SIZE, LOCAL_RANK).

    Raises UsageError for values that are no numbers or do not fit together.
    """
    world_size = _number_from_environment("WORLD_SIZE", 1, at_least=1)
    rank = _number_from_environment("RANK", 0)
    if rank >= world_size:
        raise UsageError(
            f"environment: RANK={rank} with WORLD_SIZE={world_size}; expected a rank below the world size"
        )
    return DistInfo(rank, world_size, _number_from_environment("LOCAL_RANK", 0))


def _number_from_environment(name: str, default: int, at_least: int = 0) -> int:
    text = os.environ.get(name, "") or str(default)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < at_least:
        raise UsageError(
            f"environment: {name}={text!r}: expected a whole number from {at_least} up, as torchrun sets it; "
            f"unset {name} to run one process"
        )
    return int(text)


# ------------------------------------------------------------------------------------------------------ logging, progress


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the package's log to standard error, one line each; ranks other than 0 only warn, with their rank."""
    place = dist_info()
    handler = logging.StreamHandler()
    who = "" if place.world_size == 1 else f"[rank {place.rank}] "
    handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(level if place.is_main else logging.WARNING)
    log.propagate = False
    for message in (
        "This DataLoader will create",
        "torch.distributed.nn.functional.all_gather is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)  # nothing that a user can or should act on


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
    """Return the checkout's commit, with `+changes` when the tree is not clean; `unknown` outside a checkout."""
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
