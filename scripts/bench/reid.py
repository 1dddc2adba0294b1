"""Measure the retrieval stage beside the obvious way of writing it, in one run: one table, one JSON file.

    python -m scripts.bench.reid [--only step,data,eval,search] [--devices auto] [--out reid-bench.json] [--quick]

On a machine that others use too, wall times mean little; `--threads 1 --clock cpu` measures the processor time of one core
instead, for our code, the obvious code and the matrix product alike, so that ratios and fractions hold. The full run takes
about six minutes on two free cores. The full sort takes up to 16 GB, but no more than 60 % of what is free: then it ranks fewer
queries, its figures are scaled up, and the table says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ham.records import write_json
from ham.runtime import UsageError, exit_code_of, git_revision, set_up_logging
from scripts.bench import reid_clock
from scripts.bench.reid_clock import CLOCKS
from scripts.bench.reid_eval import measure_eval
from scripts.bench.reid_parts import measure_data, measure_search
from scripts.bench.reid_step import measure_step

SECTIONS = ("step", "data", "eval", "search")
LESS_IS_BETTER = ("s", "GB")


def measure(options: argparse.Namespace, devices: Sequence[torch.device]) -> list[dict[str, Any]]:
    """Run the chosen sections, saying which on standard error."""
    rows = []

    def run(section: str, name: str, work: Callable[[], list[dict[str, Any]]]) -> None:
        if section in options.only:
            sys.stderr.write(f"{section} ({name}) ...\n")
            rows.extend({"section": section, **row} for row in work())

    for device in devices:
        batch = options.batch_size or (2 if options.quick else 128 if device.type == "cuda" else 8)
        run(
            "step",
            str(device),
            lambda device=device, batch=batch: measure_step(device, batch, options.repeats, options.quick),
        )
    run("data", "cpu", lambda: measure_data(options.quick))
    for device in devices:
        run("eval", str(device), lambda device=device: measure_eval(device, options.quick))
        run("search", str(device), lambda device=device: measure_search(device, options.quick))
    return [*rows, *feeding(rows)]


def feeding(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many loader workers keep the fastest step fed, where both were measured."""
    steps = [row["ours"] for row in rows if row["unit"] == "pairs/s"]
    loader = [row["ours"] for row in rows if row["what"].startswith("loader")]
    if not steps or not loader:
        return []
    return [
        {
            "section": "data",
            "what": "loader workers that keep the fastest step fed",
            "unit": "processes",
            "ours": max(steps) / loader[0],
        }
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Format the rows as a Markdown table; gain is how many times better ours is than the obvious way."""
    lines = [("measure", "unit", "ours", "obvious", "gain", "aim", "reached")]
    for row in rows:
        plain, gain = row.get("obvious"), ""
        if plain:
            ratio = plain / row["ours"] if row["unit"] in LESS_IS_BETTER else row["ours"] / plain
            gain = f"{ratio:.1f} x"
        reached = {True: "yes", False: "no", None: ""}[row.get("reached")]
        lines.append(
            (
                row["what"],
                row["unit"],
                f"{row['ours']:.4g}",
                f"{plain:.4g}" if plain is not None else "",
                gain,
                row.get("aim", ""),
                reached,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines]
    return "\n".join([text[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *text[1:]])


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Describe where and how this was measured, the load that others put on the machine included."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "load_average": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git_revision": git_revision(),
        "quick": options.quick,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help="sections, joined by commas (default: all of %(default)s)"
    )
    parser.add_argument(
        "--devices", default="auto", help="cpu, cuda, or both joined by a comma (default: all there are)"
    )
    parser.add_argument(
        "--batch-size", type=int, help="pairs in a training step (default: 128 on a GPU, 8 on a CPU)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed steps; the median counts (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for shared machines"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; the figures mean nothing"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("reid-bench.json"), help="the JSON file (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = set(options.only) - set(SECTIONS)
    if unknown:
        raise UsageError(
            f"--only {','.join(sorted(unknown))}: not a section; use some of {', '.join(SECTIONS)}"
        )
    if options.clock == "cpu" and options.devices == "auto":
        options.devices = "cpu"
    if options.clock == "cpu" and (options.threads != 1 or options.devices != "cpu"):
        raise UsageError("--clock cpu measures one core: give --threads 1 and --devices cpu with it")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    set_up_logging()
    reid_clock.clock = options.clock
    if options.threads:
        torch.set_num_threads(options.threads)
    all_there_are = "cpu,cuda" if torch.cuda.is_available() else "cpu"
    named = (all_there_are if options.devices == "auto" else options.devices).split(",")
    before = machine(options)
    rows = measure(options, [torch.device(name) for name in named])
    write_json(options.out, {"machine": before, "load_average_after": os.getloadavg(), "rows": rows})
    print(table(rows))
    print(
        f"\n{before['processor']}, {before['threads']} threads, {before['gpu'] or 'no GPU'}, clock: {before['clock']}, "
        f"load average {before['load_average'][0]:.1f} before and {os.getloadavg()[0]:.1f} after\n{options.out}"
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
