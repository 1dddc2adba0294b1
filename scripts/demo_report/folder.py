"""What a run of scripts/demo.sh leaves on disk, read for its report: figures only, no model is loaded.

A stage that is not there, or not finished, is named together with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ham.records import read_json, read_jsonl
from ham.runtime import UsageError

# stage, the file that stands for it, the command that makes it
NEEDED = (
    (
        "0, the world",
        "world/world.json",
        "python -m ham.world build --out {run}/world --preset demo --seed 0",
    ),
    (
        "1, styles",
        "styles/styles.json",
        "python scripts/build_styles.py --config configs/styles_world.yaml --root {run}/world --out {run}/styles",
    ),
    (
        "2, style prompts",
        "captioner/training.json",
        "MODEL=ham/world/weights/llava DATA={run}/styles/instructions.json "
        "IMAGES={run}/world OUT={run}/captioner bash scripts/v1_5/finetune_task.sh",
    ),
    (
        "2, style prompts, to its end",
        "captioner/manifest.json",
        "MODEL=ham/world/weights/llava "
        "DATA={run}/styles/instructions.json IMAGES={run}/world OUT={run}/captioner bash scripts/v1_5/finetune_task.sh",
    ),
    (
        "3, captions",
        "captions/summary.json",
        "python caption.py --model-path {run}/captioner --image-root {run}/world/SYNTH-PEDES --out {run}/captions",
    ),
    (
        "4, direct transfer of the start",
        "transfer_start/evaluation.json",
        "python train_reid.py eval --config "
        "configs/reid/world_transfer.yaml --checkpoint ham/world/weights/clip --data-root {run}/world "
        "--output-dir {run}/transfer_start",
    ),
    (
        "4, pretraining",
        "pretrain/metrics.jsonl",
        "python train_reid.py pretrain --config configs/reid/world_pretrain.yaml "
        "--data-root {run}/world --train-captions [{run}/captions/captions.json] --train-images {run}/world/SYNTH-PEDES "
        "--output-dir {run}/pretrain",
    ),
    (
        "4, direct transfer",
        "transfer/evaluation.json",
        "python train_reid.py eval --config configs/reid/world_transfer.yaml "
        "--checkpoint {run}/pretrain/last --data-root {run}/world --output-dir {run}/transfer",
    ),
    *(
        (
            f"5, finetuning with {method.upper()}",
            f"finetune_{method}/metrics.jsonl",
            "python train_reid.py finetune --config "
            f"configs/reid/world_finetune_{method}.yaml --data-root {{run}}/world --weights {{run}}/pretrain/last "
            f"--output-dir {{run}}/finetune_{method}",
        )
        for method in ("irra", "rde")
    ),
)
METHODS = {"finetune_irra": "IRRA", "finetune_rde": "RDE"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training run: its metrics.jsonl by kind of line, its settings and its git revision.

    chosen_step: the step that the val sets chose, None without them. seconds: training and evaluation, over all restarts.
    """

    steps: list[Row]
    evals: list[Row]
    config: Row
    chosen_step: int | None
    revision: str
    seconds: float

    def results(self, step: int | None = None) -> list[Row]:
        """Give the test rows of the evaluation at one step, by default the last."""
        step = max((row["step"] for row in self.evals), default=None) if step is None else step
        return [row for row in self.evals if row["step"] == step and row["split"] == "test"]


@dataclass(frozen=True)
class RunFolder:
    """Everything that the stages recorded of themselves. times: (step, seconds), from steps.jsonl or else the stages' own."""

    folder: Path
    world: Row
    styles: Row
    tuning: Row
    tuning_log: list[Row]
    plan: Row
    captions: Row
    start: Row
    transfer: Row
    pretrain: Training
    finetunes: dict[str, Training]
    times: list[tuple[str, float]]
    times_are_whole: bool


