"""The report's opening and its end: what the run reached, the pipeline with its numbers, the world, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.report.page import (
    Section,
    duration,
    facts,
    figures,
    moved,
    note,
    number,
    picture,
    plural,
    table,
    text,
)
from ham.runtime import git_revision
from scripts.demo_report.folder import METHODS, RunFolder
from scripts.demo_report.retrieval import mean_of, text_to_image
from scripts.demo_report.wording import Wording

PACKAGES = (
    "torch",
    "transformers",
    "open_clip_torch",
    "accelerate",
    "safetensors",
    "scikit-learn",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Passerby:
    """A pedestrian of the world with a caption that a simulated annotator wrote."""

    image: Path
    dataset: str
    caption: str


def head(run: RunFolder, wordings: Sequence[Wording]) -> str:
    """Give what stands above the sections: the title, the claim, what is small here, the run's main figures."""
    rows = {one.source: one.diversity for one in wordings}
    counts, pairs = run.styles["counts"], run.captions
    before, after = mean_of(run.start["results"]), mean_of(run.transfer["results"])
    shown = [
        (f"{counts['styles']:,}", f"styles found in {plural(counts['captions'], 'human caption')}"),
        (
            f"{pairs['captions_accepted']:,}",
            f"captions written for {plural(pairs['images'], 'pedestrian image')}",
        ),
    ]
    if "distinct_2" in rows["HAM"] and "distinct_2" in rows["humans"]:
        ham, humans = (number(rows[source]["distinct_2"]) for source in ("HAM", "humans"))
        shown.append((f"{ham} %", f"distinct word pairs; humans: {humans} %"))
    shown.append(
        (
            f"{number(before)} → {number(after)}",
            "mean Rank-1 on three unseen benchmarks, before and after pretraining",
        )
    )
    if run.times:
        shown.append(
            (
                duration(sum(seconds for _, seconds in run.times)),
                "from nothing to this page"
                if run.times_are_whole
                else "of work, as the stages timed themselves",
            )
        )
    tiny = (
        " This is the world of --fast: it shows that all parts fit, and learns next to nothing."
        if run.world["preset"] == "nano"
        else ""
    )
    return (
        '<p class="kicker">HAM · a run of the whole paper, small</p>'
        "<h1>Captions in the manner of thousands of human annotators</h1>"
        '<p class="lead">Finding a person by a sentence needs millions of captioned images, and captions written by one model '
        "all sound alike. HAM takes the manner of human captions apart from their content, learns a short prompt for every "
        "manner inside a frozen LLaVA, describes images in all of them, and trains a CLIP on the result. "
        '<a href="https://arxiv.org/abs/2503.09962">arXiv 2503.09962</a>, CVPR 2025.</p>'
        + figures(shown)
        + '<div class="caution"><p>The pictures are drawn, the annotators simulated, and the world’s LLaVA and CLIP are small '
        "stand-ins that were trained for it. The figures show whether the method works in this world; they are not the "
        "paper’s." + text(tiny) + "</p></div>"
    )


def pipeline_section(run: RunFolder) -> Section:
    """Show the five stages with what went in and what came out."""
    counts, captions, settings = run.styles["counts"], run.captions, run.plan["settings"]
    losses = [row["loss"] for row in run.tuning_log if "loss" in row]
    loss = (
        f"loss {losses[0]:.2f} → {losses[-1]:.2f}"
        if len(losses) > 1
        else f"mean loss {run.tuning_log[-1]['train_loss']:.2f}"
    )
    before, after = mean_of(run.start["results"]), mean_of(run.transfer["results"])
    tuned = [
        f"{METHODS[name]} {number(next(iter(text_to_image(one.results()).values()))['R1'])}"
        for name, one in run.finetunes.items()
    ]
    steps = [
        (
            "Styles",
            f"<b>{counts['captions']:,}</b> human captions, their content made vague, are clustered into "
            f"<b>{counts['styles']:,}</b> manners.",
            f"{counts['records']:,} instruction records",
        ),
        (
            "Style prompts",
            f"Ten tokens for each of <b>{run.tuning['num_styles']:,}</b> styles and the projector are learned; "
            "language model and vision tower stay frozen.",
            loss,
        ),
        (
            "Captions",
            f"<b>{captions['images']:,}</b> images, {settings['captions_per_image']} styles each: "
            f"<b>{captions['captions_accepted']:,}</b> captions.",
            f"{number(captions['acceptance_pct'])} % pass the filters",
        ),
        (
            "Pretraining",
            "A CLIP learns from these pairs with SDM alone and meets three benchmarks that it has never seen.",
            f"mean Rank-1 {number(before)} → {number(after)}",
        ),
        (
            "Finetuning",
            "IRRA and RDE go on from there on a benchmark, at half their learning rate.",
            "Rank-1: " + ", ".join(tuned),
        ),
    ]
    body = (
        '<ol class="steps">'
        + "".join(
            f"<li><em>{place}</em><h3>{name}</h3><p>{said}</p><small>{text(result)}</small></li>"
            for place, (name, said, result) in enumerate(steps, start=1)
        )
        + "</ol>"
    )
    return Section(
        "Five stages that meet on disk",
        "Styles are learned from human captions, put into a captioner as prompts, "
        "and the captions that it writes teach a retrieval model.",
        "Each stage is the command that one calls on real data; each wrote files that the next one read.",
        body,
    )


