"""The paper's Table 1 on the synthetic dataset: does captioning in the styles of many annotators help, and why?

    python scripts/ablation.py --config configs/ablation.yaml                  run what is missing, then write the tables
    python scripts/ablation.py --config configs/ablation.yaml --status         list the jobs, done or missing
    python scripts/ablation.py --config configs/ablation.yaml --collect        write the tables of what is done
    python scripts/ablation.py --config configs/ablation.yaml --only-seeds 2   one seed, here or on another machine

For each seed: a synthetic dataset, five clusterings of its human captions, a captioner tuned on each, captions of the same
images for each row, and a retrieval model trained on each and tested on three benchmarks that it has never seen. Every step is
a job with a result file; after an interruption the same command continues.

Sessions accumulate: results in --results/ablation.json that the work folder lacks are kept if they were made with the same
settings and weights. One session may run seeds 0 and 1 and commit the results, a later one seed 2; the tables then have all
three. Results of other settings or weights are never overwritten: choose another --results.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package scripts.ablation
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each beat one of two
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jsonargparse import ArgumentParser

from ham.runtime import UsageError, exit_code_of, log, set_up_logging
from scripts.ablation.collect import collect
from scripts.ablation.gather import check_kept
from scripts.ablation.graph import Job, digest_of, make_graph
from scripts.ablation.places import Places
from scripts.ablation.rows import ROWS
from scripts.ablation.runner import run_jobs, status_table
from scripts.ablation.settings import Settings, check_settings
from scripts.ablation.work import WORK

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "scripts" / "ablation" / "results"


def build_parser() -> ArgumentParser:
    """Build the parser: every setting, from --config files and the command line, and the action."""
    parser = ArgumentParser(prog="ablation.py", description=__doc__)
    parser.add_argument(
        "--config", action="config", help="YAML file with settings; options after it override it"
    )
    parser.add_class_arguments(Settings)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, each with one thread")
    parser.add_argument("--only-seeds", type=int, nargs="+", default=None, help="only these seeds")
    parser.add_argument(
        "--only-rows", type=str, nargs="+", default=None, help=f"only these of: {', '.join(ROWS)}"
    )
    parser.add_argument("--status", action="store_true", help="list the jobs and do nothing")
    parser.add_argument("--collect", action="store_true", help="only write the tables of what is done")
    parser.add_argument(
        "--results",
        type=str,
        default=str(RESULTS),
        help="folder for ablation.json, ablation.md and the plots; seeds that its ablation.json holds are kept",
    )
    return parser


def read_settings(words: list[str] | None = None) -> tuple[Settings, Any]:
    """Read the settings and the action from the command line. Raises UsageError for impossible settings."""
    settings, config = parse(words)
    check_settings(settings, list(ROWS))
    for name, known in (("only_seeds", settings.seeds), ("only_rows", ROWS)):
        unknown = [value for value in config[name] or [] if value not in known]
        if unknown:
            raise UsageError(
                f"--{name.replace('_', '-')} {unknown[0]}: not known; use some of {', '.join(map(str, known))}"
            )
    return settings, config


def parse(words: list[str] | None) -> tuple[Settings, Any]:
    parser = build_parser()
    config = parser.parse_args(words)
    made = (
        parser.instantiate(config) if hasattr(parser, "instantiate") else parser.instantiate_classes(config)
    )
    return Settings(**{field.name: made[field.name] for field in fields(Settings)}), config


def command_of(settings: Settings, configs: list[str]) -> str:
    """Return the command that has these settings: the configs and what differs from them, without local folders."""
    words = [word for file in configs for word in ("--config", file)]
    usual, chosen = (
        {**flat(asdict(one)), "work": "", "llava": in_checkout(one.llava), "clip": in_checkout(one.clip)}
        for one in (parse(words)[0], settings)
    )
    shown = [word for file in configs for word in ("--config", in_checkout(file))]
    for name, value in chosen.items():
        if value != usual[name]:
            shown += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(["python", "scripts/ablation.py", *shown])


def flat(options: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested options as the command line does: {"reid": {"lr": 1}} is {"reid.lr": 1}."""
    return {
        key: found
        for name, value in options.items()
        for key, found in (
            flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
        ).items()
    }


def in_checkout(path: str) -> str:
    """Return a path as seen from the checkout's top; of one outside, its name."""
    place = Path(os.path.abspath(path))  # noqa: PTH100  (links are left as they are)
    return str(place.relative_to(TOP)) if place.is_relative_to(TOP) else place.name


def do(settings: Settings, job: Job) -> dict[str, Any]:
    """Run one job in its own process."""
    return WORK[job.kind](settings, Places(Path(settings.work), job.seed), job)


def same_weights(settings: Settings) -> Callable[[], None]:
    """Return a check that the weights have not changed: new ones during a run would mix two experiments."""

    def digests() -> list[str]:
        return [digest_of(Path(folder)) for folder in (settings.llava, settings.clip)]

    def check() -> None:
        if digests() != before:
            raise UsageError(
                f"{settings.llava} or {settings.clip} changed during the run; the same command repeats what "
                "depends on them"
            )

    before = digests()
    return check


def main() -> None:
    set_up_logging()
    settings, asked = read_settings()
    work, results = Path(settings.work), Path(asked.results)
    chosen = make_graph(settings, asked.only_seeds or settings.seeds, asked.only_rows or list(ROWS))
    if asked.status:
        print(status_table(chosen, work))
        return
    if not asked.collect:
        check_kept(settings, work, results)
        log.info(
            "%d jobs done now",
            run_jobs(chosen, work, partial(do, settings), asked.jobs, same_weights(settings)),
        )
    print(
        collect(
            settings, work, results, partial(command_of, configs=[str(file) for file in asked.config or []])
        )
    )


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
