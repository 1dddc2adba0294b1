"""Draw the sample of a captioning job that a person looks at."""

from __future__ import annotations

from ham.generation.plan import Plan
from ham.generation.shards import is_done, read_rows, rows_file
from ham.records import CaptionRow
from ham.runtime import numpy_generator

DESCRIBED_BY = ("model_path", "prompt", "template", "seed", "temperature", "vision_tower")


def draw_samples(plan: Plan, count: int = 40) -> dict[str, list[CaptionRow]]:
    """Return the rows of at most `count` images of the finished shards, drawn by the job's seed."""
    finished = {shard for shard in range(plan.num_shards) if is_done(plan.folder, shard)}
    order = numpy_generator(plan.settings["seed"], "samples").permutation(len(plan.images))
    chosen = [index for index in order.tolist() if index // plan.shard_size in finished][:count]
    samples: dict[str, list[CaptionRow]] = {plan.images[index]: [] for index in chosen}
    for shard in sorted({index // plan.shard_size for index in chosen}):
        for row in read_rows(rows_file(plan.folder, shard)):
            if row.image in samples:
                samples[row.image].append(row)
    return samples


def describe_job(plan: Plan) -> str:
    """Return one line on how the captions were made."""
    known = {**plan.info, **plan.settings}
    return " · ".join(f"{name}: {known[name]}" for name in DESCRIBED_BY if known.get(name) is not None)
