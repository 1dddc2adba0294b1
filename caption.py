"""Caption a folder of pedestrian images in the styles of many annotators (stage 3).

    python caption.py --model-path CKPT --image-root DIR --out OUT         one process; the same command again resumes
    torchrun --nproc-per-node 8 caption.py ...                             one node; with --nnodes, several on a shared disk
    python caption.py ... --shards 0:50                                    a part of the job, for arrays of batch jobs
    python caption.py status OUT                                           how far it is, from anywhere
    python caption.py merge OUT                                            put captions.json together (also done at the end)

OUT holds plan.json (the settings), numbered shards with their receipts, captions.json = {image: [caption, ...]}, summary.json,
samples.html (40 images to judge by eye) and metrics.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ham.generation.filters import FILTER_VERSION
from ham.generation.merge import merge
from ham.generation.plan import Plan, list_images, load_plan, settle_plan, wait_for_plan
from ham.generation.run import Run
from ham.generation.samples import describe_job, draw_samples
from ham.generation.shards import is_done, parse_shards
from ham.generation.status import describe
from ham.generation.style_draws import parse_styles
from ham.report.samples import write_samples
from ham.runtime import (
    DistInfo,
    UsageError,
    dist_info,
    exit_code_of,
    log,
    resolve_device,
    resolve_dtype,
    set_up_logging,
)


def main() -> int:
    """Run the command line. Returns 1 with --strict when an image failed."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    set_up_logging()
    if command == "status":
        print(describe(folder_options("status", "say how far a job is; works while it runs").folder))
        return 0
    if command == "merge":
        return merge_command()
    return caption_command(options().parse_args())


