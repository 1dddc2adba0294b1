"""How far a job is, read from its folder alone, and the progress of a running one; works while others write, from any node."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ham.generation.plan import Plan, load_plan
from ham.generation.shards import STATUSES, partial_file, receipt_file, rows_file, shard_range
from ham.records import check_int, check_kind, read_json
from ham.runtime import DistInfo, MetricsLog, UsageError, log


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


def read_receipt(file: Path) -> dict:
    """Read a shard's receipt. Raises UsageError naming what is damaged."""
    try:
        receipt = check_kind(read_json(file), dict, str(file))
        for key in ("images", *STATUSES, "tokens"):
            check_int(receipt.get(key), f"{file}: {key}", 0, 2**53)
        for reason, count in check_kind(receipt.get("reasons"), dict, f"{file}: reasons").items():
            check_int(count, f"{file}: reasons: {ascii(reason)[:80]}", 0, 2**53)
    except UsageError as error:
        raise UsageError(
            f"{error}; the receipt is damaged: delete it and {file.stem}.jsonl, their images are captioned again"
        ) from None
    return receipt


class JobWatch:
    """Scan a job's folder again and again; receipts, which never change, are read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._receipts: dict[int, dict] = {}

    def scan(self) -> JobStatus:
        """Count what is on disk now."""
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
            receipt = self._receipts[shard] = read_receipt(receipt_file(self.plan.folder, shard))
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
        counts = {name: data.count(f'"status": "{name}"'.encode()) for name in STATUSES}
        size = len(shard_range(shard, self.plan.shard_size, len(self.plan.images)))
        status.shards_open += 1
        done = counts["failed"] + counts["accepted"] // self.plan.settings["captions_per_image"]
        status.images_done += min(size, done)
        status.accepted += counts["accepted"]
        status.rejected += counts["rejected"]
        status.failed += counts["failed"]
        age = max(0.0, time.time() - changed)
        status.last_change_s = age if status.last_change_s is None else min(age, status.last_change_s)


def describe(folder: Path) -> str:
    """Describe in a few lines how far a job is, for `caption.py status`. Raises UsageError when the folder holds no job."""
    plan = load_plan(folder)
    status = JobWatch(plan).scan()
    images_pct = 100.0 * status.images_done / status.images
    lines = [
        f"{folder}: {'complete' if status.complete else 'in progress'}",
        f"  images    {status.images_done} of {status.images} ({images_pct:.1f} %), {status.failed} failed",
        f"  shards    {status.shards_done} of {status.shards} done, {status.shards_open} begun",
        f"  captions  {status.accepted} accepted, {status.rejected} rejected ({status.acceptance_pct:.1f} % accepted)",
    ]
    lines += [f"            {ascii(reason)[1:-1]}: {count}" for reason, count in status.reasons.most_common()]
    if status.last_change_s is not None:
        lines.append(f"  last rows written {status.last_change_s:.0f} s ago")
    merged = folder / "captions.json"
    lines.append(f"  captions.json {'is there' if merged.exists() else 'not merged yet'}")
    return "\n".join(lines)


class Reporter:
    """Count what this process does; rank 0 shows a bar on a terminal, a line per period elsewhere, and metrics.jsonl."""

    def __init__(self, plan: Plan, place: DistInfo, every_s: float = 15.0) -> None:
        self.plan, self.place = plan, place
        self.watch = JobWatch(plan)
        self.on_terminal = place.is_main and sys.stderr.isatty()
        self.every_s = min(every_s, 2.0) if self.on_terminal else every_s
        self.counts: Counter[str] = Counter()
        self.start = self.last = time.monotonic()
        self.bar: tqdm | None = None

    def __enter__(self) -> Reporter:
        self.start = self.last = time.monotonic()
        if self.place.is_main:
            self.begun_at = self.watch.scan().images_done
            self.metrics = MetricsLog(self.plan.folder / "metrics.jsonl")
        if self.on_terminal:
            self.bar = tqdm(
                total=len(self.plan.images),
                initial=self.begun_at,
                unit="image",
                desc="captions",
                dynamic_ncols=True,
            )
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.place.is_main and self.counts and error is None:
            self._report()
        if self.bar is not None:
            self.bar.close()

    def add(self, **counts: int) -> None:
        """Count images (finished), accepted, rejected, failed, tokens of this process."""
        self.counts.update(counts)

    def tick(self) -> None:
        """Report if a period has passed."""
        if self.place.is_main and time.monotonic() - self.last >= self.every_s:
            self.last = time.monotonic()
            self._report()

    def _report(self) -> None:
        status = self.watch.scan()
        elapsed = max(time.monotonic() - self.start, 1e-9)
        images_per_s = max(status.images_done - self.begun_at, 0) / elapsed
        own = {name: self.counts[name] / elapsed for name in ("accepted", "rejected", "tokens")}
        left_s = (status.images - status.images_done) / images_per_s if images_per_s else None
        captions_per_s = own["accepted"] + own["rejected"]
        self.metrics.write(
            images_done=status.images_done,
            images=status.images,
            accepted=status.accepted,
            rejected=status.rejected,
            failed=status.failed,
            images_per_s=round(images_per_s, 3),
            captions_per_s=round(captions_per_s, 3),
            tokens_per_s=round(own["tokens"], 1),
            left_s=None if left_s is None else round(left_s),
        )
        rates = (
            f"{captions_per_s:.1f} captions/s and {own['tokens']:.0f} tokens/s here, "
            f"{status.acceptance_pct:.1f} % accepted"
        )
        if self.bar is not None:
            self.bar.n = status.images_done
            self.bar.set_postfix_str(rates)
            return
        log.info(
            "%d of %d images (all ranks), %.2f images/s, %s%s",
            status.images_done,
            status.images,
            images_per_s,
            rates,
            "" if left_s is None else f", {left_s:.0f} s left",
        )
