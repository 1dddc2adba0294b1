"""Text-to-image person retrieval: pretrain, finetune, evaluate, search. Stages 4 and 5 of the pipeline.

    python train_reid.py pretrain --config configs/reid/pretrain_ham_1m.yaml
    python train_reid.py eval --config configs/reid/transfer.yaml --checkpoint runs/pretrain_ham_1m/last
    python train_reid.py finetune --config configs/reid/finetune_rde_cuhk.yaml
    python train_reid.py search --checkpoint runs/pretrain_ham_1m/last --gallery photos "a man in a red jacket"
    torchrun --nproc-per-node 8 train_reid.py pretrain --config ...
    accelerate launch --multi_gpu --num_processes 8 train_reid.py pretrain --config ...      the same

Defaults < YAML file < command line (`--batch-size 64` or `--batch_size 64`); `--print-config` shows what results. The same
command goes on where it was stopped. Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser

from ham.distributed import leave
from ham.reid.config import EvalConfig, SearchConfig, TrainConfig
from ham.reid.irra import IRRAOptions
from ham.reid.rde import RDEOptions
from ham.runtime import UsageError, exit_code_of, log, set_up_logging

CONFIGS = {"pretrain": TrainConfig, "finetune": TrainConfig, "eval": EvalConfig, "search": SearchConfig}
HELP = {
    "pretrain": "train CLIP on captioned person images (SDM)",
    "finetune": "train on a benchmark with IRRA or RDE",
    "eval": "measure a checkpoint on the benchmarks",
    "search": "find images of a folder by description",
}


def main(arguments: Sequence[str] | None = None) -> int:
    command, config = parse(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    commands: dict[str, Callable[[Any], int]] = {
        "pretrain": run_training,
        "finetune": run_training,
        "eval": run_evaluation,
        "search": run_search,
    }
    return commands[command](config)


# ---------------------------------------------------------------------------------------------------------------- commands


def run_training(config: TrainConfig) -> int:
    from ham.reid.train import train

    result = train(config)
    best = ", ".join(f"{name} {value:.2f}" for name, value in result["best"].items())
    log.info("done: %s/last%s", result["output_dir"], f"; mean R1 of {best}" if best else "")
    return 0


def run_evaluation(config: EvalConfig) -> int:
    """Print one table for all test sets; write it as evaluation.json and a picture of queries with their ten best images."""
    from ham.reid.checkpoints import write_config
    from ham.reid.data import require_datasets
    from ham.reid.evaluate import evaluate, format_table, pick_examples
    from ham.report.gallery import draw_gallery
    from ham.runtime import dist_info

    require(config, "checkpoint", "data_root", "test_datasets")
    require_datasets(config.data_root, config.test_datasets, config.split)
    model, settings, device = open_model(config)
    out = (
        config.output_dir
        or (config.checkpoint if config.checkpoint.is_dir() else config.checkpoint.parent) / "eval"
    )
    rows, encoded = evaluate(
        model,
        config.data_root,
        config.test_datasets,
        config.split,
        config.image_to_text,
        settings,
        out,
        device,
    )
    if dist_info().is_main:
        write_config(out / "config.yaml", config)
        print(format_table(rows))
        for split in encoded if config.pictures else ():
            examples = pick_examples(split, config.pictures, seed=config.seed)
            picture = draw_gallery(
                examples, out / f"gallery_{split.dataset}.png", f"{split.dataset}, {split.split}"
            )
            log.info("picture: %s", picture)
        log.info("figures: %s", out / "evaluation.json")
    return 0


def run_search(config: SearchConfig) -> int:
    """Print the best images of each query and write them as a picture."""
    from ham.reid.search import search
    from ham.report.gallery import draw_gallery

    require(config, "checkpoint", "gallery", "query")
    model, settings, _ = open_model(config)
    rows = search(model, config.gallery, config.query, config.top, settings, config.index)
    for row in rows:
        print(row["query"])
        for hit in row["hits"]:
            print(f"  {hit['score']:.3f}  {hit['image']}")
    log.info("picture: %s", draw_gallery(rows, config.output))
    return 0


def open_model(config: EvalConfig | SearchConfig) -> tuple[Any, Any, Any]:
    """Load a checkpoint on the device for encoding: (model, settings, device)."""
    from accelerate import PartialState

    from ham.clip.layouts import read_weights
    from ham.reid.encode import EncodeSettings
    from ham.reid.weights import load_method
    from ham.runtime import dist_info, resolve_device, resolve_dtype

    device = resolve_device(config.device)
    if dist_info().world_size > 1:
        PartialState(cpu=device.type == "cpu")
    weights = read_weights(config.checkpoint)
    ours = weights.person_sized and "image_size_px" in weights.facts
    model = load_method(
        weights,
        config.method,
        config.image_size_px or (None if ours else (384, 128)),
        config.stride_px or (None if ours else 16),
    ).to(device)
    clip = model.base_model.config
    settings = EncodeSettings(
        clip.image_size_px,
        min(config.text_length, clip.context_length),
        config.batch_size,
        config.num_workers,
        resolve_dtype(config.precision, device),
    )
    return model, settings, device


def require(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name):
            raise UsageError(f"--{name} is missing; set it in the YAML file or on the command line")


# ------------------------------------------------------------------------------------------------------------ command line


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """Read command, YAML file and options into the command's config. Raises UsageError; an unknown key lists the valid ones."""
    parser, parsers = build_parser()
    try:
        parsed = parser.parse_args([with_underscores(word) for word in arguments])
    except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
        raise UsageError(explain(str(error), parsers.get(next(iter(arguments), "")))) from None
    kind, values = CONFIGS[parsed.command], parsed[parsed.command]
    nested = {"irra": IRRAOptions, "rde": RDEOptions}
    return parsed.command, kind(
        **{
            field.name: nested[field.name](**values[field.name].as_dict())
            if field.name in nested
            else values[field.name]
            for field in fields(kind)
        }
    )


