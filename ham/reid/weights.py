"""Weights of the retrieval methods on disk: our checkpoint, the references' `.pth`, and what of either a method takes.

python -m ham.reid.weights export CHECKPOINT OUT.pth                                 IRRA's / RDE's own layout
python -m ham.reid.weights export --layout hf|open_clip|onnx CHECKPOINT FOLDER       both towers, for other libraries
python -m ham.reid.weights import IN.pth CHECKPOINT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham.clip import CLIP, CompactEmbedding
from ham.clip.export import EXPORTS, export_towers, whole_vocabulary
from ham.clip.layouts import METADATA_KEY, Weights, read_weights, some, write_tensors
from ham.clip.weights import clip_from_weights, facts_of
from ham.records import atomic_write
from ham.reid.heads import BASE, load_heads, modules
from ham.reid.methods import build_method, find_method, recognize_method
from ham.reid.protocol import RetrievalMethod
from ham.runtime import UsageError, exit_code_of, log, set_up_logging
from ham.tensor_files import check_new_folder

CLIP_ONLY = {"logit_scale"}  # not in the references' checkpoints: their temperature is fixed

IRRA_LAYOUT = "irra"  # of exports: {"model": {"base_model.…": tensor}}


def save_method(method: RetrievalMethod, folder: str | Path) -> Path:
    """Write `model.safetensors` in a checkpoint folder: OpenAI's CLIP names plus the heads' names. Returns the file."""
    tensors = {name.removeprefix(BASE): value for name, value in method.state_dict().items()}
    file = Path(folder) / "model.safetensors"
    write_tensors(file, tensors, facts_of(method.base_model) | {"method": method.name})
    return file


def start_method(
    method: str,
    source: str | Path,
    num_classes: int = 0,
    image_size_px: Sequence[int] | None = (384, 128),
    stride_px: int | None = 16,
    text_length: int | None = None,
    heads: tuple[int, int] | None = None,
    ignore_tensors: Sequence[str] = (),
    resume: bool = False,
    **options: Any,
) -> RetrievalMethod:
    """Build a method for training from any weights: both towers from the source, its heads where they fit, else new.

    The log lists which heads were loaded and which are new: after our pretraining all of them. Sizes, heads and
    ignore_tensors: as for `load_clip`. resume: new heads are an error, since the source is a checkpoint of the same run.
    options: as for `build_method`.
    """
    weights = read_weights(source, ignore_tensors)
    clip = clip_from_weights(weights, image_size_px, stride_px, text_length, heads)
    built = build_method(method, clip, num_classes, **options)
    report = load_heads(built, weights.others)
    log.info(
        "%s from %s: heads loaded: %s; new: %s; not used: %s",
        method,
        source,
        some(modules(report.loaded)),
        some(modules(report.new)),
        some(modules(report.unused)),
    )
    new = [name for name in report.new if not name.startswith(built.unused_tensors)]
    if resume and new:
        raise UsageError(
            f"{source} does not hold the heads of this run ({some(new, 2)}): it was trained on other persons or with other "
            "options; start a new run with another --output_dir"
        )
    return built


def load_method(
    source: str | Path | Weights,
    method: str | None = None,
    image_size_px: Sequence[int] | None = None,
    stride_px: int | None = None,
    heads: tuple[int, int] | None = None,
) -> RetrievalMethod:
    """Load a trained method for evaluation, in eval mode, with all that its features need.

    source: a path, or weights that were read already. Sizes and heads: as for `load_clip`; None: the source's own.
    method: a name or a loss list as for training; None: the method that the source records, or whose heads it holds, else
    `irra`. Heads that only training uses (IRRA's) are left out. Raises UsageError for an unknown method, and naming the heads
    that the method needs and the source lacks.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    source = weights.path
    own = own_method(weights)
    method = method or own
    kind = find_method(method)
    if kind is not find_method(own):
        log.warning(
            "%s is a checkpoint of %s and is used as %s: its features differ from those that it was trained for",
            source,
            own,
            method,
        )
    clip = clip_from_weights(weights, image_size_px, stride_px, None, heads)
    built = kind.build_for_evaluation(clip, weights.others)
    report = load_heads(built, weights.others)
    lacking = [name for name in report.new if not name.startswith(built.unused_tensors)]
    if lacking:
        raise UsageError(
            f"{source} ({weights.layout}) is no {method.upper()} checkpoint: the heads {some(modules(lacking))} are missing or "
            f"have other shapes ({some(lacking, 2)}); evaluate it as irra, or finetune it with {method} first"
        )
    return built.eval()


def own_method(weights: Weights) -> str:
    """Return the method that weights record, or whose heads they hold. Raises UsageError when the record is unknown."""
    recorded = weights.facts.get("method")
    if recorded is None:
        return recognize_method(weights.others)
    try:
        find_method(str(recorded))
    except UsageError as error:
        raise UsageError(f"{weights.path} records its method: {error}") from None
    return str(recorded)


def export(
    source: str | Path,
    out: str | Path,
    layout: str = "irra",
    image_size_px: Sequence[int] | None = None,
    stride_px: int | None = None,
    heads: tuple[int, int] | None = None,
    ignore_tensors: Sequence[str] = (),
) -> None:
    """Write a checkpoint in another layout: `irra` (towers and heads, a .pth), or one of `ham.clip.export.EXPORTS` (towers).

    Sizes, heads and ignore_tensors: as for `load_clip`; None: the source's own.
    """
    if layout != IRRA_LAYOUT:
        check_new_folder(out)
    weights = read_weights(source, ignore_tensors)
    clip = clip_from_weights(weights, image_size_px, stride_px, None, heads)
    if layout == IRRA_LAYOUT:
        write_pth(clip, weights.others, out)
        return
    if weights.others:
        log.warning(
            "not exported, because --layout %s has no place for them: %s",
            layout,
            some(modules(weights.others)),
        )
    towers_alone = find_method(own_method(weights)).towers_alone
    if towers_alone is not None:
        log.warning("the towers alone give %s", towers_alone)
    export_towers(clip, layout, out)


def export_pth(source: str | Path, out: str | Path) -> None:
    """Write a checkpoint in the references' layout; see `write_pth`."""
    export(source, out)


def write_pth(clip: CLIP, others: Mapping[str, Tensor], out: str | Path) -> None:
    """Write {"model": {"base_model....": tensor, heads}}, the references' layout.

    A compact vocabulary is written in full, so that IRRA's code can read it: features stay the same, and words without a row
    of their own share one. What the layout does not record (heads per tower, image size) is stored beside "model", where
    other readers ignore it.
    """
    towers = {name: value for name, value in whole_vocabulary(clip).items() if name not in CLIP_ONLY}
    heads = dict(others)
    if isinstance(clip.token_embedding, CompactEmbedding):
        for name in ("mlm_head.fc.weight", "mlm_head.fc.bias"):
            if name in heads:
                heads[name] = heads[name][clip.token_embedding.table]
    model = {f"{BASE}{name}": value.contiguous() for name, value in towers.items()} | heads
    with atomic_write(out, "wb") as file:
        torch.save({"model": model, METADATA_KEY: facts_of(clip)}, file)
    log.info("%s: %d tensors of the towers and %d of the heads written", out, len(towers), len(heads))


def import_pth(
    source: str | Path,
    folder: str | Path,
    image_size_px: Sequence[int] | None = None,
    stride_px: int | None = None,
    heads: tuple[int, int] | None = None,
    ignore_tensors: Sequence[str] = (),
) -> None:
    """Write weights of any layout as our checkpoint: towers at the given input size, and all heads.

    Sizes, heads and ignore_tensors: as for `load_clip`; the size None is the same that evaluation takes.
    """
    weights = read_weights(source, ignore_tensors)
    clip = clip_from_weights(weights, image_size_px, stride_px, None, heads)
    facts = facts_of(clip) | {"method": own_method(weights)}
    write_tensors(Path(folder) / "model.safetensors", clip.state_dict() | weights.others, facts)
    log.info(
        "%s: %d tensors of the towers and %d of the heads written",
        folder,
        len(clip.state_dict()),
        len(weights.others),
    )


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about what a source does not record."""
    parser.add_argument(
        "--image-size-px",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input size; by default the source's own, else 384 128",
    )
    parser.add_argument(
        "--stride-px", type=int, help="pixels between patches; by default the source's own, else the patch"
    )
    parser.add_argument(
        "--heads",
        type=int,
        nargs=2,
        metavar=("VISION", "TEXT"),
        help="attention heads, where the source does not record them",
    )
    parser.add_argument(
        "--ignore-tensors",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tensors that may be left out, by the beginning of their names",
    )


def main() -> int:
    """Run `export` or `import`."""
    parser = argparse.ArgumentParser(
        prog="python -m ham.reid.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="write a checkpoint in another layout")
    out.add_argument("checkpoint", type=Path, help="our checkpoint folder, or any weights")
    out.add_argument("out", type=Path, help="the file (irra) or new folder (all others) to write")
    out.add_argument(
        "--layout",
        choices=("irra", *EXPORTS),
        default="irra",
        help="irra: a .pth as IRRA's and RDE's code reads it (default); hf: a Hugging Face CLIP folder; open_clip: an "
        "open_clip folder; onnx: image.onnx and text.onnx",
    )
    back = commands.add_parser(
        "import", help="write an IRRA / RDE / HAM .pth, or any weights, as our checkpoint"
    )
    back.add_argument("pth", type=Path, help="the weights to read")
    back.add_argument("checkpoint", type=Path, help="the folder to write")
    for command in (out, back):
        add_source_options(command)
    options = parser.parse_args()
    set_up_logging()
    source_options = (options.image_size_px, options.stride_px, options.heads, options.ignore_tensors)
    if options.command == "export":
        export(options.checkpoint, options.out, options.layout, *source_options)
    else:
        import_pth(options.pth, options.checkpoint, *source_options)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
