"""Line charts of the report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ham.report.style_map import new_figure, png_of
from scripts.demo_report.folder import METHODS, Row, RunFolder, Training

LOSSES = {"sdm_loss": "SDM", "id_loss": "ID", "mlm_loss": "MLM", "bge_loss": "BGE", "tse_loss": "TSE"}
Line = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, from_zero: bool = True) -> bytes:
    """Draw lines over one pair of axes. A line of over 40 points is drawn pale, with its moving average on top."""
    figure, axes = new_figure(1, 1, (5.2, 3.2))
    for number, (name, xs, ys) in enumerate(lines):
        color = f"C{number}"
        if len(xs) > 40:
            axes.plot(xs, ys, color=color, alpha=0.25, linewidth=0.8)
            ys = moving_average(ys)
        axes.plot(xs, ys, color=color, label=name, marker="o" if len(xs) <= 14 else None, markersize=3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend(fontsize=9, frameon=False)
    return png_of(figure)


def moving_average(values: Sequence[float]) -> np.ndarray:
    """Average each value with its neighbors within a fifth of the length; shorter windows at the ends.

    Losses of batches that are grouped by caption length rise and fall with the length; the window holds several such periods.
    """
    values = np.asarray(values, float)
    half = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def loss_charts(run: RunFolder) -> dict[str, bytes]:
    """Draw the losses of all trainings: title -> PNG."""
    charts = {}
    tuned = [row for row in run.tuning_log if "loss" in row]
    if tuned:
        line = ("loss", [row["step"] for row in tuned], [row["loss"] for row in tuned])
        charts["Style prompts: cross-entropy of the next token"] = line_chart(
            [line], "step", "loss", from_zero=False
        )
    for name, training in run.trainings.items():
        title = f"Fine-tuning: {METHODS[name]}" if name in METHODS else "Pretraining"
        charts[title] = line_chart(loss_lines(training), "step", "loss")
    return charts


def loss_lines(training: Training) -> list[Line]:
    """Return one line per loss that a training run logged."""
    lines = []
    for key, name in LOSSES.items():
        rows = [row for row in training.steps if key in row]
        if rows:
            lines.append((name, [row["step"] for row in rows], [row[key] for row in rows]))
    return lines


def rank_chart(lines: Mapping[str, tuple[Row | None, Training]]) -> bytes:
    """Draw Rank-1 on the test sets by epoch. lines: name -> (row before training, the training)."""
    drawn = []
    for name, (start, training) in lines.items():
        dataset = start["dataset"] if start else name
        rows = [row for row in training.evals if row["split"] == "test" and row["dataset"] == dataset]
        rows = [row for row in rows if row["direction"] == "text-to-image"]
        epochs = [0] * (start is not None) + [row["epoch"] for row in rows]
        values = [start["R1"]] * (start is not None) + [row["R1"] for row in rows]
        drawn.append((name, epochs, values))
    return line_chart(drawn, "epoch", "Rank-1, %")
