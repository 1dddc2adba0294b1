"""Write the report of a run of scripts/demo.sh: one self-contained HTML page.

    python -m scripts.demo_report --run runs/demo

Reads what the stages recorded, and computes what needs two of them at once: claims of captions against what was drawn, one
pedestrian in eight styles, queries with their best images, a search. Takes about a minute on a CPU. Optional folders in the
run: captions_static/ (the untuned LLaVA) and captions_template/ (textual hints), for the comparison of captions; an optional
steps.jsonl of {step, seconds} gives the times of the whole run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `python scripts/demo_report/__main__.py`

from ham.datasets import BENCHMARKS
from ham.records import atomic_write, path_below, read_jsonl
from ham.report.page import data_uri, image_tag, style_sheet
from ham.report.style_map import draw_map, draw_sizes
from ham.runtime import UsageError, exit_code_of, log, numpy_generator, set_up_logging
from scripts.demo_report.captions import (
    STYLES,
    compare_sources,
    drawn_attributes,
    matches_query,
    share_right,
    typical_pedestrian,
)
from scripts.demo_report.charts import loss_charts, rank_chart
from scripts.demo_report.experiment import deciding_rows, read_experiment
from scripts.demo_report.facts import (
    describe_machine,
    duration,
    loss_means,
    number,
    plural,
    revisions_of,
    seeds_of,
)
from scripts.demo_report.folder import METHODS, Row, RunFolder, finetuned, mean_of, read_run, text_to_image

QUERY = "a woman with long brown hair, a red coat and black boots"
QUERIES, TOP = 6, 10


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts.demo_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder that scripts/demo.sh filled")
    parser.add_argument("--out", type=Path, help="page to write (default: RUN/report.html)")
    parser.add_argument("--query", default=QUERY, help=f"sentence to search for (default: {QUERY})")
    parser.add_argument(
        "--ablation",
        type=Path,
        help="ablation.json of scripts/ablation.py to show beside the run (default: the committed one)",
    )
    parser.add_argument(
        "--captions",
        type=int,
        default=2000,
        help="largest number of captions measured per source (default 2000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything that the page draws at random"
    )
    return parser


def main() -> None:
    args = build_parser().parse_args()
    set_up_logging()
    if args.captions < 2:
        raise UsageError(f"--captions {args.captions}: diversity needs at least 2")
    run = read_run(args.run)
    experiment = read_experiment(args.ablation)
    drawn = drawn_attributes(run)
    sources = compare_sources(run, drawn, args.captions, args.seed)
    log.info("styles, and one pedestrian in %d of them", STYLES)
    values = {
        "run": run,
        "styles": read_styles(run.folder / "styles"),
        "portrait": typical_pedestrian(run, drawn, args.seed),
        "sources": sources,
        "queries": rank_queries(run, args.seed),
        "search": search_world(run, args.query),
        "people": draw_people(run.folder / "world", args.seed),
        "experiment": experiment,
        "deciding": deciding_rows(experiment, sources, mean_of(run.transfer, "R1")) if experiment else [],
    }
    page = args.out or args.run / "report.html"
    with atomic_write(page) as file:
        file.write(render(run, values))
    print(f"{summary_table(run)}\n\n{page}")


def render(run: RunFolder, values: dict[str, Any]) -> str:
    """Fill the page's template."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, uri=data_uri, words=plural)
    environment.globals.update(
        picture=lambda path, description, width, height: Markup(
            image_tag(path, description, (width, height))
        ),
        text_to_image=text_to_image,
        mean_of=mean_of,
        share_right=share_right,
    )
    start, tested = text_to_image(run.start), next(iter(text_to_image(run.transfer)))
    charts = {
        "map": draw_map(values["styles"]),
        "sizes": draw_sizes(values["styles"]),
        "losses": loss_charts(run),
        "transfer": rank_chart({name: (row, run.trainings["pretrain"]) for name, row in start.items()}),
        "finetuning": rank_chart(
            {one["label"]: (one["start"], run.trainings[one["name"]]) for one in finetuned(run, tested)}
        ),
    }
    return environment.get_template("page.html").render(
        values,
        css=Markup(style_sheet()),
        charts=charts,
        tested=tested,
        finetuned=finetuned(run, tested),
        benchmarks=BENCHMARKS,
        machine=describe_machine(),
        loss_means=loss_means(run.tuning_log),
        seeds=seeds_of(run),
        revisions=revisions_of(run),
    )


