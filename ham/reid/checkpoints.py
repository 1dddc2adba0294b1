"""What a training run keeps on disk: checkpoints that appear whole, the trainer's state for an exact resume, the best so far.

OUT/config.yaml  metrics.jsonl  failed.jsonl
OUT/last/        model.safetensors, config.yaml, trainer_state/{progress.json, optimizer.pt, clean.npy}
OUT/val-best/    model.safetensors, config.yaml, results.json       chosen on the val splits
OUT/test-best/   the same, chosen on the *test* splits: never a result to report
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError

from ham.records import atomic_write, read_json, write_json
from ham.reid.config import FREE_ON_RESUME, EvalConfig, TrainConfig
from ham.runtime import UsageError, WorkError, git_revision, log

LAST, VAL_BEST, TEST_BEST = "last", "val-best", "test-best"


@dataclass
class Progress:
    """Where a run stands: the next batch of the next epoch, optimizer steps made, and the best mean R1 by checkpoint name."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ checkpoints


def save_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace a checkpoint folder as a whole: `write` fills a new one beside it, which then takes its place by rename.

    When writing fails, on a full disk say, the previous checkpoint stands as it was. Raises WorkError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale)
    beside, previous = None, _previous(folder)
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
            f"{folder} could not be saved: {error}; the previous checkpoint is untouched. Make room and run the "
            "same command again"
        ) from error
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    beside.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def find_folder(folder: Path) -> Path | None:
    """Give a checkpoint folder, restored if a kill fell between its two renames, or None."""
    if not folder.exists() and _previous(folder).exists():
        _previous(folder).rename(folder)
    return folder if folder.exists() else None


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


# ------------------------------------------------------------------------------------------------------------ trainer state


def write_state(
    folder: Path,
    progress: Progress,
    optimizer: dict[str, Any],
    scaler: dict[str, Any] | None,
    clean: np.ndarray | None,
) -> None:
    """Write trainer_state/. All randomness is derived from (seed, epoch, batch), so that no generator's state is needed.

    clean: RDE's labels of the running epoch.
    """
    write_json(folder / "progress.json", asdict(progress))
    with atomic_write(folder / "optimizer.pt", "wb") as file:
        torch.save({"optimizer": optimizer, "scaler": scaler}, file)
    if clean is not None:
        with atomic_write(folder / "clean.npy", "wb") as file:
            np.save(file, clean)


def read_state(folder: Path) -> tuple[Progress, dict[str, Any], dict[str, Any] | None, np.ndarray | None]:
    """Read what `write_state` wrote. Raises UsageError when a file is missing or broken."""
    try:
        tensors = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a cut or foreign file makes torch raise many types
        raise UsageError(
            f"{folder}/optimizer.pt cannot be read ({error}); start anew with another --output_dir"
        ) from None
    clean = np.load(folder / "clean.npy") if (folder / "clean.npy").exists() else None
    return Progress(**read_json(folder / "progress.json")), tensors["optimizer"], tensors["scaler"], clean


# ------------------------------------------------------------------------------------------------------------------- config


def plain(value: Any) -> Any:
    """Turn a config into YAML's own types."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_config(path: Path, config: TrainConfig | EvalConfig) -> None:
    """Write the resolved config, headed by the git revision; it can be given to --config again."""
    with atomic_write(path) as file:
        file.write(f"# git revision {revision_at_start()}\n")
        yaml.safe_dump(plain(config), file, sort_keys=False, allow_unicode=True)


@lru_cache(maxsize=1)
def revision_at_start() -> str:
    """Name the commit that runs, which is the one of the start: the checkout may move on below a long run."""
    return git_revision()


def refuse_other_config(path: Path, config: TrainConfig) -> None:
    """Raise UsageError when the run whose checkpoint holds the config at `path` was made with other options than these."""
    old, new = yaml.safe_load(path.read_text(encoding="utf-8")), plain(config)
    changed = [
        f"{key}: {old.get(key)} there, {new[key]} now"
        for key in new
        if key not in FREE_ON_RESUME and old.get(key) != new[key]
    ]
    if changed:
        raise UsageError(
            f"{path.parent.parent} holds a run with other options ({'; '.join(changed)}); give another "
            "--output_dir, or the same options to resume it"
        )


def trim_metrics(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that lie after the step resumed from: they are about to be made again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            log.info("%s: %d lines after step %d dropped", path, len(lines) - len(kept), step)
            with atomic_write(path) as file:
                file.writelines(kept)
