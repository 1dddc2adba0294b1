"""Figures over seeds: means with standard errors, paired differences, and what chance alone would do. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations


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


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
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


def by_chance(positive: int, count: int) -> float:
    """Return the probability that at least so many of `count` fair coins, or at most so few, agree (two-sided sign test)."""
    extreme = max(positive, count - positive)
    return min(1.0, 2.0 * sum(math.comb(count, hits) for hits in range(extreme, count + 1)) / 2**count)


def ranks(values: Sequence[float]) -> list[float]:
    """Rank from 1, the lowest first; equal values share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where a side is constant or there are fewer than two values."""
    first, second = ranks(one), ranks(other)
    middle = (len(first) + 1) / 2
    spread = math.sqrt(
        sum((rank - middle) ** 2 for rank in first) * sum((rank - middle) ** 2 for rank in second)
    )
    if not spread:
        return None
    return (
        sum((rank - middle) * (with_it - middle) for rank, with_it in zip(first, second, strict=True))
        / spread
    )


def by_chance_ordered(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the share of all orders of `one` that agree with `other` at least as well as it does (up to 8 values)."""
    found = spearman(one, other)
    if found is None:
        return None
    agreeing = [spearman(order, other) >= found - 1e-9 for order in permutations(one)]
    return sum(agreeing) / len(agreeing)
