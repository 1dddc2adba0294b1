"""The report of a run of scripts/demo.sh: one HTML page with everything inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.records import atomic_write, read_json
from ham.report.page import Section, note, page, table
from ham.report.style_map import View
from ham.runtime import UsageError
from scripts.demo_report.folder import RunFolder
from scripts.demo_report.opening import (
    Passerby,
    ending,
    head,
    machine_section,
    pipeline_section,
    world_section,
)
from scripts.demo_report.retrieval import (
    curves_section,
    finetune_section,
    gallery_section,
    mean_of,
    search_section,
    text_to_image,
    transfer_section,
)
from scripts.demo_report.wording import (
    Portrait,
    Wording,
    diversity_section,
    facts_section,
    portrait_section,
    styles_section,
)


@dataclass(frozen=True)
class Findings:
    """What the script worked out beside what the stages recorded, since it needs two stages at once or a model.

    how_to_add: for each source of captions that the run lacks, what makes it. gallery, search: rows of {query, query_image,
    hits}. searched: images that were searched. ablation: a table of the experiment, if any.
    """

    people: Sequence[Passerby]
    styles: View
    portrait: Portrait
    wordings: Sequence[Wording]
    how_to_add: Mapping[str, str]
    gallery: Sequence[Mapping[str, Any]]
    search: Sequence[Mapping[str, Any]]
    searched: int
    ablation: Mapping[str, Any] | None = None


def write_report(path: str | Path, run: RunFolder, findings: Findings) -> Path:
    """Write the page whole."""
    with atomic_write(path) as file:
        file.write(render(run, findings))
    return Path(path)


def render(run: RunFolder, findings: Findings) -> str:
    """Give the page's HTML."""
    tested = next(iter(text_to_image(run.transfer["results"])))
    sections = [
        pipeline_section(run),
        world_section(run, findings.people),
        styles_section(run.styles, findings.styles),
        portrait_section(findings.portrait, run.plan["settings"]["prompt"]),
        diversity_section(findings.wordings, findings.how_to_add),
        facts_section(findings.wordings),
        curves_section(run),
        transfer_section(run),
        finetune_section(run),
        gallery_section(findings.gallery, tested),
        search_section(findings.search, findings.searched),
        *([ablation_section(findings.ablation)] if findings.ablation else []),
        machine_section(run),
    ]
    return page(
        "HAM: a run of the whole paper, small",
        head(run, findings.wordings),
        sections,
        ending(mean_of(run.start["results"]), mean_of(run.transfer["results"])),
    )


def ablation_section(ablation: Mapping[str, Any]) -> Section:
    """Tabulate the experiment: its rows' plain values, in the order of the first row's keys."""
    rows = ablation["rows"]
    columns = [key for key, value in rows[0].items() if value is None or isinstance(value, str | int | float)]
    return Section(
        "The experiment",
        "Its Table 1 trains on static, template and styled captions of the same images.",
        f"{len(rows)} rows on this world, apart from the run above.",
        table([key.replace("_", " ") for key in columns], ([row.get(key) for key in columns] for row in rows))
        + (note(str(ablation["note"])) if ablation.get("note") else ""),
    )


def read_ablation(path: Path) -> dict[str, Any]:
    """Read the ablation.json of scripts/ablation.py, or {"rows": [{column: value}], "note": ""}. Raises UsageError for else."""
    found = read_json(path)
    rows = found.get("rows") if isinstance(found, dict) else None
    if isinstance(rows, dict):
        try:
            rows = [seed_means(row) for row in rows.values()]
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"--ablation {path}: not the ablation.json of scripts/ablation.py ({error!r})"
            ) from None
        found = {
            "rows": rows,
            "note": "Means over the seeds; R1 and mAP over the three benchmarks. R1, mAP and "
            "distinct-2 in percent, precision and recall as shares.",
        }
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        raise UsageError(
            f"--ablation {path}: expected a JSON object with `rows`, a list of objects with the table's columns"
        )
    return found


def seed_means(row: Mapping[str, Any]) -> dict[str, Any]:
    """Average one row of ablation.json over its seeds."""
    seeds = list(row["seeds"].values())
    written = [seed["captions"] for seed in seeds if seed["captions"]]

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "captions": row["label"],
        "seeds": len(seeds),
        **{metric: mean([seed["human"][metric] for seed in seeds]) for metric in ("R1", "mAP")},
        **{name: mean([one[name] for one in written]) for name in ("precision", "recall", "distinct_2")},
    }
