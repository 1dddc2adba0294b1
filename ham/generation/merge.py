"""Merge a job's shards into captions.json, failed.jsonl and summary.json. Streams; never holds a million captions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ham.generation.diversity import measure
from ham.generation.plan import Plan
from ham.generation.shards import count_reasons, count_rows, is_done, read_rows, rows_file
from ham.locks import FileLock
from ham.records import CaptionRow, atomic_write, to_json_line, write_json
from ham.runtime import log

MEASURED = 5000  # captions that diversity is measured on, spread evenly over the job


def image_captions(
    rows: Iterable[CaptionRow], captions_per_image: int, keep_rejected: bool = False
) -> list[str]:
    """Choose an image's captions from its rows, in the order drawn; the same text twice is one caption.

    keep_rejected: fill up what is missing with the last rejected ones.
    """
    rows = list(rows)
    captions = list(dict.fromkeys(row.caption for row in rows if row.status == "accepted"))
    captions = captions[:captions_per_image]
    if keep_rejected:
        missing = captions_per_image - len(captions)
        rejected = list(dict.fromkeys(row.caption for row in rows if row.status == "rejected"))
        captions += rejected[len(rejected) - min(missing, len(rejected)) :]
    return captions


def merge(plan: Plan, keep_rejected: bool = False, locks: bool = True) -> dict[str, Any]:
    """Write captions.json, failed.jsonl and summary.json from the finished shards. Returns the summary.

    captions.json is {image: [caption, ...]} in the order of the image list; an image without a caption is not in it.
    failed.jsonl has a line for every failed image. While others still write, the files hold what is done and the summary has
    `complete: false`.
    """
    with FileLock(plan.folder / "merge.lock", locks):
        done = [shard for shard in range(plan.num_shards) if is_done(plan.folder, shard)]
        tally = _Tally(plan, len(done))
        with (
            atomic_write(plan.folder / "captions.json") as file,
            atomic_write(plan.folder / "failed.jsonl") as failed,
        ):
            separator = "{\n"
            for image, rows in _images(plan, done):
                captions = image_captions(rows, plan.settings["captions_per_image"], keep_rejected)
                tally.add(image, rows, captions)
                failed.writelines(to_json_line(entry) for entry in failures(image, rows))
                if captions:
                    file.write(f"{separator} {_json(image)}: {_json(captions)}")
                    separator = ",\n"
            file.write("{}\n" if separator == "{\n" else "\n}\n")
        summary = tally.summary()
        write_json(plan.folder / "summary.json", summary)
        if summary["complete"]:
            _sweep(plan.folder)
    if not summary["complete"]:
        log.warning(
            "%s/captions.json holds %d of %d shards; merge again when the rest is done",
            plan.folder,
            len(done),
            plan.num_shards,
        )
    return summary


def failures(image: str, rows: Iterable[CaptionRow]) -> list[dict[str, Any]]:
    """Return the lines of failed.jsonl for an image: at most one."""
    reasons = [row.reason or "" for row in rows if row.status == "failed"]
    return [{"image": image, "reason": reasons[0]}] if reasons else []


def judge(summary: dict[str, Any], max_failed_share: float, folder: Path) -> str | None:
    """Return why a complete job has failed, or None.

    It has failed when all images, or more than `max_failed_share` of them, have no caption; a share of 1 accepts anything.
    """
    merged = summary["images_merged"]
    lost = summary["images_lost"]
    is_too_much = lost > max_failed_share * merged or (lost == merged and max_failed_share < 1)
    if not summary["complete"] or not is_too_much:
        return None
    reasons = sorted(summary["reasons"].items(), key=lambda item: -item[1])
    shown = ", ".join(f"{reason} {count}" for reason, count in reasons[:4])
    return (
        f"{lost} of {merged} images have no caption, {summary['images_failed']} of them failed ({shown}); "
        f"see {folder / 'failed.jsonl'}, fix the cause and run: caption.py retry {folder}"
    )


def _images(plan: Plan, shards: Iterable[int]) -> Iterator[tuple[str, list[CaptionRow]]]:
    for shard in shards:
        for image, rows in groupby(read_rows(rows_file(plan.folder, shard)), key=lambda row: row.image):
            yield image, list(rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left beside the finished shards."""
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("*.partial"), *(folder / "locks").glob("*.lock")]:
        leftover.unlink(missing_ok=True)
    if (folder / "locks").is_dir() and not any((folder / "locks").iterdir()):
        (folder / "locks").rmdir()


class _Tally:
    """Counts over the merged images, and the captions that diversity is measured on."""

    def __init__(self, plan: Plan, shards_done: int) -> None:
        self.plan, self.shards_done = plan, shards_done
        self.counts = {"accepted": 0, "rejected": 0, "failed": 0}
        self.reasons: dict[str, int] = {}
        self.images = self.images_failed = self.images_lost = self.without_caption = (
            self.short_of_captions
        ) = 0
        self.failed: list[dict[str, str]] = []
        self.captions: list[str] = []
        self.every = max(1, len(plan.images) * plan.settings["captions_per_image"] // MEASURED)
        self._seen = 0

    def add(self, image: str, rows: list[CaptionRow], captions: list[str]) -> None:
        self.images += 1
        for name, count in count_rows(rows).items():
            self.counts[name] += count
        for reason, count in count_reasons(rows).items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        failed = failures(image, rows)
        self.images_failed += len(failed)
        self.images_lost += not captions
        self.failed += failed[: max(0, 100 - len(self.failed))]
        if not failed:
            self.without_caption += not captions
            self.short_of_captions += len(captions) < self.plan.settings["captions_per_image"]
        for caption in captions:
            if self._seen % self.every == 0:
                self.captions.append(caption)
            self._seen += 1

    def summary(self) -> dict[str, Any]:
        drawn = self.counts["accepted"] + self.counts["rejected"]
        return {
            "complete": self.shards_done == self.plan.num_shards,
            "images": len(self.plan.images),
            "images_merged": self.images,
            "images_failed": self.images_failed,
            "images_lost": self.images_lost,
            "images_without_caption": self.without_caption,
            "images_short_of_captions": self.short_of_captions,
            "captions_accepted": self.counts["accepted"],
            "captions_rejected": self.counts["rejected"],
            "acceptance_pct": round(100.0 * self.counts["accepted"] / max(drawn, 1), 3),
            "reasons": dict(sorted(self.reasons.items())),
            "diversity": measure(self.captions, self.plan.settings["seed"]),
            "first_failed": self.failed,
        }
