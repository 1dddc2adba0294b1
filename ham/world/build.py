"""Build a world on disk: draw and describe it with all cores, then write the annotation files, `world.json` last.

A folder without `world.json` is not a world: a build that was stopped cannot be taken for a complete one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.records import read_json, write_json, write_jsonl
from ham.runtime import UsageError, WorkError, log, progress
from ham.world.domains import DOMAINS, FOUNDATION, POOL, PRESETS, WORLD_VERSION
from ham.world.plan import Plan, plan_world
from ham.world.sheet import write_contact_sheet
from ham.world.write import processed_tokens, take_shot, write_texts

ANNOTATION = {
    "CUHK-PEDES": "reid_raw.json",
    "ICFG-PEDES": "ICFG-PEDES.json",
    "RSTPReid": "data_captions.json",
}
CHUNK = 40  # pictures in one job
TEXT_CHUNK = 500

_at_work: tuple[Plan, Path] | None = None  # what this worker process builds


def build_world(
    out: Path, preset: str, seed: int = 0, workers: int | None = None, foundation: bool = True
) -> bool:
    """Build the world of `preset` and `seed` in the folder `out`; the same for every number of workers.

    workers: processes; None = one for each core. foundation: False leaves out the images and texts that only the stand-in
    weights are made of, half of the work; all other files are the same bytes, and world.json says so. Returns False where the
    folder already holds this very world. Raises UsageError for an unknown preset and for a folder that holds anything else.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: not known; use one of {', '.join(PRESETS)}")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: expected 1 or more")
    settings = {
        "preset": preset,
        "seed": seed,
        "version": WORLD_VERSION,
        "settings": _plain(asdict(PRESETS[preset])),
        **({} if foundation else {"without": [FOUNDATION]}),
    }
    if _is_complete(out, settings):
        log.info("%s is complete: the world of preset %s and seed %d", out, preset, seed)
        return False
    out.mkdir(parents=True, exist_ok=True)
    plan = plan_world(PRESETS[preset], seed)
    if not foundation:
        plan = replace(
            plan,
            shots=[shot for shot in plan.shots if shot.domain != FOUNDATION],
            preset=replace(plan.preset, texts=0),
        )
    rows, texts = _make(plan, out, workers or core_count())
    counts = _write_domains(out, plan, rows)
    if foundation:
        counts[FOUNDATION] = _write_foundation(out, rows[FOUNDATION], texts)
    write_json(
        out / "truth" / "annotators.json",
        {
            annotator.annotator_id: annotator.manner
            for staff in plan.staffs.values()
            for annotator in staff.annotators
        },
    )
    write_contact_sheet(out, plan)
    write_json(out / "world.json", {**settings, "counts": counts})
    log.info("%s: %d pictures, %d texts", out, len(plan.shots), len(texts))
    return True


def core_count() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Give settings as they read back from JSON: lists for tuples."""
    return {
        key: _plain(item) if isinstance(item, dict) else list(item) if isinstance(item, tuple) else item
        for key, item in value.items()
    }


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Tell whether `out` is this very world (True) or free (False). Raises UsageError where it is neither."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; expected a folder that is new or empty")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / "world.json").is_file():
        raise UsageError(
            f"--out {out}: not empty and not a complete world (no world.json): other files, or a build that "
            "was stopped; delete it or name another folder"
        )
    found = read_json(out / "world.json")
    settings = {**settings, "without": settings.get("without", [])}
    found = {"without": [], **found} if isinstance(found, dict) else {}
    wanted = {key: (found.get(key), value) for key, value in settings.items()}
    other = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if not other:
        return True
    key = next(iter(other))
    what = f"{key} {other[key][0]!r:.60} instead of {other[key][1]!r:.60}"
    raise UsageError(
        f"--out {out}: holds a world of other settings ({what}); delete it or name another folder"
    )


# ------------------------------------------------------------------------------------------------------------- the workers


def _begin(plan: Plan, out: Path) -> None:
    global _at_work
    _at_work = (plan, out)


def _begin_worker(plan: Plan, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    _begin(plan, out)


def _leave_with(parent: int) -> None:
    """End this worker once its parent is gone: one that was killed cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(job: tuple[str, int, int]) -> list[Any]:
    kind, start, stop = job
    plan, out = _at_work
    if kind == "texts":
        return write_texts(plan, start, stop)
    return [take_shot(plan, shot, out) for shot in plan.shots[start:stop]]


