"""What the paper's ablation reports for the rows that we share with it."""

from __future__ import annotations

# Rank-1 of direct transfer on CUHK-PEDES, ICFG-PEDES, RSTPReid, percent. Source: HAM (arXiv 2503.09962), the ablation of its
# captions; `one_style` is its adapter tuned on human captions as templates. Which of its two captioners wrote is not said.
PAPER: dict[str, tuple[float, float, float]] = {
    "static": (36.60, 21.38, 39.75),
    "templates": (39.73, 23.51, 39.95),
    "one_style": (42.99, 24.59, 38.55),
    "kmeans": (52.19, 28.26, 44.65),
    "ups": (54.53, 30.57, 45.40),
    "both": (55.34, 31.89, 46.05),
}


def paper_mean(row: str) -> float:
    """Return the mean of the paper's three Rank-1."""
    return sum(PAPER[row]) / len(PAPER[row])
