"""What a training run writes: checkpoints that appear whole, and the resolved config.

OUT/config.yaml  metrics.jsonl  failed.jsonl  .lock
OUT/last/        model.safetensors, config.yaml, trainer_state/{progress.json, optimizer.pt, the method's arrays as .npy}
OUT/val-best/    model.safetensors, config.yaml, results.json       chosen on the val splits
OUT/test-best/   the same, chosen on the *test* splits: never a result to report
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ham.locks import LOCKS_MISSING
from ham.records import atomic_write, write_json
from ham.reid.evaluate import Row
from ham.reid.run import Run
from ham.reid.trainer_state import write_state
from ham.reid.weights import save_method
from ham.runtime import UsageError, WorkError, dist_info, git_revision, log

if TYPE_CHECKING:
    from ham.reid.config import EvalConfig, TrainConfig

LAST, VAL_BEST, TEST_BEST = "last", "val-best", "test-best"
LOCK_WAIT_S = 10.0  # image workers of a killed run may hold its lock for a moment


@contextmanager
def lock_output(output_dir: str | Path) -> Iterator[None]:
    """Acquire the lock of a run's folder, on the first process only. Raises UsageError when another run holds it."""
    if not dist_info().is_main:
        yield
        return
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise UsageError(
            f"another training run is writing to {folder} (it holds {folder / '.lock'}); wait for it, or give another "
            "--output_dir"
        ) from None
    except OSError as error:
        if error.errno not in LOCKS_MISSING:
            raise
        log.warning("%s: this file system has no locks; do not start a second run there", folder)
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------------------------------------ checkpoints


def save_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace a checkpoint folder as a whole: `write` fills a new folder beside it, which is then renamed.

    Call it under `lock_output`: unfinished folders of an earlier process are removed. If writing fails, for example on a full
    disk, the previous checkpoint stays as it was. Raises WorkError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    beside, previous = None, previous_folder(folder)
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        beside.chmod(0o755)
        write(beside)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors wrap the system's error in their own
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise WorkError(
            f"{folder} could not be saved: {error}; the previous checkpoint is untouched. Free some space and run the "
            "same command again"
        ) from error
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    beside.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def find_folder(folder: Path) -> Path | None:
    """Return a checkpoint folder, restored if a kill came between the two renames of `save_folder`, or None."""
    if not folder.exists() and previous_folder(folder).exists():
        previous_folder(folder).rename(folder)
    return folder if folder.exists() else None


def previous_folder(folder: Path) -> Path:
    """Return where a checkpoint folder is while its successor takes its place."""
    return folder.with_name(f".{folder.name}.previous")


def save_last(run: Run) -> None:
    """Save model and trainer state for an exact resume; all processes wait. Raises WorkError for non-finite weights."""

    def write(folder: Path) -> None:
        save_method(run.method, folder)
        write_config(folder / "config.yaml", run.config)
        scaler = run.accelerator.scaler
        write_state(
            folder / "trainer_state",
            run.state,
            run.optimizer.state_dict(),
            None if scaler is None else scaler.state_dict(),
            run.method.training_state(),
            run.data,
        )

    if run.accelerator.is_main_process:
        refuse_non_finite(run)
        save_folder(Path(run.config.output_dir) / LAST, write)
    run.accelerator.wait_for_everyone()


def save_best(run: Run, name: str, rows: list[Row]) -> None:
    """Save the model with the figures by which it was chosen."""

    def write(folder: Path) -> None:
        save_method(run.method, folder)
        write_config(folder / "config.yaml", run.config)
        note = (
            "chosen on the val split"
            if name == VAL_BEST
            else "chosen on the TEST split: an upper bound, not a result; report `last` or `val-best`"
        )
        write_json(
            folder / "results.json",
            {"note": note, "epoch": run.state.epoch, "step": run.state.step, "rows": rows},
        )

    if run.accelerator.is_main_process:
        save_folder(Path(run.config.output_dir) / name, write)


def refuse_non_finite(run: Run) -> None:
    """Raise WorkError when a weight is not finite: such a checkpoint could never be resumed."""
    broken = non_finite(run.method)
    if broken:
        raise WorkError(
            f"step {run.state.step}: {broken} holds values that are not finite; training stopped and did not save them. "
            + advice_after_nan(run.config)
        )


def non_finite(model: torch.nn.Module) -> str | None:
    """Return the name of the first parameter or buffer that holds NaN or infinity, or None."""
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            return name
    return None


def advice_after_nan(config: TrainConfig) -> str:
    """Return what to do after a loss or a weight that is not finite."""
    last = Path(config.output_dir) / LAST
    if last.exists():
        found = f"The last good checkpoint is {last}"
        start = f"--weights {last}"
    else:
        found = "There is no checkpoint yet"
        start = "the same --weights"
    return (
        f"{found}. The same command would fail again: start a new run with {start}, another --output_dir, and a lower --lr "
        "or --precision fp32"
    )


# ------------------------------------------------------------------------------------------------------------------- config


def plain(value: Any) -> Any:
    """Convert a config to YAML's own types."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_config(path: Path, config: TrainConfig | EvalConfig) -> None:
    """Write the resolved config with the git revision in its first line; --config reads it again."""
    with atomic_write(path) as file:
        file.write(f"# git revision {revision_at_start()}\n")
        yaml.safe_dump(plain(config), file, sort_keys=False, allow_unicode=True)


@lru_cache(maxsize=1)
def revision_at_start() -> str:
    """Return the commit of the process's start: the checkout may change during a long run."""
    return git_revision()


def trim_metrics(path: Path, step: int) -> None:
    """Remove the lines of metrics.jsonl after the step resumed from, since those steps run again, and damaged lines."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and 0 <= _step_of(line) <= step]
    if len(kept) < len(lines):
        log.info("%s: %d lines after step %d or damaged are removed", path, len(lines) - len(kept), step)
        with atomic_write(path, "wb") as file:
            file.writelines(kept)


def _step_of(line: bytes) -> int:
    """Return a line's step, or -1 for a damaged line."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1