def options() -> argparse.ArgumentParser:
    """Describe the options of a captioning run."""
    parser = argparse.ArgumentParser(
        "caption.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("what").add_argument
    add(
        "--model-path",
        required=True,
        type=Path,
        help="checkpoint: our adapter, the original HAM or LLaVA layout, or llava-hf",
    )
    add("--image-root", required=True, type=Path, help="folder that image paths are relative to")
    add(
        "--images",
        type=Path,
        help="the images: .txt (a path a line), a JSON list, or a dataset's annotation "
        "(default: every image file below the root)",
    )
    add("--out", required=True, type=Path, help="output folder")
    add("--limit", type=int, help="caption only the first N images")
    add = parser.add_argument_group("captions").add_argument
    add("--captions-per-image", type=int, help="default: 2 for random styles, else one per listed style")
    add(
        "--styles",
        default="random",
        help="random (default; distinct styles, drawn from seed and image path) | all | none | "
        "ids such as 0,5,17",
    )
    add("--seed", type=int, default=0, help="of the styles and of sampling (default 0)")
    add("--prompt", help="the instruction, without <image> (default: the checkpoint's, else the paper's)")
    add("--template", choices=["v1", "llava_v1", "llava_v0"], help="conversation (default: the checkpoint's)")
    add("--max-new-tokens", type=int, default=512, help="longest caption in tokens (default 512)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add(
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the most probable tokens of this mass (default 1)",
    )
    add(
        "--max-redraws",
        type=int,
        default=4,
        help="how often a rejected caption is drawn again in the next style (default 4)",
    )
    add(
        "--reject-slash-n",
        action="store_true",
        help="also reject captions holding '/n', as the reference does by mistake",
    )
    add(
        "--keep-rejected",
        action="store_true",
        help="fall back on rejected captions where too few are accepted",
    )
    add = parser.add_argument_group("model").add_argument
    add(
        "--vision-tower",
        default="reference",
        help="reference (the one the checkpoint names) | checkpoint (inside it) | PATH",
    )
    add(
        "--image-aspect-ratio",
        choices=["pad"],
        help="pad images also where the checkpoint's config would crop them",
    )
    add(
        "--base-model",
        type=Path,
        help="where an adapter's base model lies now (default: where training found it)",
    )
    add("--device", default="auto", help="auto | cpu | cuda | cuda:N")
    add(
        "--dtype",
        default="auto",
        help="auto (bfloat16 on a GPU, float32 on a CPU) | float32 | bfloat16 | float16",
    )
    add = parser.add_argument_group("work").add_argument
    add("--batch-size", type=int, help="images at a time (default: found from the memory)")
    add("--workers", type=int, help="processes that read images (default: up to 8, by the cores)")
    add("--shards", type=parse_shards, metavar="A:B", help="do only the shards A to B-1")
    add(
        "--shard-size",
        type=int,
        help="images per shard, fixed when a job begins (default: 16 to 1000, by the images' number)",
    )
    add(
        "--no-locks",
        action="store_true",
        help="the file system has no locks; I vouch that no two processes share a shard",
    )
    add("--strict", action="store_true", help="exit with 1 when any image failed")
    return parser


def folder_options(command: str, about: str, *more: tuple[str, str]) -> argparse.Namespace:
    """Parse `caption.py COMMAND FOLDER`, with more switches (name, help)."""
    parser = argparse.ArgumentParser(prog=f"caption.py {command}", description=about)
    parser.add_argument("folder", type=Path, help="output folder of a captioning run")
    for name, explained in more:
        parser.add_argument(name, action="store_true", help=explained)
    return parser.parse_args(sys.argv[2:])


def caption_command(args: argparse.Namespace) -> int:
    """Load the model, settle the plan, caption this process's shards, and finish the job if it was the last."""
    from ham.captioner.checkpoint import (
        load_captioner,
    )  # not needed by status and merge, which should answer at once
    from ham.captioner.engine import DecodeSettings
    from ham.generation.native_engine import CaptionerEngine, fingerprint

    place = dist_info()
    check(args)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    tower = None if args.vision_tower == "reference" else args.vision_tower
    captioner = load_captioner(
        args.model_path,
        device,
        dtype,
        tower,
        base_model=args.base_model,
        image_aspect_ratio=args.image_aspect_ratio,
    )
    pool, _, captions_per_image = parse_styles(args.styles, captioner.num_styles, args.captions_per_image)
    decoding = DecodeSettings(
        args.prompt, args.template, args.max_new_tokens, args.temperature, args.top_p, args.seed
    )
    engine = CaptionerEngine(captioner, decoding, args.batch_size, captions_per_image)
    settings = {
        "model": fingerprint(captioner),
        "dtype": str(dtype).removeprefix("torch."),
        "prompt": engine.decoder.prompt,
        "template": engine.decoder.template.name,
        "styles": args.styles,
        "style_pool": list(pool),
        "captions_per_image": captions_per_image,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "max_redraws": args.max_redraws,
        "reject_slash_n": args.reject_slash_n,
        "filter_version": FILTER_VERSION,
    }
    info = {
        "model_path": str(args.model_path),
        "image_root": str(args.image_root.resolve()),
        "images": str(args.images or ""),
        "vision_tower": captioner.manifest.get("vision_tower", args.vision_tower),
        "num_styles": captioner.num_styles,
    }
    if place.is_main:
        plan = settle_plan(
            args.out,
            lambda: list_images(args.image_root, args.images, args.limit),
            settings,
            info,
            args.shard_size,
            not args.no_locks,
        )
    else:
        plan = wait_for_plan(args.out, settings, args.shard_size)
    log.info(
        "%d images, %d captions each, %d at a time on %s in %s",
        len(plan.images),
        captions_per_image,
        engine.batch_images,
        device,
        settings["dtype"],
    )
    run = Run(
        plan, engine, args.image_root, place, args.shards, workers_for(args.workers, place), not args.no_locks
    )
    elsewhere = run.work()
    if elsewhere:
        log.info("%d shards are being written by other processes", elsewhere)
    log.info(
        "seconds: %s",
        ", ".join(
            f"{name} {seconds:.1f}" for name, seconds in {**run.seconds, **engine.decoder.seconds}.items()
        ),
    )
    return finish(plan, args)


def check(args: argparse.Namespace) -> None:
    """Fail at the door on numbers that cannot be. Raises UsageError."""
    for name, least in (
        ("batch_size", 1),
        ("limit", 1),
        ("workers", 0),
        ("shard_size", 1),
        ("max_redraws", 0),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    if not args.image_root.is_dir():
        raise UsageError(f"--image-root {args.image_root}: no such folder")


def workers_for(asked: int | None, place: DistInfo) -> int:
    """Choose how many processes read images: this process's share of the cores but one, at most 8."""
    if asked is not None:
        return asked
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(place.world_size)))
    return min(8, max(len(os.sched_getaffinity(0)) // local - 1, 0))


def finish(plan: Plan, args: argparse.Namespace) -> int:
    """Merge when every shard is done, whoever did them; only then can --strict judge."""
    if not all(is_done(plan.folder, shard) for shard in range(plan.num_shards)):
        log.info("the job is not complete yet: see `caption.py status %s`", plan.folder)
        return 0
    if not dist_info().is_main:
        return 0  # rank 0 waits for all, merges and judges; failing here would end its torchrun early
    summary = merge(plan, args.keep_rejected, not args.no_locks)
    write_sample_page(plan, args.image_root)
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    failed = summary["images_failed"]
    if failed:
        log.warning(
            "%d of %d images failed: %s",
            failed,
            summary["images"],
            ", ".join(f"{entry['image']} ({entry['reason']})" for entry in summary["first_failed"][:3]),
        )
    return int(args.strict and failed > 0)


def merge_command() -> int:
    """Put together what is done so far."""
    args = folder_options(
        "merge",
        "put captions.json together from the finished shards; works while others write",
        ("--keep-rejected", "fall back on rejected captions where too few are accepted"),
        ("--no-locks", "the file system has no locks"),
        ("--strict", "exit with 1 when any image failed"),
    )
    plan = load_plan(args.folder)
    summary = merge(plan, args.keep_rejected, not args.no_locks)
    write_sample_page(plan, Path(plan.info["image_root"]))
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    return int(args.strict and summary["images_failed"] > 0)


def write_sample_page(plan: Plan, image_root: Path) -> None:
    """Write samples.html in the job's folder."""
    write_samples(
        plan.folder / "samples.html", draw_samples(plan), image_root, len(plan.images), describe_job(plan)
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
