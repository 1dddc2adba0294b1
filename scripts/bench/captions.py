"""Measure captioning against an older commit and against the one-at-a-time loop, side by side in one run, on one CPU core.

    python -m scripts.bench.captions small --before /path/of/old/worktree --out captions.json

Captions per processor second, float64 recheck included: other processes on the machine matter less than for wall time, and
the ways take turns, so that the ratios hold. `git worktree add /path c461526` makes the old worktree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ham.records import write_json
from ham.runtime import WorkError, exit_code_of
from scripts.bench.shapes import SHAPES

TOP = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """caption_worker.py with the code of one worktree."""

    def __init__(self, shape: str, top: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(top), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(TOP / "scripts/bench/caption_worker.py"), shape],
            cwd=top,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise WorkError(f"the worker ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(
    workers: dict[str, WorkerProcess], styles: int, tokens: int, captions: int, rounds: int
) -> dict[str, Any]:
    """Run the variants alternately on the same images."""
    images = max(1, captions // styles)
    spent: dict[str, list[float]] = {}
    shares, digests, rechecked = [], {}, {}
    for number in range(rounds):
        for name, worker in workers.items():
            answer = worker.ask(styles=styles, tokens=tokens, images=images, way="engine", recheck=True)
            spent.setdefault(name, []).append(answer["cpu_s"])
            digests[name], rechecked[name] = answer["digest"], answer["rechecked"]
            if name == "after":
                shares.append(answer["seconds"].get("recheck", 0.0) / answer["wall_s"])
        if number == 0:
            few = max(1, 2 // styles)
            answer = workers["after"].ask(styles=styles, tokens=tokens, images=few, way="loop", recheck=False)
            spent["loop"] = [answer["cpu_s"] * images / few]
    rate = {name: images * styles / statistics.median(times) for name, times in spent.items()}
    return {
        "styles": styles,
        "tokens": tokens,
        "images": images,
        **{f"{name}_captions_per_cpu_s": round(value, 3) for name, value in rate.items()},
        "after_over_before": round(rate["after"] / rate["before"], 2) if "before" in rate else None,
        "after_over_loop": round(rate["after"] / rate["loop"], 1),
        "recheck_share": round(statistics.median(shares), 3),
        "rechecked": rechecked["after"],
        "same_captions": len(set(digests.values())) == 1,
        "cpu_s": {name: [round(one, 2) for one in times] for name, times in spent.items()},
    }


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--before", type=Path, help="a worktree of the older commit")
    parser.add_argument("--styles", default="1,2,4,8", help="captions an image (default: %(default)s)")
    parser.add_argument("--tokens", default="40,64", help="tokens a caption (default: %(default)s)")
    parser.add_argument(
        "--captions", type=int, default=32, help="captions per measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns; the median counts (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    args = parser.parse_args()
    workers = {"after": WorkerProcess(args.shape, TOP)}
    if args.before:
        workers["before"] = WorkerProcess(args.shape, args.before.resolve())
    rows = []
    for worker in workers.values():
        worker.ask(styles=2, tokens=4, images=2, way="engine", recheck=True)  # imports and allocations
    for tokens in map(int, args.tokens.split(",")):
        for styles in map(int, args.styles.split(",")):
            rows.append(measure(workers, styles, tokens, args.captions, args.rounds))
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                write_json(args.out, {"command": sys.argv, "shape": args.shape, "rows": rows})
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
