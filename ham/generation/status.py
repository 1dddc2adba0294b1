"""How far a job is, read from its folder alone: works while others write it, from any node."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ham.generation.plan import Plan, load_plan
from ham.generation.shards import partial_file, receipt_file, rows_file, shard_range
from ham.records import read_json


@dataclass
class JobStatus:
    """Counts over all processes. images_done counts shards in progress by their accepted captions, so it is approximate."""

    images: int
    shards: int
    shards_done: int = 0
    shards_open: int = 0
    images_done: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    last_change_s: float | None = None  # since the newest partial file was written

    @property
    def complete(self) -> bool:
        return self.shards_done == self.shards

    @property
    def acceptance_pct(self) -> float:
        return 100.0 * self.accepted / max(self.accepted + self.rejected, 1)


class JobWatch:
    """Scan a job's folder again and again; receipts, which never change, are read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._receipts: dict[int, dict] = {}

    def scan(self) -> JobStatus:
        """Count what lies on disk now."""
        plan, folder = self.plan, self.plan.folder
        status = JobStatus(len(plan.images), plan.num_shards)
        names = {path.name for path in folder.iterdir()}
        for shard in range(plan.num_shards):
            if rows_file(folder, shard).name in names:
                self._add_done(status, shard)
            elif partial_file(folder, shard).name in names:
                self._add_open(status, shard)
        return status

    def _add_done(self, status: JobStatus, shard: int) -> None:
        receipt = self._receipts.get(shard)
        if receipt is None:
            receipt = self._receipts[shard] = read_json(receipt_file(self.plan.folder, shard))
        status.shards_done += 1
        status.images_done += receipt["images"]
        status.accepted += receipt["accepted"]
        status.rejected += receipt["rejected"]
        status.failed += receipt["failed"]
        status.tokens += receipt["tokens"]
        status.reasons.update(receipt["reasons"])

    def _add_open(self, status: JobStatus, shard: int) -> None:
        try:
            file = partial_file(self.plan.folder, shard)
            data, changed = file.read_bytes(), file.stat().st_mtime
        except FileNotFoundError:  # finished between the listing and now
            return
        counts = {
            name: data.count(f'"status": "{name}"'.encode()) for name in ("accepted", "rejected", "failed")
        }
        size = len(shard_range(shard, self.plan.shard_size, len(self.plan.images)))
        status.shards_open += 1
        status.images_done += min(
            size, counts["failed"] + counts["accepted"] // self.plan.settings["captions_per_image"]
        )
        status.accepted += counts["accepted"]
        status.rejected += counts["rejected"]
        status.failed += counts["failed"]
        age = max(0.0, time.time() - changed)
        status.last_change_s = age if status.last_change_s is None else min(age, status.last_change_s)


def describe(folder: Path) -> str:
    """Say in a few lines how far a job is, for `caption.py status`. Raises UsageError when the folder holds no job."""
    plan = load_plan(folder)
    status = JobWatch(plan).scan()
    images_pct = 100.0 * status.images_done / status.images
    lines = [
        f"{folder}: {'complete' if status.complete else 'in progress'}",
        f"  images    {status.images_done} of {status.images} ({images_pct:.1f} %), {status.failed} failed",
        f"  shards    {status.shards_done} of {status.shards} done, {status.shards_open} begun",
        f"  captions  {status.accepted} accepted, {status.rejected} rejected ({status.acceptance_pct:.1f} % accepted)",
    ]
    lines += [f"            {reason}: {count}" for reason, count in status.reasons.most_common()]
    if status.last_change_s is not None:
        lines.append(f"  last rows written {status.last_change_s:.0f} s ago")
    merged = folder / "captions.json"
    lines.append(f"  captions.json {'is there' if merged.exists() else 'not merged yet'}")
    return "\n".join(lines)
