"""Caption a folder of pedestrian images in the styles of many annotators (stage 3).

    python caption.py --model-path CKPT --image-root DIR --out OUT         one process; the same command again continues
    torchrun --nproc-per-node 8 caption.py ...                             one node; with --nnodes, several on a shared disk
    python caption.py ... --shards 0:50                                    a part of the job, for arrays of batch jobs
    python caption.py --engine server --server http://node1:8000 ...       a server runs the model; no torch is needed here
    python caption.py --config job.yaml                                    options from a file; the command line overrides it
    python caption.py status OUT                                           progress of a job, from anywhere
    python caption.py merge OUT                                            write captions.json (also done at the end)
    python caption.py merge OUT1 OUT2 --out FILE                           join the captions of several jobs, e.g. of two models
    python caption.py retry OUT                                            caption images again that failed or were rejected

OUT holds plan.json (the settings), numbered shards with their receipts, captions.json = {image: [caption, ...]}, failed.jsonl,
summary.json, samples.html (40 images to look at) and metrics.jsonl. Exit codes: 0 done, 1 the work failed, 2 the request was
wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.generation.config import GROUPS, LLAVA_HINTS, JobOptions, check, from_recorded, parse_job
from ham.generation.engines import Engine, engine_module
from ham.generation.join import join_jobs
from ham.generation.merge import judge, merge
from ham.generation.plan import (
    ENGINE_SETTINGS,
    Plan,
    check_settings,
    load_plan,
    move_image_root,
    settle_plan,
    wait_for_plan,
)
from ham.generation.request import check_new_job, choose_styles, images_of, recorded_options, settings_of
from ham.generation.retry import reopen_shards
from ham.generation.run import Run
from ham.generation.samples import describe_job, draw_samples
from ham.generation.shards import is_done
from ham.generation.status import describe
from ham.options import given_options, parse_options
from ham.report.samples import write_samples
from ham.runtime import DistInfo, UsageError, WorkError, dist_info, exit_code_of, log, set_up_logging


def main() -> int:
    """Run the command line. Returns 1 when the job failed: see --strict and --max-failed-share."""
    set_up_logging()
    commands: dict[str, Callable[[list[str]], int]] = {
        "status": status_command,
        "merge": merge_command,
        "retry": retry_command,
    }
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in commands:
        return commands[word](sys.argv[2:])
    if word and not word.startswith("-"):
        raise UsageError(f"{word}: no such command; expected {', '.join(commands)}, or options (see --help)")
    return caption(parse_job(sys.argv[1:], __doc__))


# ---------------------------------------------------------------------------------------------------------------- commands


def caption(options: JobOptions, is_retry: bool = False) -> int:
    """Check the request, load the engine, settle the plan, caption this process's shards, finish the job if it was the last."""
    place = dist_info()
    assert options.out and options.image_root
    out = Path(options.out)
    module = engine_module(options.engine)
    planned = load_plan(out) if (out / "plan.json").exists() else None
    pool, captions_per_image = choose_styles(options, module, planned)
    settings = settings_of(options, pool, captions_per_image)
    may_differ = ENGINE_SETTINGS if options.mix_engines else ()
    if planned is not None:
        check_settings(planned, settings, options.shard_size, may_differ)
    else:
        check_new_job(options, len(pool), captions_per_image)

    engine = module.open_engine(options, captions_per_image)
    settings |= engine.settings
    info = {
        "model_path": str(options.model_path),
        "image_root": settings["image_root"],
        "images": str(options.images or ""),
        "options": options.recorded(),
        **engine.info,
    }
    locks = not options.no_locks
    if is_retry:
        plan = load_plan(out)
        check_settings(plan, settings, options.shard_size, may_differ)
    elif place.is_main:
        plan = settle_plan(
            out, lambda: images_of(options), settings, info, options.shard_size, locks, may_differ
        )
    else:
        plan = wait_for_plan(out, settings, options.shard_size, may_differ=may_differ)
    if is_retry:
        reopen_shards(plan, locks)
    run_job(plan, engine, options, place)
    return finish(plan, options.keep_rejected, locks, options.strict, options.max_failed_share)


def status_command(words: list[str]) -> int:
    """Print how far a job is; works while it runs."""
    options = folder_options("status", "Print how far a job is; works while it runs.", words)
    print(describe(Path(options["folder"])))
    return 0


@dataclass
class MergeOptions:
    """merging

    Attributes:
        keep_rejected: fill up with rejected captions where too few are accepted
        no_locks: disable file locks; only safe if no other process writes there
        strict: exit with 1 when any image failed
        max_failed_share: exit with 1 when more than this share of the images, or all, have no accepted caption; 1 never
    """

    keep_rejected: bool = False
    no_locks: bool = False
    strict: bool = False
    max_failed_share: float = 1.0


