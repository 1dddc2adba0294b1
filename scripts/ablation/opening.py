"""How ablation.md opens: what was run, where and when, and one headline that the figures alone decide."""

from __future__ import annotations

import math
from typing import Any

from scripts.ablation.rows import HERO, REFERENCE
from scripts.ablation.statistics import Difference, interval, mean_of, paired
from scripts.ablation.tables import by_seed, seeds_said, shown


def opening(result: dict[str, Any]) -> list[str]:
    """Give the page's first paragraphs."""
    settings, rows = result["settings"], result["rows"]
    seeds = sorted({seed for row in rows.values() for seed in row["seeds"]})
    reid, tuning, per_image = settings["reid"], settings["tuning"], settings["captions"]["per_image"]
    steps = settings["images"] * per_image // reid["batch_size"] * reid["epochs"]
    return [
        "# The paper's Table 1 in miniature\n",
        f"{headline(rows)}\n",
        f"    {result['command']}\n",
        f"Preset {settings['preset']}, {seeds_said(seeds)} (another world, clustering, tuning and retrieval training each). "
        f"{settings['images']:,} images of the pool, {per_image} captions each; in every row {steps:,} retrieval steps of "
        f"{reid['batch_size']} pairs; style prompts take {tuning['steps']:,} steps of {tuning['batch_size']} records. "
        f"{'; '.join(result['machines'])}. {result['began']} to {result['ended']} UTC. "
        f"Collected at commit {result['git_revision']}, "
        f"weights {', '.join(f'{name} {digest}' for name, digest in result['weights'].items())}.\n",
    ]


def headline(rows: dict[str, Any]) -> str:
    """Say whether captions in many manners beat static ones, by how much, and how sure that is."""
    hero, reference = by_seed(rows, HERO), by_seed(rows, REFERENCE)
    difference = paired(hero, reference)
    if difference is None:
        return "**Captions in many manners and static ones are not both measured on one seed yet: nothing can be said.**"
    shared = [seed for seed in hero if seed in reference]
    count = f"{len(shared)} seed{'s' if len(shared) > 1 else ''}"
    text = (
        f"Captions in many manners (KMeans + UPS) give a Rank-1 of {average(hero, shared):.1f}, static ones "
        f"{average(reference, shared):.1f}: {shown(difference, signed=True)} points over {count}"
    )
    return f"**{text}{verdict(rows, difference, shared)}** {context(rows, shared)}".strip()


def verdict(rows: dict[str, Any], difference: Difference, seeds: list[int]) -> str:
    """Say what the difference allows to conclude; its 95 % interval must leave 0 out before anything is claimed."""
    inside = interval(difference)
    if inside is None:
        noise = math.hypot(*(rows[row]["seeds"][seeds[0]]["binomial"] for row in (HERO, REFERENCE)))
        return (
            ". One seed says nothing about other worlds; by its queries alone the difference has a standard error of up "
            f"to {noise:.1f}."
        )
    low, high = inside
    said = (
        f", above 0 in {difference.positive} of {difference.count}; 95 % interval {low:+.1f} to {high:+.1f}. "
    )
    if low > 0:
        return said + "So they help here."
    if high < 0:
        return said + "So they harm here: the paper's claim does not hold on this world."
    return said + "Too few seeds, or too small an effect, to tell them apart for sure."


def context(rows: dict[str, Any], seeds: list[int]) -> str:
    """DistInfo the difference between start and ceiling, and beside plain queries, on the same seeds where they have them."""
    said = []
    sides = [by_seed(rows, row) for row in (REFERENCE, HERO, "ceiling", "none")]
    static, both, ceiling, start = (
        average(side, seeds) if all(seed in side for seed in seeds) else None for side in sides
    )
    if start is not None:
        said.append(f"the start, without training on the pool, has {start:.1f}")
    if ceiling is not None:
        said.append(f"true human captions reach {ceiling:.1f}")
        if ceiling > static:
            share = 100 * (both - static) / (ceiling - static)
            said[-1] += f", so that this is {share:.0f} % of the way from static ones to them"
    plain = paired(by_seed(rows, HERO, "plain"), by_seed(rows, REFERENCE, "plain"))
    said.append(f"with plain queries the difference is {shown(plain, signed=True)}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def average(side: dict[int, float], seeds: list[int]) -> float:
    return mean_of([side[seed] for seed in seeds]).mean