def build_parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Build the command line: the parser and that of each command."""
    facts = {"exit_on_error": False, "allow_abbrev": False, "print_config": "--print-%s"}
    parser = ArgumentParser(
        prog="train_reid.py",
        description=__doc__,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands, parsers = parser.add_subcommands(dest="command"), {}
    for command, kind in CONFIGS.items():
        parsers[command] = ArgumentParser(description=HELP[command], **facts)
        parsers[command].add_argument(
            "--config", action="config", help="YAML file with any of the options below"
        )
        parsers[command].add_class_arguments(kind, None, skip={"query"})
        if command == "search":
            parsers[command].add_argument(
                "query", nargs="*", type=str, default=[], help="descriptions, each in quotes"
            )
        commands.add_subcommand(command, parsers[command], help=HELP[command])
    return parser, parsers


def with_underscores(word: str) -> str:
    """Take `--batch-size` for `--batch_size`: YAML keys and options are the same names."""
    option = re.fullmatch(r"(--[a-z][\w.-]*)(\+?(?:=.*)?)", word, re.DOTALL)
    if option is None or option[1] == "--print-config":
        return word
    return "--" + option[1][2:].replace("-", "_") + option[2]


def explain(message: str, parser: ArgumentParser | None) -> str:
    """Add to jsonargparse's message what the valid commands or keys are, and the nearest one."""
    message = message.strip()
    if parser is None:
        return f"{message}; the commands are {', '.join(CONFIGS)}"
    unknown = re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message)
    if unknown is None:
        return message
    keys = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
    near = difflib.get_close_matches(unknown[1] or unknown[2], keys, 1)
    return f"{message}{f'; did you mean {near[0]}?' if near else ''} The valid keys are {', '.join(keys)}"


if __name__ == "__main__":
    leave(exit_code_of(main))