def _make(plan: Plan, out: Path, workers: int) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Make all pictures and texts. Returns the rows of each domain, in the plan's order, and the texts."""
    jobs = [
        ("shots", start, min(start + CHUNK, len(plan.shots))) for start in range(0, len(plan.shots), CHUNK)
    ]
    jobs += [
        ("texts", start, min(start + TEXT_CHUNK, plan.preset.texts))
        for start in range(0, plan.preset.texts, TEXT_CHUNK)
    ]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in DOMAINS}
    texts: list[str] = []
    for (kind, start, _), made in zip(
        jobs, progress(_results(plan, out, jobs, workers), len(jobs), "drawing the world", "job")
    ):
        if kind == "texts":
            texts += made
            continue
        for shot, row in zip(plan.shots[start:], made):
            rows[shot.domain].append(row)
    return rows, texts


def _results(plan: Plan, out: Path, jobs: list[tuple[str, int, int]], workers: int) -> Iterator[list[Any]]:
    if workers == 1:
        _begin(plan, out)
        yield from map(_do, jobs)
        return
    # A forked worker has the plan and the imports already; elsewhere than on Linux forking is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _begin_worker, (plan, out))
    try:
        yield from pool.map(_do, jobs)
    except BrokenProcessPool:
        raise WorkError(
            f"{out}: a worker process was killed (out of memory?); delete it, try fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------------------------------------------- the files


def _write_domains(out: Path, plan: Plan, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    counts = {}
    for name in (*BENCHMARKS, POOL):
        if name == POOL:
            write_json(out / name / "synthpedes_dataset.json", [_pool_record(row) for row in rows[name]])
        else:
            write_json(out / name / ANNOTATION[name], [_record(name, row) for row in rows[name]])
        write_jsonl(out / "truth" / f"{name}-images.jsonl", (row["image"] for row in rows[name]))
        write_jsonl(
            out / "truth" / f"{name}-captions.jsonl",
            (caption for row in rows[name] for caption in row["captions"]),
        )
        counts[name] = {
            split: {"persons": share.persons, **_count(rows[name], split)}
            for split, share in plan.preset.splits[name].items()
        }
    return counts


def _count(rows: list[dict[str, Any]], split: str) -> dict[str, int]:
    captions = [len(row["captions"]) for row in rows if row["image"]["split"] == split]
    return {"images": len(captions), "captions": sum(captions)}


def _record(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Give one record of a benchmark's annotation, keys as in the real file."""
    image, captions = row["image"], [caption["caption"] for caption in row["captions"]]
    if name == "RSTPReid":
        return {
            "id": image["person_id"],
            "img_path": image["image_path"],
            "captions": captions,
            "split": image["split"],
        }
    return {
        "split": image["split"],
        "captions": captions,
        "file_path": image["image_path"],
        "processed_tokens": [processed_tokens(caption) for caption in captions],
        "id": image["person_id"],
    }


def _pool_record(row: dict[str, Any]) -> dict[str, Any]:
    image = row["image"]
    return {
        "id": image["person_id"],
        "file_path": image["image_path"],
        "attributes": [",".join(image["attributes"].values())],
        "captions": [row["plain"]],
        "prompt_caption": [row["short"]],
    }


def _write_foundation(out: Path, rows: list[dict[str, Any]], texts: list[str]) -> dict[str, int]:
    folder = out / FOUNDATION
    hinted = [caption for row in rows for caption in row["hinted"]]
    write_jsonl(folder / "images.jsonl", (row["image"] for row in rows))
    write_jsonl(folder / "captions.jsonl", hinted)
    write_jsonl(folder / "texts.jsonl", ({"caption": text} for text in texts))
    write_jsonl(
        folder / "short.jsonl",
        ({"image_path": row["image"]["image_path"], "caption": row["short"]} for row in rows),
    )
    return {"images": len(rows), "captions": len(hinted), "texts": len(texts), "short": len(rows)}
