"""Check the range of an option's value."""

from __future__ import annotations

import math

from ham.runtime import UsageError


def check_range(
    option: str,
    value: float | None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise UsageError naming the option, its value and the valid range; None and values in range pass."""
    if value is None:
        return
    bounds = [
        ("at least", at_least, lambda bound: value >= bound),
        ("more than", above, lambda bound: value > bound),
        ("at most", at_most, lambda bound: value <= bound),
        ("less than", below, lambda bound: value < bound),
    ]
    given = [(text, bound, holds) for text, bound, holds in bounds if bound is not None]
    if not math.isfinite(value) or not all(holds(bound) for _, bound, holds in given):
        expected = " and ".join(f"{text} {bound:g}" for text, bound, _ in given)
        raise UsageError(f"{option} is {value}; expected {expected or 'a finite number'}")
