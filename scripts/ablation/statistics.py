"""Figures over seeds: means with standard errors, paired differences, chance. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and its standard error (None for a single seed)."""

    mean: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A paired difference over the seeds that both sides have. positive: seeds where it is above 0."""

    mean: float
    error: float | None
    count: int
    positive: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """Average, with the standard error of the mean (sample deviation over the root of the number). None of nothing."""
    if not values:
        return None
    count, mean = len(values), sum(values) / len(values)
    error = (
        math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count) if count > 1 else None
    )
    return Mean(mean, error, count)


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> Difference | None:
    """Average one - other over the seeds that both have: what differs between seeds (world, annotators) cancels out."""
    differences = [one[seed] - other[seed] for seed in sorted(one) if seed in other]
    found = mean_of(differences)
    if found is None:
        return None
    return Difference(found.mean, found.error, found.count, sum(value > 0 for value in differences))


def binomial_error(percents: Sequence[float], queries: Sequence[int]) -> float:
    """Return the standard error, in points, that the finite number of queries alone gives the mean of some percentages.

    percents: R1 of each benchmark; queries: of each. As if queries were independent; two of one image are not quite.
    """
    variance = sum(
        percent * (100.0 - percent) / number for percent, number in zip(percents, queries, strict=True)
    )
    return math.sqrt(variance) / len(percents)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def by_seed(rows: Mapping[str, Any], row: str, kind: str = "human", metric: str = "R1") -> dict[str, float]:
    """Return a row's mean over the benchmarks for each seed that it has."""
    return {seed: found[kind][metric] for seed, found in rows[row]["seeds"].items()} if row in rows else {}
