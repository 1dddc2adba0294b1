"""Text-to-image person retrieval: pretrain, fine-tune, evaluate, search, embed. Stages 4 and 5 of the pipeline.

    python train_reid.py pretrain --config configs/reid/pretrain_ham_1m.yaml
    python train_reid.py eval --config configs/reid/transfer.yaml --checkpoint runs/pretrain_ham_1m/last
    python train_reid.py finetune --config configs/reid/finetune_rde_cuhk.yaml
    python train_reid.py search --checkpoint runs/pretrain_ham_1m/last --gallery photos "a man in a red jacket"
    python train_reid.py embed --checkpoint runs/pretrain_ham_1m/last --images photos --out photos.safetensors
    python train_reid.py serve --checkpoint runs/pretrain_ham_1m/last --gallery photos
    torchrun --nproc-per-node 8 train_reid.py pretrain --config ...
    accelerate launch --multi_gpu --num_processes 8 train_reid.py pretrain --config ...      the same

Defaults < YAML file < command line (`--batch-size 64` or `--batch_size 64`); `--print-config` prints the result. The same
command continues a run that was stopped. Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ham.distributed import leave
from ham.reid import command_line
from ham.reid.command_line import CommandLine
from ham.reid.config import TrainOptions, train_config_type
from ham.reid.eval_config import EmbedConfig, EvalConfig, SearchConfig, ServeConfig
from ham.runtime import exit_code_of, set_up_logging


def main(arguments: Sequence[str] | None = None) -> int:
    command, config = parse(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    return COMMANDS[command](config)


def run_training(config: TrainOptions) -> int:
    from ham.reid import train_command

    return train_command.run(config)


def run_evaluation(config: EvalConfig) -> int:
    from ham.reid import eval_command
    from ham.report.gallery import draw_gallery

    return eval_command.run(config, draw_gallery)


def run_search(config: SearchConfig) -> int:
    from ham.reid import search_command
    from ham.report.gallery import draw_gallery

    return search_command.run(config, draw_gallery)


def run_embed(config: EmbedConfig) -> int:
    from ham.reid import embed_command

    return embed_command.run(config)


def run_serve(config: ServeConfig) -> int:
    from ham.reid import serve_command

    return serve_command.run(config, load_captioner)


def load_captioner(checkpoint: Path) -> Any:
    """Load a captioner for the page's second tab."""
    from ham.captioner.checkpoint import load_captioner
    from ham.captioner.decode import generate
    from ham.reid.serve_answers import Captioner

    loaded = load_captioner(checkpoint)

    def describe(image: Any, style_ids: Sequence[int]) -> list[str]:
        return generate(loaded, [image], [list(style_ids)])[0]

    return Captioner(loaded.num_styles, describe)


COMMANDS: dict[str, Callable[[Any], int]] = {
    "pretrain": run_training,
    "finetune": run_training,
    "eval": run_evaluation,
    "search": run_search,
    "embed": run_embed,
    "serve": run_serve,
}


def command_lines() -> dict[str, CommandLine]:
    """Return the options of each command; a method that is registered later brings its own."""
    training = train_config_type()
    return {
        "pretrain": CommandLine(training, "train CLIP on captioned person images (SDM)"),
        "finetune": CommandLine(training, "train on a benchmark with IRRA or RDE"),
        "eval": CommandLine(EvalConfig, "evaluate a checkpoint on the benchmarks"),
        "search": CommandLine(SearchConfig, "find images of a folder by description", positional="query"),
        "embed": CommandLine(EmbedConfig, "write the features of images or captions to a file"),
        "serve": CommandLine(ServeConfig, "serve a page to search a folder of images"),
    }


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """Parse a command line into the command and its config. Raises UsageError."""
    return command_line.parse(arguments, command_lines(), "train_reid.py", __doc__ or "")


if __name__ == "__main__":
    leave(exit_code_of(main))
