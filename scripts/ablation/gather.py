"""Gather the figures of jobs: those done in the work folder, and those that an earlier session left in ablation.json.

A job's figures are kept when the key they were made under is the one that today's settings and weights give the same job. So
sessions on several machines can each run some seeds, and the results file that they share in the repository grows.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.generation.diversity import measure
from ham.records import read_json
from ham.runtime import UsageError, numpy_generator
from scripts.ablation.graph import Job, is_done, make_graph, result_file
from scripts.ablation.places import Places
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import Settings

FILE = "ablation.json"
Figures = dict[str, dict[str, Any]]  # by a job's name
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
JOB_NAME = re.compile(r"seed(\d+)/(\w+?)(?:-(\w+?))?(?:-1of(\d+))?")


def read_kept(results: Path) -> Figures:
    """Read the figures that a results folder holds; none where there is no file. Raises UsageError for one without keys."""
    file = results / FILE
    if not file.is_file():
        return {}
    found = read_json(file)
    jobs = found.get("jobs") if isinstance(found, dict) else None
    if not isinstance(jobs, dict) or not all(isinstance(one, dict) and "key" in one for one in jobs.values()):
        raise UsageError(
            f"{file}: lacks the jobs' keys, so that nothing can be added; delete it, or name another --results"
        )
    return jobs


def with_kept(settings: Settings, kept: Figures) -> Settings:
    """Widen seeds and curve by what is kept: the table is to show it, whoever runs what."""
    seeds, rows, parts = list(settings.seeds), list(settings.curve.rows), list(settings.curve.parts)
    for name in kept:
        match = JOB_NAME.fullmatch(name)
        if match is None:
            continue
        seed, _, what, part = match.groups()
        seeds += [int(seed)] if int(seed) not in seeds else []
        if part is not None:
            rows += [what] if what in ROWS and what not in rows else []
            parts += [int(part)] if int(part) not in parts else []
    seeds = seeds if seeds == settings.seeds else sorted(seeds)
    return replace(
        settings, seeds=seeds, curve=replace(settings.curve, rows=rows, parts=sorted(parts, reverse=True))
    )


def graph_of(settings: Settings) -> dict[str, Job]:
    """Return the jobs of all seeds and rows."""
    return make_graph(settings, settings.seeds, list(ROWS))


def check_kept(settings: Settings, work: Path, results: Path) -> None:
    """Raise UsageError if `results` holds figures of other settings or weights that would be lost."""
    kept = read_kept(results)
    graph = graph_of(with_kept(settings, kept))
    lost = [
        name
        for name, one in kept.items()
        if name not in graph or (one["key"] != graph[name].key and not is_done(work, graph[name]))
    ]
    if lost:
        raise UsageError(
            f"{results / FILE}: {len(lost)} of its {len(kept)} jobs, {lost[0]} the first, were done with other "
            "settings or weights and would be lost; name another --results, or delete the file"
        )


def gather(settings: Settings, work: Path, results: Path) -> tuple[dict[str, Job], Figures]:
    """Return all jobs, and the figures of those done here or before. Raises UsageError if some would be lost."""
    check_kept(settings, work, results)
    kept, graph, figures = read_kept(results), graph_of(settings), {}
    for name, job in graph.items():
        before = kept[name] if name in kept and kept[name]["key"] == job.key else None
        if is_done(work, job):
            found = read_json(result_file(work, name))
            same_run = before is not None and before["began"] == found["began"]
            figures[name] = before if same_run else figures_of(work, job, found)
        elif before is not None:
            figures[name] = before
    return graph, figures


def figures_of(work: Path, job: Job, found: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables need of a job's result, and where it comes from."""
    entry = {"key": job.key, "seconds": found["seconds"], "began": found["began"], "machine": machine()}
    if job.kind == "eval":
        return entry | {
            queries: {
                name: {metric: round(found[queries][name][metric], 4) for metric in METRICS}
                | {"queries": found[queries][name]["queries"]}
                for name in BENCHMARKS
            }
            for queries in ("human", "plain")
        }
    if job.kind == "captions":
        captions = read_json(Places(work, job.seed).captions(job.what))
        return entry | {
            "content": {name: round(value, 4) for name, value in found["content"].items()},
            "diversity": found["diversity"],
            "one_each": measure(one_each(captions, job.seed), job.seed),
            "kept_although_rejected": found["kept_although_rejected"],
        }
    return entry | {
        name: found[name] for name in ("steps", "loss_first", "loss_last", "style_moved") if name in found
    }


def one_each(captions: dict[str, list[str]], seed: int) -> list[str]:
    """Draw one caption of each image: sets of one size in all rows, as variety falls when a set grows."""
    return [
        texts[numpy_generator(seed, "one each", image).integers(len(texts))]
        for image, texts in captions.items()
    ]


def machine() -> str:
    """Return the name of the processor and its number of cores."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.processor() or platform.machine()}, {os.cpu_count()} cores"
