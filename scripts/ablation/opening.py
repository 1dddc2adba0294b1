"""The first paragraphs of ablation.md: what was run, where and when."""

from __future__ import annotations

from typing import Any

from scripts.ablation.tables import seeds_said


def opening(result: dict[str, Any]) -> list[str]:
    """Return the first paragraphs."""
    settings, rows = result["settings"], result["rows"]
    seeds = sorted({seed for row in rows.values() for seed in row["seeds"]})
    reid, tuning, per_image = settings["reid"], settings["tuning"], settings["captions"]["per_image"]
    steps = settings["images"] * per_image // reid["batch_size"] * reid["epochs"]
    return [
        "# The paper's Table 1 in miniature\n",
        f"    {result['command']}\n",
        f"Preset {settings['preset']}, {seeds_said(seeds)} (another world, clustering, tuning and retrieval training each). "
        f"{settings['images']:,} images of the pool, {per_image} captions each; in every row {steps:,} retrieval steps of "
        f"{reid['batch_size']} pairs; style prompts take {tuning['steps']:,} steps of {tuning['batch_size']} records. "
        f"{'; '.join(result['machines'])}. {result['began']} to {result['ended']} UTC. "
        f"Collected at commit {result['git_revision']}, "
        f"weights {', '.join(f'{name} {digest}' for name, digest in result['weights'].items())}.\n",
    ]
