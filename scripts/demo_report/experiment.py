"""Read the committed experiment, and set its deciding rows beside the captions of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ham.records import read_json
from ham.runtime import UsageError

EXPERIMENT = Path(__file__).resolve().parents[1] / "ablation" / "results" / "ablation.json"
# Row of the experiment -> source of captions in the run
COMPARED = {"static": "static", "templates": "template", "both": "HAM", "ceiling": "humans"}
DECIDING = {"row": "both", "minus": "static"}


def read_experiment(path: Path | None = None) -> dict[str, Any] | None:
    """Read an ablation.json of scripts/ablation.py.

    path: None for the committed one; then None is returned where there is none. Raises UsageError for a file that is something
    else.
    """
    if path is None:
        if not EXPERIMENT.is_file():
            return None
        path = EXPERIMENT
    found = read_json(path)
    try:
        deciding = [one["human R1"] for one in found["differences"] if DECIDING.items() <= one.items()]
        return {
            "rows": [read_row(name, row) for name, row in found["rows"].items()],
            "finetune": [read_row(name, row) for name, row in found.get("finetune", {}).items()],
            "difference": deciding[0] if deciding else None,
            "revision": found["git_revision"],
            "ended": found["ended"],
            "command": found["command"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--ablation {path}: not an ablation.json of scripts/ablation.py ({error!r})"
        ) from None


def read_row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of one row: means over its seeds, None where a row has no captions."""
    seeds = list(row["seeds"].values())
    captions = [seed["captions"] for seed in seeds if seed.get("captions")]
    return {
        "name": name,
        "label": row["label"],
        "R1": mean_error([seed["human"]["R1"] for seed in seeds]),
        "mAP": mean_error([seed["human"]["mAP"] for seed in seeds]),
        "self_bleu": mean_of_key(captions, "self_bleu", 1),
        "precision": mean_of_key(captions, "precision", 100),
        "seeds": len(seeds),
    }


def mean_of_key(rows: list[dict[str, float]], key: str, scale: float) -> float | None:
    """Return the mean of a figure times `scale`; None without rows."""
    return scale * sum(row[key] for row in rows) / len(rows) if rows else None


def deciding_rows(
    experiment: dict[str, Any], sources: dict[str, dict[str, Any]], pretrained_r1: float
) -> list[dict[str, Any]]:
    """Return static, template, styled and human captions: the experiment's figures and this run's.

    The run pretrains on the styled captions alone: only they have a Rank-1 there.
    """
    by_name = {row["name"]: row for row in experiment["rows"]}
    return [
        {
            "source": source,
            "experiment": by_name[name],
            "run": sources.get(source),
            "run_r1": pretrained_r1 if source == "HAM" else None,
        }
        for name, source in COMPARED.items()
        if name in by_name
    ]


def mean_error(values: list[float]) -> str:
    """Return "mean ± standard error" of some values."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.1f} ± {deviation / len(values) ** 0.5:.1f}"
