"""Facts about a run beside its figures (seeds, revisions, machine), and how the page writes numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ham.runtime import git_revision
from scripts.demo_report.folder import METHODS, Row, RunFolder

PACKAGES = ("torch", "transformers", "open_clip_torch", "accelerate", "scikit-learn", "numpy", "pillow")


def loss_means(tuning_log: list[Row]) -> tuple[float, float] | None:
    """Return the mean loss of the first and of the last tenth of the logged steps; None for a short log.

    Batches are grouped by length, so that single values depend on the length of their captions.
    """
    losses = [row["loss"] for row in tuning_log if "loss" in row]
    if len(losses) < 2:
        return None
    part = max(1, len(losses) // 10)
    return sum(losses[:part]) / part, sum(losses[-part:]) / part


def seeds_of(run: RunFolder) -> str:
    seeds = {
        "world": run.world["seed"],
        "styles": run.styles["seed"],
        "style prompts": run.tuning["training"].get("seed"),
        "captions": run.plan["settings"]["seed"],
        **{METHODS.get(name, "pretraining"): one.config["seed"] for name, one in run.trainings.items()},
    }
    return group_by_value(seeds)


def revisions_of(run: RunFolder) -> str:
    revisions = {
        "styles": run.styles["git_revision"],
        "style prompts": run.tuning["git_revision"],
        "captions": run.plan["info"]["git_revision"],
        **{METHODS.get(name, "pretraining"): one.revision for name, one in run.trainings.items()},
        "direct transfer": run.transfer_revision,
        "this page": git_revision(),
    }
    return group_by_value(revisions)


def group_by_value(values: dict[str, Any]) -> str:
    """Return each value once, with what it belongs to: "1 (pretraining, IRRA), 0 (world)"."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(str(value), []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return ", ".join(f"{value} ({', '.join(those)})" for value, those in names.items())


def describe_machine() -> dict[str, str]:
    """Return the machine and the installed packages."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = []
    for name in PACKAGES:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {
        "Processor": f"{cpu}, {plural(os.cpu_count() or 1, 'core')}",
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(packages),
    }


def number(value: float) -> str:
    """Return a number with two significant decimals below 10, one below 100, none above."""
    value = float(value)
    digits = 0 if abs(value) >= 100 or value == round(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time as 8 s, 12 min 5 s or 1 h 4 min."""
    seconds = round(seconds)
    minutes, rest = divmod(seconds, 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
