"""The sections on retrieval: training curves, direct transfer, finetuning, queries with what was ranked first, one search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ham.report.page import Section, moved, note, picture, plural, table, text
from scripts.demo_report.charts import Series, line_chart
from scripts.demo_report.folder import METHODS, RunFolder, Training

METRICS = ("R1", "R5", "R10", "mAP", "mINP")
COLOURS = {"CUHK-PEDES": 0, "ICFG-PEDES": 1, "RSTPReid": 2}
LOSSES = {"sdm_loss": "SDM", "id_loss": "ID", "mlm_loss": "MLM", "bge_loss": "BGE", "tse_loss": "TSE"}
MARKS = {True: "✓", False: "✗", None: ""}
CLASSES = {True: "right", False: "wrong", None: "unjudged"}
PAPER_TRANSFER = (
    "With the real CLIP-ViT-B/16 and the real benchmarks the paper reports Rank-1 of 12.65 / 6.67 / 13.45 "
    "without pretraining and 70.15 / 59.63 / 58.85 after pretraining on HAM-PEDES 1 M (CUHK-PEDES / ICFG-PEDES / "
    "RSTPReid)."
)
PAPER_FINETUNED = (
    "The paper's Rank-1 on the real CUHK-PEDES: IRRA 73.38, HAM + IRRA 77.7; RDE 75.94, HAM + RDE 77.99."
)


def text_to_image(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Give the text-to-image rows by dataset."""
    return {row["dataset"]: row for row in rows if row["direction"] == "text-to-image"}


def mean_of(rows: Iterable[Mapping[str, Any]], metric: str = "R1") -> float:
    """Average a metric over the text-to-image rows."""
    values = [row[metric] for row in text_to_image(rows).values()]
    return sum(values) / len(values)


def curves_section(run: RunFolder) -> Section:
    """Draw the losses of all trainings."""
    charts = []
    tuned = [row for row in run.tuning_log if "loss" in row]
    if tuned:
        charts.append(
            line_chart(
                [Series("loss", [row["step"] for row in tuned], [row["loss"] for row in tuned], 3)],
                "Style prompts: loss of the next word",
                "step",
                "cross-entropy",
            )
        )
    charts.append(loss_chart(run.pretrain, "Pretraining: SDM loss"))
    charts += [
        loss_chart(run.finetunes[name], f"Finetuning with {method}: losses")
        for name, method in METHODS.items()
    ]
    final = next((row["train_loss"] for row in run.tuning_log if "train_loss" in row), None)
    here = (
        ""
        if tuned or final is None
        else (f"The style prompts' run was too short to log a curve; its mean loss was {final:.2f}. ")
    )
    epochs = [run.pretrain.config["epochs"], *(one.config["epochs"] for one in run.finetunes.values())]
    here += f"{plural(epochs[0], 'epoch')} of pretraining, {epochs[1]} of IRRA and {epochs[2]} of RDE."
    return Section(
        "Training",
        "Style prompts and projector are tuned for 2 epochs at a learning rate of 4e-4, CLIP is "
        "pretrained with SDM alone for 30 epochs, and IRRA and RDE then run for 60 epochs at half their "
        "learning rate.",
        here,
        f'<div class="grid two">{"".join(charts)}</div>',
    )


def loss_chart(training: Training, title: str) -> str:
    """Draw every loss that a training run logged."""
    names = [name for name in LOSSES if any(name in row for row in training.steps)]
    lines = []
    for colour, name in enumerate(names):
        rows = [row for row in training.steps if name in row]
        lines.append(Series(LOSSES[name], [row["step"] for row in rows], [row[name] for row in rows], colour))
    return line_chart(lines, title, "step", "loss", from_zero=True)


def rank_chart(lines: Mapping[str, tuple[float, Training]], title: str, dataset: str | None = None) -> str:
    """Draw Rank-1 on the test sets by epoch. lines: name -> (Rank-1 at the start, the run); the name is the dataset's, or
    all are of `dataset`."""
    drawn = []
    for place, (name, (begin, training)) in enumerate(lines.items()):
        rows = [
            row
            for row in training.evals
            if row["dataset"] == (dataset or name)
            and row["split"] == "test"
            and row["direction"] == "text-to-image"
        ]
        drawn.append(
            Series(
                name,
                [0, *(row["epoch"] for row in rows)],
                [begin, *(row["R1"] for row in rows)],
                COLOURS.get(name, place),
            )
        )
    return line_chart(drawn, title, "epoch", "Rank-1, %", from_zero=True)


