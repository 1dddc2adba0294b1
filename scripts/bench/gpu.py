"""Run the GPU measurements part by part, each in a process and with a time limit of its own; see gpu.sh.

Writes gpu.json, gpu.md and gpu.log into the output folder after every part, so that what was measured is kept when time
runs out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ham.records import write_json
from ham.runtime import UsageError, exit_code_of, git_revision

TOP = Path(__file__).resolve().parents[2]
LEAST_S = 5.0  # a part is not started with less time than this


@dataclass(frozen=True)
class Part:
    """A measurement: its command, and the most seconds it may take."""

    name: str
    limit_s: float
    command: list[str]
    top: Path = TOP  # the repository whose code runs


def plan_parts(shape: str, before: Path | None, is_quick: bool) -> list[Part]:
    """Return the parts, most important first. Commands hold {device}, {out} and {seconds}."""
    ours = ["--device", "{device}", "--out", "{out}", "--seconds", "{seconds}"]
    quick = ["--quick"] if is_quick else []
    captions = [sys.executable, str(TOP / "scripts/bench/gpu_captions.py"), shape, *ours]
    tuning = [sys.executable, str(TOP / "scripts/bench/gpu_tuning.py"), shape, *ours]
    compiled = [sys.executable, str(TOP / "scripts/bench/gpu_compiled.py"), *ours, *quick]
    reid = [sys.executable, "-m", "scripts.bench.reid", "--devices", "{device}", "--out", "{out}", *quick]
    parts = [Part("captions", 110, [*captions, "--cases", "main"])]
    if before is not None:
        parts.append(Part("captions before", 75, [*captions, "--cases", "before"], before))
    parts += [
        Part("tuning", 75, tuning),
        Part("captions agreement", 60, [*captions, "--cases", "agreement"]),
        Part("retrieval step", 60, [*reid, "--only", "step"]),
        Part("evaluation and search", 60, [*reid, "--only", "eval,search"]),
        Part("captions batches", 80, [*captions, "--cases", "batches"]),
        Part("retrieval step compiled", 75, compiled),
        Part("captions kernels", 40, [*captions, "--cases", "kernels"]),
    ]
    return [replace(part, limit_s=600) for part in parts] if is_quick else parts


def run_part(part: Part, limit_s: float, device: str, folder: Path) -> dict[str, Any]:
    """Run a part and read the rows that it wrote, also when it failed or ran out of time."""
    out, log_file = folder / "rows.json", folder / "log.txt"
    out.unlink(missing_ok=True)
    paths = [str(part.top), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    values = {"{device}": device, "{out}": str(out), "{seconds}": str(limit_s - LEAST_S)}
    command = [values.get(word, word) for word in part.command]
    start = time.monotonic()
    with log_file.open("w") as file:
        process = subprocess.Popen(
            command, cwd=part.top, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            status = f"exit {process.wait(limit_s)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "out of time"
    rows = read_rows(out)
    out.unlink(missing_ok=True)
    log_text = log_file.read_text(errors="replace")
    with (folder / "gpu.log").open("a") as file:
        file.write(f"== {part.name}: {status}\n{log_text}\n")
    log_file.unlink()
    return {
        "part": part.name,
        "status": "done" if status == "exit 0" else status,
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows,
        **({} if status == "exit 0" else {"log": log_text[-3000:]}),
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read rows from a JSON object with `rows`, or from lines of JSON; none where there is no file."""
    if not path.exists():
        return []
    text = path.read_text()
    try:
        return json.loads(text)["rows"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def as_markdown(machine: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """Format all rows, a list per part."""
    lines = [f"# {machine['device']}, {machine['date']}, {machine['git_revision']}", ""]
    for result in results:
        lines.append(f"## {result['part']}: {result['status']}, {result['seconds']} s")
        lines.append("")
        for row in result["rows"]:
            lines.append(
                "- " + ", ".join(f"{key} {_short(value)}" for key, value in row.items() if value is not None)
            )
        if "log" in result:
            lines += ["", "```", *result["log"].splitlines()[-12:], "```"]
        lines.append("")
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_machine(device: str) -> dict[str, Any]:
    """Return the device's name and the versions that the figures depend on."""
    import torch
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "git_revision": git_revision(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts until the time is used up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/gpu"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--before", type=Path, help="the repository at an older commit, measured for comparison"
    )
    parser.add_argument("--only", help="names of parts, joined by commas (default: all)")
    parser.add_argument("--shape", default="7b", help="of the captioner: 7b (default), small, tiny")
    parser.add_argument(
        "--device", default="cuda", choices=["cuda", "cpu"], help="cpu: only to see that it runs"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    options = parser.parse_args(arguments)
    parts = plan_parts(options.shape, options.before and options.before.resolve(), options.quick)
    if options.only:
        chosen = options.only.split(",")
        unknown = sorted(set(chosen) - {part.name for part in parts})
        if unknown:
            names = ", ".join(part.name for part in parts)
            raise UsageError(f"--only {','.join(unknown)}: no such part; the parts are {names}")
        parts = [part for part in parts if part.name in chosen]
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.log").unlink(missing_ok=True)
    machine = describe_machine(options.device)
    end = time.monotonic() + 60 * options.minutes
    results: list[dict[str, Any]] = []
    for part in parts:
        left = end - time.monotonic()
        if left < LEAST_S:
            results.append({"part": part.name, "status": "no time left", "seconds": 0.0, "rows": []})
        else:
            results.append(run_part(part, min(part.limit_s, left), options.device, folder))
        write_json(folder / "gpu.json", {"machine": machine, "parts": results})
        (folder / "gpu.md").write_text(as_markdown(machine, results))
        print(as_markdown(machine, results[-1:]).split("\n", 2)[2], flush=True)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
