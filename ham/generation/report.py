"""Progress of a captioning run: this process's rates, and the whole job's state over all ranks, read from its folder."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tqdm import tqdm

from ham.generation.plan import Plan
from ham.generation.status import JobWatch
from ham.runtime import DistInfo, MetricsLog, log


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
        status, elapsed = self.watch.scan(), max(time.monotonic() - self.start, 1e-9)
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
        else:
            log.info(
                "%d of %d images (all ranks), %.2f images/s, %s%s",
                status.images_done,
                status.images,
                images_per_s,
                rates,
                "" if left_s is None else f", {left_s:.0f} s left",
            )
