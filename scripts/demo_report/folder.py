"""Read what a run of scripts/demo.sh left on disk. Only figures; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ham.records import read_json, read_jsonl
from ham.runtime import UsageError

Row = dict[str, Any]
# Fine-tunings: folder -> starting weights and method, as the paper writes them
METHODS = {"finetune_clip": "CLIP + IRRA", "finetune_irra": "HAM + IRRA", "finetune_rde": "HAM + RDE"}
FROM_CLIP = "finetune_clip"
# The file that each stage writes last
NEEDED = {
    "world/world.json": "0, synthetic dataset",
    "styles/styles.json": "1, styles",
    "captioner/training.json": "2, style prompts",
    "captioner/manifest.json": "2, style prompts (finished)",
    "captions/summary.json": "3, captions",
    "transfer_start/evaluation.json": "4, direct transfer before pretraining",
    "pretrain/metrics.jsonl": "4, pretraining",
    "transfer/evaluation.json": "4, direct transfer",
    "finetune_irra/metrics.jsonl": "5, fine-tuning with IRRA",
    "finetune_rde/metrics.jsonl": "5, fine-tuning with RDE",
    "finetune_clip/metrics.jsonl": "5, fine-tuning from CLIP with IRRA",
}


@dataclass(frozen=True)
class Training:
    """One retrieval training: its metrics.jsonl by kind of row, its configuration and its git revision.

    chosen_step: the step with the best validation score; None without validation. seconds: over all restarts.
    """

    steps: list[Row]
    evals: list[Row]
    config: Row
    chosen_step: int | None
    revision: str
    seconds: float

    def results(self, step: int | None = None) -> list[Row]:
        """Return the test rows of the evaluation at `step`, by default the last one."""
        if step is None:
            step = max((row["step"] for row in self.evals), default=None)
        return [row for row in self.evals if row["step"] == step and row["split"] == "test"]


@dataclass(frozen=True)
class RunFolder:
    """Everything that the stages recorded about themselves.

    seconds: time of each step. wall_clock: they come from steps.jsonl and include start-up; otherwise they are the stages' own.
    """

    folder: Path
    world: Row
    styles: Row
    tuning: Row
    tuning_log: list[Row]
    plan: Row
    captions: Row
    start: list[Row]
    transfer: list[Row]
    transfer_revision: str
    trainings: dict[str, Training]
    seconds: dict[str, float]
    wall_clock: bool


def read_run(folder: str | Path) -> RunFolder:
    """Read the folder of a run. Raises UsageError that names every stage that is missing or not finished."""
    folder = Path(folder)
    check_stages(folder)
    captions = read_json(folder / "captions" / "summary.json")
    if not captions["complete"]:
        raise UsageError(
            f"{folder}/captions: {captions['images_merged']} of {captions['images']} images are captioned; "
            f"{how_to_resume(folder)}"
        )
    trainings = {name: read_training(folder / name) for name in ("pretrain", *METHODS)}
    for name, training in trainings.items():
        if not training.results():
            raise UsageError(
                f"{folder}/{name}: not finished (no evaluation in metrics.jsonl); {how_to_resume(folder)}"
            )
    tuning_log = list(read_jsonl(folder / "captioner" / "metrics.jsonl"))
    steps = folder / "steps.jsonl"
    wall_clock = steps.is_file()
    transfer = read_json(folder / "transfer" / "evaluation.json")
    return RunFolder(
        folder=folder,
        world=read_json(folder / "world" / "world.json"),
        styles=read_json(folder / "styles" / "styles.json"),
        tuning=read_json(folder / "captioner" / "training.json"),
        tuning_log=tuning_log,
        plan=read_json(folder / "captions" / "plan.json"),
        captions=captions,
        start=read_json(folder / "transfer_start" / "evaluation.json")["results"],
        transfer=transfer["results"],
        transfer_revision=transfer["git_revision"],
        trainings=trainings,
        seconds=sum_by_step(read_jsonl(steps))
        if wall_clock
        else recorded_seconds(folder, tuning_log, trainings),
        wall_clock=wall_clock,
    )


def check_stages(folder: Path) -> None:
    """Raise UsageError that names every stage whose file is missing."""
    if not folder.is_dir():
        raise UsageError(f"--run {folder}: no such folder; `bash scripts/demo.sh` creates runs/demo")
    missing = [
        f"  stage {stage}: no {file}" for file, stage in NEEDED.items() if not (folder / file).is_file()
    ]
    if missing:
        lines = "\n".join(missing)
        raise UsageError(
            f"--run {folder} lacks {len(missing)} of {len(NEEDED)} files; {how_to_resume(folder)}:\n{lines}"
        )


def how_to_resume(folder: Path) -> str:
    return f"`RUN={folder} bash scripts/demo.sh` makes what is missing"


def read_training(folder: Path) -> Training:
    """Read the output folder of `train_reid.py pretrain` or `finetune`."""
    rows = list(read_jsonl(folder / "metrics.jsonl"))
    best, config = folder / "val-best" / "results.json", folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{config}: no such file; {folder} is not an output folder of train_reid.py")
    text = config.read_text(encoding="utf-8")
    first_line = text.partition("\n")[0]
    return Training(
        steps=[row for row in rows if row["event"] == "step"],
        evals=[row for row in rows if row["event"] == "eval"],
        config=yaml.safe_load(text),
        chosen_step=read_json(best)["step"] if best.is_file() else None,
        revision=first_line.rpartition(" ")[2] if first_line.startswith("# git revision ") else "unknown",
        seconds=total_seconds(rows),
    )


def total_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """Sum `time_s` over restarts; each restart counts from 0."""
    total = last = 0.0
    for row in rows:
        if row["time_s"] < last:
            total += last
        last = row["time_s"]
    return total + last


def recorded_seconds(
    folder: Path, tuning_log: list[Row], trainings: Mapping[str, Training]
) -> dict[str, float]:
    """Return the times that the stages recorded themselves, without start-up and loading."""
    receipts = [read_json(file) for file in sorted((folder / "captions").glob("[0-9]*.json"))]
    styles = folder / "styles" / "metrics.jsonl"
    return {
        "Styles": sum(row["seconds"] for row in read_jsonl(styles)) if styles.is_file() else 0.0,
        "Style prompts": total_seconds(tuning_log),
        "Captions": sum(receipt["seconds"] for receipt in receipts),
        "Pretraining": trainings["pretrain"].seconds,
        **{f"Fine-tuning, {METHODS[name]}": trainings[name].seconds for name in METHODS},
    }


def sum_by_step(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum the rows {step, seconds} by step: an interrupted step has several."""
    seconds: dict[str, float] = {}
    for row in rows:
        seconds[row["step"]] = seconds.get(row["step"], 0.0) + row["seconds"]
    return seconds


def text_to_image(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the text-to-image rows by dataset."""
    return {row["dataset"]: row for row in rows if row["direction"] == "text-to-image"}


def finetuned(run: RunFolder, dataset: str) -> list[Row]:
    """Return every fine-tuning on one benchmark: its name, label, and text-to-image rows.

    start: direct transfer of the weights that it began from; last: the last epoch; chosen: the best one on val, or None.
    """
    found = []
    for name, label in METHODS.items():
        training = run.trainings[name]
        start = text_to_image(run.start if name == FROM_CLIP else run.transfer)[dataset]
        last = text_to_image(training.results())[dataset]
        chosen = None
        if training.chosen_step is not None:
            chosen = text_to_image(training.results(training.chosen_step)).get(dataset)
        found.append({"name": name, "label": label, "start": start, "last": last, "chosen": chosen})
    return found


def mean_of(rows: Iterable[Row], metric: str) -> float:
    """Return the mean of a metric over the text-to-image rows."""
    values = [row[metric] for row in text_to_image(rows).values()]
    return sum(values) / len(values)