def world_section(run: RunFolder, people: Sequence[Passerby]) -> Section:
    """Show some pedestrians with what annotators wrote."""
    counts = run.world["counts"]
    train = sum(counts[name]["train"]["captions"] for name in BENCHMARKS)
    persons = "".join(
        f'<div class="person">{picture(one.image, "a drawn pedestrian", (152, 400))}<div>'
        f"<p>{text(one.caption)}</p><small>{text(one.dataset)}</small></div></div>"
        for one in people
    )
    pool = counts["SYNTH-PEDES"]["train"]
    return Section(
        "The world",
        "It works on CUHK-PEDES, ICFG-PEDES, RSTPReid and a million images of SYNTH-PEDES, which "
        "cannot be shipped.",
        f"Pedestrians are drawn and simulated annotators, each with habits of their own, describe them: {train:,} "
        f"training captions of three benchmarks, and a pool of {plural(pool['images'], 'image')} to be captioned "
        f"(preset {run.world['preset']}, seed {run.world['seed']}).",
        f'<div class="people">{persons}</div>',
    )


def machine_section(run: RunFolder) -> Section:
    """Say where, with what and how long it ran."""
    kind = (
        "each step, starting programs and loading models included"
        if run.times_are_whole
        else ("as the stages timed their own work, added over processes")
    )
    rows = [[step, duration(seconds)] for step, seconds in run.times]
    rows.append(["together", duration(sum(seconds for _, seconds in run.times))])
    finetunes = {METHODS[name]: one for name, one in run.finetunes.items()}
    revisions = {
        "styles": run.styles["git_revision"],
        "style prompts": run.tuning["git_revision"],
        "captions": run.plan["info"]["git_revision"],
        "pretraining": run.pretrain.revision,
        **{name: one.revision for name, one in finetunes.items()},
        "direct transfer": run.transfer["git_revision"],
    }
    seeds = {
        "world": run.world["seed"],
        "styles": run.styles["seed"],
        "style prompts": run.tuning["training"].get("seed"),
        "captions": run.plan["settings"]["seed"],
        "pretraining": run.pretrain.config["seed"],
        **{name: one.config["seed"] for name, one in finetunes.items()},
    }
    about = {
        **machine(),
        "Seeds": grouped(seeds),
        "Git revision": grouped(revisions),
        "This page": f"made by revision {git_revision()} from {run.folder}",
    }
    body = (
        f'<div class="pair"><div>{facts(about)}</div><div>'
        f"{table(['step', 'time'], rows, {len(rows) - 1: 'strong'})}{note(f'Times: {kind}.')}</div></div>"
    )
    return Section(
        "Machine, versions, seeds, times",
        "It tunes the captioner on four GPUs and pretrains on eight.",
        f"{plural(os.cpu_count() or 1, 'core')} of this machine; the same seeds give the same run whatever the "
        "number of processes.",
        body,
    )


def grouped(values: dict[str, Any]) -> str:
    """Name each value once, with what it belongs to: "1 (pretraining, IRRA), 0 (world)"."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(str(value), []).append(name)
    return ", ".join(
        f"{value} ({', '.join(those)})" if len(names) > 1 else value for value, those in names.items()
    )


def machine() -> dict[str, Any]:
    """Describe this machine and the installed packages."""
    cpu, memory = platform.processor() or platform.machine(), None
    for file, key in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        lines = Path(file).read_text(encoding="utf-8").splitlines() if Path(file).is_file() else []
        found = next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
        cpu, memory = (found or cpu, memory) if key == "model name" else (cpu, found)
    about = {"Processor": f"{cpu}, {plural(os.cpu_count() or 1, 'core')}"}
    if memory:
        about["Memory"] = f"{int(memory.split()[0]) / 2**20:.1f} GiB"
    return {
        **about,
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def ending(before: float, after: float) -> str:
    """Give the closing line of the page."""
    return (
        f"In this run the mean Rank-1 of direct transfer {moved(before, after)}. One page, no scripts, nothing loaded from "
        "elsewhere; made by scripts/demo_report/__main__.py."
    )
