"""The trainer's state in a checkpoint: progress, optimizer, gradient scaler and the method's arrays, for an exact resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ham.records import atomic_write, read_json, write_json
from ham.reid.protocol import RetrievalMethod
from ham.reid.run import Progress
from ham.runtime import UsageError

START_ANEW = "start a new run with another --output_dir (--weights may be this checkpoint's folder)"


def write_state(
    folder: Path,
    progress: Progress,
    optimizer: dict[str, Any],
    scaler: dict[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    data: str = "",
) -> None:
    """Write trainer_state/. Random draws are derived from (seed, epoch, batch), so no generator's state is needed.

    arrays: the method's training state. data: digest of the training pairs.
    """
    write_json(folder / "progress.json", asdict(progress) | {"data": data})
    with atomic_write(folder / "optimizer.pt", "wb") as file:
        torch.save({"optimizer": optimizer, "scaler": scaler}, file)
    for name, values in (arrays or {}).items():
        with atomic_write(folder / f"{name}.npy", "wb") as file:
            np.save(file, values)


@dataclass
class SavedState:
    """What trainer_state/ holds: progress, digest of the pairs ("" in old runs), optimizer and scaler, arrays by name."""

    folder: Path
    progress: Progress
    data: str
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    arrays: dict[str, np.ndarray]

    def load_arrays_into(self, method: RetrievalMethod, num_pairs: int) -> None:
        """Restore the method's training state. Raises UsageError when it does not fit the training pairs."""
        try:
            method.load_training_state(self.arrays, num_pairs)
        except UsageError as error:
            raise UsageError(f"{self.folder}: {error}; {START_ANEW}") from None

    def load_into(self, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Restore the optimizer and the gradient scaler. Raises UsageError when the state is another model's."""
        try:
            optimizer.load_state_dict(self.optimizer)
            if scaler is not None and self.scaler is not None:
                scaler.load_state_dict(self.scaler)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UsageError(
                f"{self.folder / 'optimizer.pt'} does not fit the model ({error}); {START_ANEW}"
            ) from None


def read_progress(folder: Path) -> tuple[Progress, str]:
    """Read progress.json: the progress and the digest of the pairs. Raises UsageError for anything else."""
    path = folder / "progress.json"
    values = read_json(path)
    known = {one.name for one in fields(Progress)}
    if not isinstance(values, dict) or not known <= values.keys():
        raise UsageError(f"{path}: expected an object with {', '.join(sorted(known))}; {START_ANEW}")
    counts = [values[name] for name in ("epoch", "batch", "step")]
    best = values["best"]
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(best, dict):
        raise UsageError(f"{path}: epoch, batch and step are {counts}; expected whole numbers; {START_ANEW}")
    return Progress(*counts, best), str(values.get("data", ""))


def read_state(folder: Path) -> SavedState:
    """Read what `write_state` wrote. Raises UsageError naming a file that is missing or damaged."""
    progress, data = read_progress(folder)
    path = folder / "optimizer.pt"
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        optimizer, scaler = tensors["optimizer"], tensors["scaler"]
    except Exception as error:  # a cut or foreign file makes torch raise many types
        first_line = str(error).split("\n")[0]
        raise UsageError(f"{path} is damaged or missing ({first_line}); {START_ANEW}") from None
    return SavedState(folder, progress, data, optimizer, scaler, read_arrays(folder))


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the method's arrays. Raises UsageError for a damaged one."""
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            arrays[path.stem] = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"{path} is damaged ({error}); {START_ANEW}") from None
    return arrays