def merge_command(words: list[str]) -> int:
    """Write captions.json, failed.jsonl and summary.json from the finished shards; works while others write.

    `caption.py merge OUT1 OUT2 ... --out FILE` joins the captions.json of several jobs into FILE instead.
    """
    if len(words) > 1 and not words[1].startswith("-"):
        return join_command(words)
    options = folder_options("merge", merge_command.__doc__, words, MergeOptions)
    plan = load_plan(Path(options["folder"]))
    return write_results(
        plan,
        options["keep_rejected"],
        not options["no_locks"],
        options["strict"],
        options["max_failed_share"],
    )


def join_command(words: list[str]) -> int:
    """Join the captions of several jobs: OUT1 OUT2 ... --out FILE."""
    if len(words) < 4 or words[-2] != "--out" or any(word.startswith("-") for word in words[:-2]):
        raise UsageError(
            f"caption.py merge {' '.join(words)}: expected OUT1 OUT2 ... --out FILE to join several jobs"
        )
    join_jobs([Path(word) for word in words[:-2]], Path(words[-1]))
    return 0


def retry_command(words: list[str]) -> int:
    """Caption again the images of a job that failed or whose captions were rejected; all other rows stay as they are.

    The job's own options are used. Others may be given, such as --image-root after the images were moved, --device or --server.
    """
    if dist_info().world_size > 1:
        raise UsageError("retry runs in one process; start it without torchrun")
    values = folder_options("retry", retry_command.__doc__, words, *GROUPS)
    plan = load_plan(Path(values["folder"]))
    given = given_options(words) - {"config"}
    forbidden = sorted(given & {"out", "images", "limit", "sample", "shard_size", "styles", "seed"})
    if forbidden:
        raise UsageError(f"--{forbidden[0].replace('_', '-')}: cannot be changed by retry; start a new job")
    overrides = {name: values[name] for name in given}
    options = from_recorded(recorded_options(plan), {**overrides, "out": str(plan.folder)})
    if "image_root" in given:
        plan = move_image_root(plan, str(Path(options.image_root or "").resolve()))
    check(options)
    return caption(options, is_retry=True)


# ------------------------------------------------------------------------------------------------------------------- parts


def run_job(plan: Plan, engine: Engine, options: JobOptions, place: DistInfo) -> None:
    """Caption this process's shards."""
    log.info(
        "%d images, %d captions each, %d at a time, %s engine",
        len(plan.images),
        plan.settings["captions_per_image"],
        engine.batch_images,
        options.engine,
    )
    workers = workers_for(options.workers, place)
    locks = not options.no_locks
    run = Run(plan, engine, plan.image_root, place, options.only_shards, workers, locks)
    try:
        elsewhere = run.work()
    finally:
        engine.close()
    if elsewhere:
        log.info("%d shards are being written by other processes", elsewhere)
    phases = {**run.seconds, **engine.seconds}
    log.info("seconds: %s", ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items()))


def workers_for(asked: int | None, place: DistInfo) -> int:
    """Choose how many processes read images: this process's share of the cores but one, at most 8."""
    if asked is not None:
        return asked
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    sharing = int(local) if local.isdecimal() and int(local) else place.world_size
    return min(8, max(len(os.sched_getaffinity(0)) // sharing - 1, 0))


def finish(plan: Plan, keep_rejected: bool, locks: bool, strict: bool, max_failed_share: float) -> int:
    """Merge when every shard is done, whoever did them; only then the job can be judged."""
    if not all(is_done(plan.folder, shard) for shard in range(plan.num_shards)):
        log.info("the job is not complete yet: see `caption.py status %s`", plan.folder)
        return 0
    if not dist_info().is_main:
        return 0  # rank 0 waits for all, merges and judges; failing here would end its torchrun early
    return write_results(plan, keep_rejected, locks, strict, max_failed_share)


def write_results(plan: Plan, keep_rejected: bool, locks: bool, strict: bool, max_failed_share: float) -> int:
    """Merge, write the sample page, print the summary. Raises WorkError when too many images have no caption."""
    summary = merge(plan, keep_rejected, locks)
    page, samples = plan.folder / "samples.html", draw_samples(plan)
    write_samples(page, samples, plan.image_root, len(plan.images), describe_job(plan))
    print(json.dumps(summary, indent=1, ensure_ascii=True), flush=True)
    failed = summary["images_failed"]
    if failed:
        first = ", ".join(f"{entry['image']} ({entry['reason']})" for entry in summary["first_failed"][:3])
        log.warning("%d of %d images failed: %s", failed, summary["images"], first)
    problem = judge(summary, max_failed_share, plan.folder)
    if problem:
        raise WorkError(problem)
    return int(strict and failed > 0)


def folder_options(command: str, about: str | None, words: list[str], *kinds: type) -> dict[str, Any]:
    """Parse `caption.py COMMAND FOLDER [options]`."""
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        raise UsageError(f"caption.py {command}: expected the output folder of a job first")
    return parse_options(
        kinds,
        words,
        f"caption.py {command}",
        about,
        positional=("folder", "output folder of a captioning job"),
        hints=LLAVA_HINTS,
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
