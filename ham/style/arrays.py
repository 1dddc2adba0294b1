"""Feature arrays [N, D]: checks, moments, z-scores and unit rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ham.runtime import UsageError

DISTANCES = ("l2", "cosine")


def moments(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation per dimension, [D] each, summed in float64."""
    mean = features.mean(0, dtype=np.float64)
    return mean.astype(np.float32), features.std(0, dtype=np.float64).astype(np.float32)


def prepared(features: ArrayLike, distance: str, standardize: bool) -> NDArray[np.float32]:
    """Check features [N, D] and return a float32 copy: z-scores if asked (0 where constant), unit rows for cosine."""
    check_distance(distance)
    array = np.array(features, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise UsageError(
            f"features have the shape {list(array.shape)}; expected [captions, dimensions], neither of them 0"
        )
    broken = np.flatnonzero(~np.isfinite(array).all(1))
    if len(broken):
        raise UsageError(
            f"{len(broken)} of {len(array)} feature rows are not finite, the first is row {broken[0]}: "
            "look for a broken encoder or an overflow of half precision"
        )
    if standardize:
        mean, deviation = moments(array)
        array -= mean
        array /= np.where(deviation > 1e-6 * (np.abs(mean) + 1e-12), deviation, np.inf)
    return unit_rows(array) if distance == "cosine" else array


def unit_rows(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row of zeros stays."""
    length = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(length > 0, length, 1)


def check_count(name: str, value: int, most: int | None, what: str) -> None:
    if value < 1:
        raise UsageError(f"{name} {value}: expected at least 1 {what}")
    if most is not None and value > most:
        raise UsageError(
            f"{name} {value}: more {what} than the {most} captions that there are; lower it or add captions"
        )


def check_distance(distance: str) -> None:
    if distance not in DISTANCES:
        raise UsageError(f"distance '{distance}' is not known; use one of {', '.join(DISTANCES)}")