def transfer_section(run: RunFolder) -> Section:
    """Tabulate direct transfer before and after pretraining."""
    start, end = text_to_image(run.start["results"]), text_to_image(run.transfer["results"])
    rows: list[list[Any]] = []
    strong = {}
    for name, row in end.items():
        rows.append(
            [f"{name}: {plural(row['queries'], 'query', 'queries')}, {plural(row['gallery'], 'image')}"]
        )
        if name in start:
            rows.append(["start", *(start[name][metric] for metric in METRICS)])
        strong[len(rows)] = "strong"
        rows.append(["pretrained", *(row[metric] for metric in METRICS)])
    before, after = mean_of(run.start["results"]), mean_of(run.transfer["results"])
    pairs = run.captions["captions_accepted"]
    chart = rank_chart(
        {name: (row["R1"], run.pretrain) for name, row in start.items()},
        "Rank-1 by epoch of pretraining; 0 is the start",
    )
    return Section(
        "Direct transfer",
        "A CLIP that is trained on the generated captions alone is measured on three benchmarks that it has "
        "never seen: every test caption is a query, every test image is in the gallery.",
        f"Pretraining on {plural(pairs, 'pair')}: the mean Rank-1 of the three {moved(before, after)}, the mean mAP "
        f"{moved(mean_of(run.start['results'], 'mAP'), mean_of(run.transfer['results'], 'mAP'))}.",
        f'<div class="pair">{table(["percent", *METRICS], rows, strong)}{chart}</div>' + note(PAPER_TRANSFER),
    )


def finetune_section(run: RunFolder) -> Section:
    """Tabulate finetuning: the last epoch, and the epoch that the val split chose."""
    dataset = run.finetunes["finetune_irra"].results()[0]["dataset"]
    begin = text_to_image(run.transfer["results"]).get(dataset)
    rows = [["not finetuned", *(begin[metric] for metric in METRICS)]] if begin else []
    ends = {}
    for name, training in run.finetunes.items():
        last = text_to_image(training.results())[dataset]
        ends[METHODS[name]] = last["R1"]
        rows.append([f"{METHODS[name]}, last epoch", *(last[metric] for metric in METRICS)])
        if training.chosen_step is not None:
            chosen = text_to_image(training.results(training.chosen_step))[dataset]
            rows.append([f"{METHODS[name]}, best on val", *(chosen[metric] for metric in METRICS)])
    chart = rank_chart(
        {METHODS[name]: (begin["R1"] if begin else float("nan"), one) for name, one in run.finetunes.items()},
        "Rank-1 by epoch of finetuning; 0 is the pretrained model",
        dataset,
    )
    said = ", ".join(f"{method} {value:.2f}" for method, value in ends.items())
    return Section(
        "Finetuning",
        "The pretrained weights are a better start for existing methods: IRRA and RDE are run as they are, at "
        "half their learning rate.",
        f"On {dataset}, Rank-1 after the last epoch: {said}"
        + (f"; without finetuning {begin['R1']:.2f}" if begin else "")
        + ". Nothing is chosen on the test split.",
        f'<div class="pair">{table(["percent", *METRICS], rows, {0: "pale"} if begin else None)}{chart}</div>'
        + note(PAPER_FINETUNED),
    )


def gallery_section(rows: Sequence[Mapping[str, Any]], dataset: str) -> Section:
    """Show queries with their best images. rows: as ham.reid.evaluate.pick_examples gives them."""
    first = sum(bool(row["hits"]) and row["hits"][0]["right"] is True for row in rows)
    some = sum(any(hit["right"] for hit in row["hits"]) for row in rows)
    return Section(
        "Queries and what was found",
        "Text-to-image retrieval ranks every gallery image by its similarity to the caption; "
        "Rank-1 asks only whether the first one shows the person described.",
        f"{plural(len(rows), 'caption')} of {dataset}'s test set, drawn at random, and what the pretrained model ranks first "
        f"in direct transfer: the person described is first for {first} and among the best ten for {some}. Small on the left: "
        "the image that the caption was written for.",
        "".join(query_figure(row) for row in rows)
        + '<p class="note"><span class="good">✓ green: the person described</span> · '
        '<span class="bad">✗ red: another person</span> '
        "· the number is the cosine similarity.</p>",
    )


def search_section(rows: Sequence[Mapping[str, Any]], images: int) -> Section:
    """Show the answer to a free query. rows: as ham.reid.search.search gives them."""
    return Section(
        "A search",
        "The task that all of it serves: a person is found by a sentence.",
        f"The IRRA model looks through {plural(images, 'image')} of the world's CUHK-PEDES. Nobody has judged the "
        "answers: look for yourself.",
        "".join(query_figure(row) for row in rows),
    )


def query_figure(row: Mapping[str, Any]) -> str:
    """Give one query with its hits in order, framed by whether they are right."""
    described = (
        picture(row["query_image"], "the image described", (92, 240)) if row.get("query_image") else ""
    )
    hits = []
    for place, hit in enumerate(row["hits"], start=1):
        verdict = {True: ", the person described", False: ", another person", None: ""}[hit["right"]]
        hits.append(
            f'<li class="{CLASSES[hit["right"]]}">{picture(hit["image"], f"rank {place}{verdict}", (160, 400))}'
            f"<span>{MARKS[hit['right']]} {signed(hit['score'])}</span></li>"
        )
    return (
        f'<figure class="query"><figcaption>{described}<span>{text(row["query"])}</span></figcaption>'
        f'<ol class="hits">{"".join(hits)}</ol></figure>'
    )


def signed(score: float) -> str:
    """Write a similarity with two decimals, a real minus sign, and no minus before zero."""
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")
