"""Make the report of a run of scripts/demo.sh: one self-contained HTML page.

    python scripts/demo_report/__main__.py --run runs/demo --out runs/demo/report.html

Reads what the stages recorded, and works out what needs two of them at once: what captions claim against what was drawn, one
pedestrian in eight styles, queries with their best images, a search. CPU, about a minute. Optional folders in the run, for the
comparison of captions: captions_static/ (caption.py with the untuned LLaVA and --styles none) and captions_template/ (any
captions.json of {image: [caption, ...]}); an optional steps.jsonl of {step, seconds} gives the times of the whole run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.generation.diversity import measure
from ham.images import open_image
from ham.records import path_below, read_json, read_jsonl
from ham.runtime import UsageError, exit_code_of, log, numpy_generator, set_up_logging
from ham.world.attributes import agree
from ham.world.manners import worth_telling
from ham.world.parser import parse, score_content
from scripts.demo_report.folder import METHODS, RunFolder, read_run
from scripts.demo_report.opening import Passerby
from scripts.demo_report.report import Findings, read_ablation, write_report
from scripts.demo_report.retrieval import text_to_image
from scripts.demo_report.wording import Portrait, Voice, Wording

HOW_TO_ADD = {
    "static": "caption.py with the untuned LLaVA and --styles none makes them in captions_static/",
    "template": "captions_template/captions.json would hold them",
}
QUERY = "a woman with long brown hair, a red coat and black boots"
QUERIES, TOP, STYLES, TOKENS = 6, 10, 8, 120


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder that scripts/demo.sh filled")
    parser.add_argument("--out", type=Path, help="page to write (default: RUN/report.html)")
    parser.add_argument("--query", default=QUERY, help=f"sentence to search for (default: {QUERY})")
    parser.add_argument(
        "--ablation", type=Path, help="JSON with `rows`, the experiment's table, to show as well"
    )
    parser.add_argument(
        "--captions", type=int, default=2000, help="most captions measured of each source (default 2000)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the pedestrian, the styles, the queries and the captions"
    )
    return parser


def main() -> None:
    args = options().parse_args()
    set_up_logging()
    if args.captions < 2:
        raise UsageError(f"--captions {args.captions}: diversity needs at least 2")
    run = read_run(args.run)
    ablation = read_ablation(args.ablation) if args.ablation else None
    truth = args.run / "world" / "truth" / "SYNTH-PEDES-images.jsonl"
    shown = {row["image_path"]: row["attributes"] for row in read_jsonl(truth)}
    wordings, missing = compare_wordings(run, shown, args.captions, args.seed)
    log.info("styles and one pedestrian in %d of them", STYLES)
    styles, portrait = look_at_styles(run.folder / "styles"), describe(run, shown, args.seed)
    gallery = rank_queries(run, args.seed)
    search, searched = search_world(run, args.query)
    people = passers_by(run.folder / "world", args.seed)
    findings = Findings(people, styles, portrait, wordings, missing, gallery, search, searched, ablation)
    page = write_report(args.out or args.run / "report.html", run, findings)
    print(f"{summary_of(run)}\n\n{page}")


def summary_of(run: RunFolder) -> str:
    """Lay Rank-1 and mAP of every test set out for the terminal."""
    rows = {
        "start": run.start["results"],
        "pretrained": run.transfer["results"],
        **{f"then finetuned with {METHODS[name]}": one.results() for name, one in run.finetunes.items()},
    }
    lines = [f"{'Rank-1 / mAP, %':27}" + "".join(f"{name:>17}" for name in BENCHMARKS)]
    for label, results in rows.items():
        found = text_to_image(results)
        lines.append(
            f"{label:27}"
            + "".join(
                f"{found[name]['R1']:>9.2f} /{found[name]['mAP']:>6.2f}" if name in found else f"{'':17}"
                for name in BENCHMARKS
            )
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- what captions say


def compare_wordings(
    run: RunFolder, shown: dict[str, dict[str, str]], most: int, seed: int
) -> tuple[list[Wording], dict[str, str]]:
    """Measure every source's captions, equally many of each; also say how to make the sources that the run lacks."""
    sources = {
        "static": run.folder / "captions_static" / "captions.json",
        "template": run.folder / "captions_template" / "captions.json",
        "HAM": run.folder / "captions" / "captions.json",
    }
    pairs = {name: read_captions(file, shown) for name, file in sources.items() if file.is_file()}
    pairs["humans"] = [
        (row["image_path"], row["caption"])
        for row in read_jsonl(run.folder / "world" / "truth" / "SYNTH-PEDES-captions.jsonl")
    ]
    few = {name: len(found) for name, found in pairs.items() if len(found) < 2}
    if few:
        raise UsageError(
            f"{run.folder}: too few captions to compare: {few}; expected at least 2 of each source"
        )
    count = min(most, *map(len, pairs.values()))
    log.info("measuring %d captions of each of %s", count, ", ".join(pairs))
    wordings = []
    for name, found in pairs.items():
        rows = sorted(numpy_generator(seed, "report", name).permutation(len(found))[:count].tolist())
        captions, truths = [found[row][1] for row in rows], [shown[found[row][0]] for row in rows]
        facts = {name: 100 * share for name, share in score_content(captions, truths).items()}
        wordings.append(Wording(name, measure(captions, seed), facts))
    return wordings, {name: how for name, how in HOW_TO_ADD.items() if name not in pairs}