def summary_table(run: RunFolder) -> str:
    """Return Rank-1 and mAP of every test set as text."""
    rows = {
        "before pretraining": run.start,
        "pretrained": run.transfer,
        **{f"fine-tuned, {METHODS[name]}": run.trainings[name].results() for name in METHODS},
    }
    lines = [f"{'Rank-1 / mAP, %':27}" + "".join(f"{name:>17}" for name in BENCHMARKS)]
    for label, results in rows.items():
        found = text_to_image(results)
        cells = [
            f"{found[name]['R1']:>9.2f} /{found[name]['mAP']:>6.2f}" if name in found else f"{'':17}"
            for name in BENCHMARKS
        ]
        lines.append(f"{label:27}" + "".join(cells))
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ what the page shows


def read_styles(folder: Path) -> Any:
    from ham.style.analysis import look_at

    return look_at(folder)


def rank_queries(run: RunFolder, seed: int) -> list[Row]:
    """Rank the gallery of the first benchmark for some of its captions, with the pretrained model."""
    from ham.reid.evaluate import encode_split, pick_examples

    model, settings = load_retrieval(run.folder / "pretrain" / "last")
    dataset = next(iter(text_to_image(run.transfer)))
    encoded = encode_split(model, run.folder / "world", dataset, "test", settings)
    return pick_examples(encoded, QUERIES, TOP, seed)


def search_world(run: RunFolder, query: str) -> dict[str, Any]:
    """Search the world's CUHK-PEDES with the IRRA model; hits are compared with what was drawn."""
    from ham.image_folder import list_images
    from ham.reid.search import search

    world = run.folder / "world"
    folder = world / "CUHK-PEDES" / "imgs"
    model, settings = load_retrieval(run.folder / "finetune_irra" / "last")
    row = search(model, folder, [query], TOP, settings)[0]
    truth = read_jsonl(world / "truth" / "CUHK-PEDES-images.jsonl")
    attributes = {path_below(folder, one["image_path"]).resolve(): one["attributes"] for one in truth}
    for hit in row["hits"]:
        drawn = attributes.get(Path(hit["image"]).resolve())
        hit["right"] = None if drawn is None else matches_query(query, drawn)
    matching = sum(matches_query(query, drawn) is True for drawn in attributes.values())
    return {"row": row, "images": sum(1 for _ in list_images(folder)), "matching": matching}


def load_retrieval(checkpoint: Path) -> tuple[Any, Any]:
    """Load a retrieval checkpoint for encoding on the CPU: (model, settings)."""
    from ham.reid.encode import EncodeSettings
    from ham.reid.weights import load_method

    model = load_method(checkpoint)
    clip = model.base_model.config
    return model, EncodeSettings(clip.image_size_px, min(77, clip.context_length))


def draw_people(world: Path, seed: int) -> list[dict[str, Any]]:
    """Draw two captioned pedestrians of each benchmark."""
    people = []
    for dataset in BENCHMARKS:
        rows = list(read_jsonl(world / "truth" / f"{dataset}-captions.jsonl"))
        for index in numpy_generator(seed, "report", dataset).permutation(len(rows))[:2].tolist():
            image = path_below(world / dataset / "imgs", rows[index]["image_path"])
            people.append({"image": image, "dataset": dataset, "caption": rows[index]["caption"]})
    return people


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