def read_run(folder: str | Path) -> RunFolder:
    """Read a run's folder. Raises UsageError naming every stage that is missing and the command that makes it."""
    folder = Path(folder)
    check_stages(folder)
    captions = read_json(folder / "captions" / "summary.json")
    if not captions["complete"]:
        raise UsageError(
            f"{folder}/captions: {captions['images_merged']} of {captions['images']} images are captioned; go on "
            f"with the command of stage 3: {command_of('captions/summary.json', folder)}"
        )
    trainings = {name: read_training(folder / name) for name in ("pretrain", *METHODS)}
    for name, training in trainings.items():
        if not training.results():
            raise UsageError(
                f"{folder}/{name}: not finished (metrics.jsonl holds no evaluation); go on with "
                f"{command_of(f'{name}/metrics.jsonl', folder)}"
            )
    styles, tuning_log = (
        read_json(folder / "styles" / "styles.json"),
        list(read_jsonl(folder / "captioner" / "metrics.jsonl")),
    )
    whole = (folder / "steps.jsonl").is_file()
    times = summed(read_jsonl(folder / "steps.jsonl")) if whole else own_times(folder, tuning_log, trainings)
    world, tuning, plan, start, transfer = (
        read_json(folder / file)
        for file in (
            "world/world.json",
            "captioner/training.json",
            "captions/plan.json",
            "transfer_start/evaluation.json",
            "transfer/evaluation.json",
        )
    )
    return RunFolder(
        folder,
        world,
        styles,
        tuning,
        tuning_log,
        plan,
        captions,
        start,
        transfer,
        trainings.pop("pretrain"),
        trainings,
        times,
        whole,
    )


def check_stages(folder: Path) -> None:
    """Raise UsageError naming every stage whose file is missing."""
    if not folder.is_dir():
        raise UsageError(f"--run {folder}: no such folder; `bash scripts/demo.sh` makes runs/demo")
    missing = [(stage, file) for stage, file, _ in NEEDED if not (folder / file).is_file()]
    if missing:
        lines = [
            f"  stage {stage}: no {file}; made by\n    {command_of(file, folder)}" for stage, file in missing
        ]
        raise UsageError(
            f"--run {folder} lacks {len(missing)} of {len(NEEDED)} parts. `RUN={folder} bash scripts/demo.sh` "
            "makes all that is missing; or, one by one,\n" + "\n".join(lines)
        )


def command_of(file: str, folder: Path) -> str:
    return next(command for _, needed, command in NEEDED if needed == file).format(run=folder)


def read_training(folder: Path) -> Training:
    """Read the output folder of `train_reid.py pretrain` or `finetune`."""
    rows = list(read_jsonl(folder / "metrics.jsonl"))
    best, settings = folder / "val-best" / "results.json", folder / "config.yaml"
    if not settings.is_file():
        raise UsageError(f"{settings}: no such file; {folder} is not the output folder of train_reid.py")
    written = settings.read_text(encoding="utf-8")
    revision = (
        written.partition("\n")[0].rpartition(" ")[2] if written.startswith("# git revision ") else "unknown"
    )
    return Training(
        [row for row in rows if row["event"] == "step"],
        [row for row in rows if row["event"] == "eval"],
        yaml.safe_load(written),
        read_json(best)["step"] if best.is_file() else None,
        revision,
        seconds_of(rows),
    )


def seconds_of(rows: Iterable[Mapping[str, Any]]) -> float:
    """Add up `time_s` over restarts: each begins at 0 again."""
    total = last = 0.0
    for row in rows:
        if row["time_s"] < last:
            total += last
        last = row["time_s"]
    return total + last


def own_times(
    folder: Path, tuning_log: list[Row], trainings: Mapping[str, Training]
) -> list[tuple[str, float]]:
    """Give the times that the stages recorded themselves: the work alone, without starting programs and loading models."""
    receipts = [read_json(file) for file in sorted((folder / "captions").glob("[0-9]*.json"))]
    styles = (
        sum(row["seconds"] for row in read_jsonl(folder / "styles" / "metrics.jsonl"))
        if (folder / "styles" / "metrics.jsonl").is_file()
        else 0.0
    )
    return [
        ("Styles", styles),
        ("Style prompts", seconds_of(tuning_log)),
        ("Captions", sum(receipt["seconds"] for receipt in receipts)),
        ("Pretraining", trainings["pretrain"].seconds),
        *((f"Finetuning, {METHODS[name]}", trainings[name].seconds) for name in METHODS),
    ]


def summed(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Add up the rows {step, seconds} of each step, in the order of their first mention: a run may have been stopped."""
    times: dict[str, float] = {}
    for row in rows:
        times[row["step"]] = times.get(row["step"], 0.0) + row["seconds"]
    return list(times.items())
