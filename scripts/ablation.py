"""The paper's Table 1 on the synthetic dataset: does captioning in the styles of many annotators help, and why?

    python scripts/ablation.py --config configs/ablation.yaml                  run what is missing, then write the tables
    python scripts/ablation.py --config configs/ablation.yaml --collect        write the tables of what is done
    python scripts/ablation.py --config configs/ablation.yaml --only-seeds 2   one seed only

For each seed: a synthetic dataset, five clusterings of its human captions, a captioner tuned on each, captions of the same
images for each row, a retrieval model pretrained on each and tested on three benchmarks that it has never seen, some of them
fine-tuned on those, and a data-size curve. The same command continues after an interruption; a work folder of other settings
is refused. A failed task does not stop the others; the command then ends with exit code 1 and their names.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package scripts.ablation
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each beat one of two
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jsonargparse import ArgumentParser

import train_reid
from ham.locks import FileLock
from ham.runtime import UsageError, WorkError, exit_code_of, log, set_up_logging
from scripts.ablation.places import log_file, plan_tasks
from scripts.ablation.record import load_settings, record_settings
from scripts.ablation.results import collect
from scripts.ablation.rows import ROWS
from scripts.ablation.run_tasks import Runner
from scripts.ablation.settings import Settings, check_settings


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
    parser.add_argument("--collect", action="store_true", help="only write the tables of what is done")
    parser.add_argument(
        "--results", type=str, default=None, help="folder of the tables and plots; by default WORK/results"
    )
    return parser


def read_settings(words: list[str] | None = None) -> tuple[Settings, Any]:
    """Read the settings and the action from the command line. Raises UsageError for impossible ones."""
    parser = build_parser()
    asked = parser.parse_args(words)
    make = parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes
    made = make(asked)
    settings = Settings(**{field.name: made[field.name] for field in fields(Settings)})
    check_settings(settings)
    if settings.finetune.rows:
        train_reid.parse(["finetune", "--config", settings.finetune.config])[1].check_values()
    if asked.jobs < 1:
        raise UsageError(f"--jobs {asked.jobs}: expected at least 1")
    for name, known in (("only_seeds", settings.seeds), ("only_rows", ROWS)):
        unknown = [value for value in asked[name] or [] if value not in known]
        if unknown:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {unknown[0]}: not known; use some of {', '.join(map(str, known))}")
    return settings, asked


def run(settings: Settings, seeds: list[int], rows: list[str], processes: int) -> list[str]:
    """Run what is missing; return the failed tasks with their log files."""
    work = Path(settings.work)
    stages = plan_tasks(settings, seeds, rows)
    runner = Runner(work, stages, processes)
    log.info("%s: %s", work, runner.outlook())
    for stage in stages:
        runner.run_stage(stage)
    return [f"{task} ({log_file(work, task)})" for task in runner.failed]


def main() -> None:
    set_up_logging()
    settings, asked = read_settings()
    work = Path(settings.work).resolve()
    out = Path(asked.results or work / "results")
    failed: list[str] = []
    if asked.collect:
        if not work.is_dir():
            raise UsageError(f"--work {work}: no such folder; run without --collect first")
        settings = replace(load_settings(work), seeds=settings.seeds, curve=settings.curve)
    else:
        lock = FileLock(work / ".lock")
        if not lock.try_acquire():
            raise UsageError(f"{work}: another run is using it; wait for it, or name another --work")
        settings = record_settings(settings)
        rows = asked.only_rows or list(ROWS)
        failed = run(settings, asked.only_seeds or settings.seeds, rows, asked.jobs)
    words = [word for word in sys.argv[1:] if word != "--collect"]
    try:
        print(collect(settings, out, shlex.join(["python", "scripts/ablation.py", *words])))
    except UsageError:  # nothing to show yet
        if not failed:
            raise
    if failed:
        raise WorkError(f"{len(failed)} tasks failed: {', '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