def read_captions(file: Path, shown: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    """Read {image: [caption, ...]} as pairs. Raises UsageError for an image that the pool does not hold."""
    found = read_json(file)
    unknown = next((image for image in found if image not in shown), None)
    if unknown is not None:
        raise UsageError(
            f"{file}: image '{unknown}' is not in the world's pool; captions and world must be of one run"
        )
    return [(image, caption) for image, captions in found.items() for caption in captions]


def describe(run: RunFolder, shown: dict[str, dict[str, str]], seed: int) -> Portrait:
    """Describe one image of the pool in eight styles; image and styles are drawn, not picked."""
    from ham.captioner.checkpoint import load_captioner
    from ham.captioner.decode import generate

    written: dict[int, list[str]] = {}
    for row in read_jsonl(run.folder / "styles" / "assignments.jsonl"):
        for style in row["style_ids"]:
            written.setdefault(style, []).append(row["caption"])
    rng = numpy_generator(seed, "report", "portrait")
    name = sorted(shown)[rng.integers(len(shown))]
    styles = sorted(rng.permutation(sorted(written))[:STYLES].tolist())
    image = path_below(run.folder / "world" / "SYNTH-PEDES", name)
    captioner = load_captioner(run.folder / "captioner")
    captions = generate(
        captioner, [open_image(image)], [styles], run.plan["settings"]["prompt"], max_new_tokens=TOKENS
    )[0]
    return Portrait(
        image,
        tell(shown[name]),
        [
            voice_of(style, caption, shown[name], written[style][rng.integers(len(written[style]))])
            for style, caption in zip(styles, captions)
        ],
    )


def voice_of(style: int, caption: str, truth: dict[str, str], human: str) -> Voice:
    """Check a caption's claims against what was drawn."""
    said = parse(caption)
    wrong = [
        in_words(field, value)
        for field, value in said.items()
        if field not in truth or not agree(field, value, truth[field])
    ]
    return Voice(style, caption, len(said), wrong, human)


def tell(truth: dict[str, str]) -> list[str]:
    """Put what was drawn into words, colours before their things."""
    colours = {
        name.removesuffix("_colour"): value for name, value in truth.items() if name.endswith("_colour")
    }
    words = []
    for name, value in worth_telling(truth).items():
        if name == "hair_length" and value in ("short", "shoulder", "long"):
            words.append(f"{value} {colours.get('hair', '')} hair")
        elif not name.endswith("_colour"):
            words.append(
                f"{colours.get(name.removesuffix('_length'), '') if name != 'lower_length' else ''} "
                f"{in_words(name, value)}".strip()
            )
    return words


def in_words(field: str, value: str) -> str:
    """Name one attribute: "navy shoes", "short hair", "knee-length", "no bag", "from the back"."""
    first = {"upper": "upper garment", "lower": "lower garment"}.get(field.split("_")[0], field.split("_")[0])
    if value == "none":
        return f"no {first}"
    if field == "lower_length":
        return f"{value}-length"
    if field.endswith(("_colour", "_length")) and value not in ("bald", "ponytail"):
        return f"{value} {first}"
    return {
        "sleeve": f"{value} sleeves" if value != "sleeveless" else value,
        "view": f"from the {value}",
    }.get(field, value)


# -------------------------------------------------------------------------------------------------------- styles, retrieval


def look_at_styles(folder: Path) -> Any:
    from ham.style.analysis import look_at

    return look_at(folder)


def rank_queries(run: RunFolder, seed: int) -> list[dict[str, Any]]:
    """Rank the gallery of the first benchmark for some of its captions, with the pretrained model."""
    from ham.reid.evaluate import encode_split, pick_examples

    model, settings = open_model(run.folder / "pretrain" / "last")
    dataset = next(iter(text_to_image(run.transfer["results"])))
    return pick_examples(
        encode_split(model, run.folder / "world", dataset, "test", settings), QUERIES, TOP, seed
    )


def search_world(run: RunFolder, query: str) -> tuple[list[dict[str, Any]], int]:
    """Search the world's CUHK-PEDES with the IRRA model; the demo's own search left an index. Also counts the images."""
    from ham.reid.search import list_images, search

    folder = run.folder / "world" / "CUHK-PEDES" / "imgs"
    model, settings = open_model(run.folder / "finetune_irra" / "last")
    return search(model, folder, [query], TOP, settings), len(list_images(folder))


def open_model(checkpoint: Path) -> tuple[Any, Any]:
    """Load one of our retrieval checkpoints for encoding on the CPU: (model, settings)."""
    from ham.reid.encode import EncodeSettings
    from ham.reid.weights import load_method

    model = load_method(checkpoint)
    clip = model.base_model.config
    return model, EncodeSettings(clip.image_size_px, min(77, clip.context_length))


def passers_by(world: Path, seed: int) -> Sequence[Passerby]:
    """Draw two captioned pedestrians of each benchmark."""
    people = []
    for dataset in BENCHMARKS:
        rows = list(read_jsonl(world / "truth" / f"{dataset}-captions.jsonl"))
        for place in numpy_generator(seed, "report", dataset).permutation(len(rows))[:2].tolist():
            image = path_below(world / dataset / "imgs", rows[place]["image_path"])
            people.append(Passerby(image, dataset, rows[place]["caption"]))
    return people


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
