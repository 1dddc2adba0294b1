"""The command `eval` of train_reid.py: one checkpoint, or several in a matrix of source x target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ham.datasets import check_names, needs_root
from ham.reid.checkpoints import write_config
from ham.reid.compare import Figures, expected_figures, format_expected, format_matrix
from ham.reid.data import require_datasets
from ham.reid.eval_config import EvalConfig
from ham.reid.evaluate import Row, evaluate, format_table, pick_examples, write_results
from ham.reid.open_model import open_model, require
from ham.runtime import UsageError, dist_info, log

MATRIX_FOLDER = "eval_matrix"
Draw = Callable[..., Path]


def run(config: EvalConfig, draw: Draw) -> int:
    """Print a table for each checkpoint, what was expected beside it, and a matrix where there are several."""
    sources = checkpoint_sources(config)
    require(config, "test_datasets")
    if needs_root(config.test_datasets):
        require(config, "data_root")
    check_names(config.test_datasets)
    expected = expected_figures(config.published, config.expected)
    require_datasets(config.data_root, config.test_datasets, config.split)
    first = next(iter(sources.values()))
    beside = first if first.is_dir() else first.parent
    if not config.checkpoints:
        evaluate_one(config, first, config.output_dir or beside / "eval", expected, draw)
        return 0
    out = config.output_dir or beside / MATRIX_FOLDER
    rows_of = {}
    for name, path in sources.items():
        log.info("evaluating %s (%s)", name, path)
        rows_of[name] = evaluate_one(config, path, out / name, expected, draw)
    if dist_info().is_main:
        sys.stdout.write(
            "\n" + "\n\n".join(format_matrix(rows_of, metric) for metric in ("R1", "mAP")) + "\n"
        )
        rows = [{"source": name, **row} for name, found in rows_of.items() for row in found]
        write_results(rows, out / "matrix.json")
        log.info("matrix: %s", out / "matrix.json")
    return 0


def checkpoint_sources(config: EvalConfig) -> dict[str, Path]:
    """Return the checkpoints by name. Raises UsageError for none, for both options, or for two of one name."""
    if config.checkpoint and config.checkpoints:
        raise UsageError("--checkpoint and --checkpoints exclude each other; put all into --checkpoints")
    if not config.checkpoints:
        require(config, "checkpoint")
        return {"": Path(str(config.checkpoint))}
    sources: dict[str, Path] = {}
    for word in config.checkpoints:
        name, separator, path = word.partition("=")
        if not separator:
            path = word
            name = Path(word).parent.name if Path(word).name == "last" else Path(word).stem
        if name in sources or not name or "/" in name:
            raise UsageError(f"--checkpoints: '{word}' needs a name of its own; write it as NAME=PATH")
        sources[name] = Path(path)
    missing = [path for path in sources.values() if not path.exists()]
    if missing:
        raise UsageError(f"--checkpoints: {missing[0]}: no such file or folder")
    return sources


def evaluate_one(
    config: EvalConfig, checkpoint: Path, out: Path, expected: Mapping[str, Figures], draw: Draw
) -> list[Row]:
    """Evaluate one checkpoint: print its tables, write evaluation.json and a picture of queries with their ten best images."""
    model, settings, device = open_model(config, checkpoint)
    names, root = config.test_datasets, config.data_root
    rows, encoded = evaluate(model, root, names, config.split, config.image_to_text, settings, out, device)
    if not dist_info().is_main:
        return rows
    write_config(out / "config.yaml", config)
    sys.stdout.write(f"{format_table(rows)}\n")
    comparison = format_expected(rows, expected)
    if comparison:
        sys.stdout.write(f"\n{comparison}\n")
    for split in encoded if config.pictures else ():
        examples = pick_examples(split, config.pictures, seed=config.seed)
        picture = draw(examples, out / f"gallery_{split.dataset}.png", f"{split.dataset}, {split.split}")
        log.info("picture: %s", picture)
    log.info("results: %s", out / "evaluation.json")
    return rows
