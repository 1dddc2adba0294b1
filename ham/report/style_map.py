"""The page that shows what the styles are: map of the feature space, cluster sizes, coverage, typical captions.

One HTML file with its pictures inside. Knows nothing of how styles are made: it draws a `View`.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ham.records import atomic_write

INK, CLOUD, ROOM = "#222222", "#b8bec6", 0.06
COLOURS = {"kmeans": "#1f6fb4", "ups": "#d9601a", "dbscan": "#2e8b57"}
NAMES = {"kmeans": "KMeans", "ups": "UPS", "dbscan": "DBSCAN"}
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; } img { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .25em .9em .25em 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; } .style { border-left: 4px solid #ccc; padding-left: .9em; margin: 1.2em 0; }
.style p { margin: .25em 0; } .note { color: #666; }
"""


class View(Protocol):
    """What is drawn; see ham.style.analysis.StylesView."""

    facts: dict[str, Any]
    points: NDArray[np.float32]
    centres: dict[str, NDArray[np.float32]]
    outside: dict[str, int]
    sizes: dict[str, NDArray[np.int64]]
    times_covered: dict[str, NDArray[np.int64]]
    examples: list[tuple[str, int, int, list[str]]]
    explained_pct: float


def write_page(path: Path, view: View) -> None:
    """Write the page of one styles/ folder."""
    with atomic_write(path) as file:
        file.write(page_of(view))


def page_of(view: View) -> str:
    """Give the page's HTML."""
    facts, counts = view.facts, view.facts["counts"]
    recipe = (
        f"{facts['neutraliser']['method']} neutraliser, {facts['encoder']['encoder']} features, K1 = {facts['K1']}, "
        f"K2 = {facts['K2']}, beta = {facts['beta']:g}, Q = {facts['Q']}, {facts['clusters']['distance']} distance"
        f"{', standardized' if facts['clusters']['standardize'] else ''}, seed {facts['seed']}"
    )
    outside = "; ".join(
        f"{count} of {len(view.centres[name])} {NAMES[name]} centres lie beyond every caption on it"
        for name, count in view.outside.items()
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Styles</title><style>{CSS}</style></head><body>
<h1>{counts["styles"]} styles of {counts["captions"]:,} captions</h1>
<p>{html.escape(recipe)}. {counts["records"]:,} instruction records.</p>
<h2>Where they lie</h2>
{picture(draw_map(view), "captions and cluster centres on the plane of the two first principal components")}
<p class="note">The plane shows {view.explained_pct:.0f} % of the variance. {html.escape(outside)}.</p>
<h2>How large they are, and how often a caption is in one</h2>
{picture(draw_sizes(view), "cluster sizes and clusters per caption")}
{coverage_table(view)}
<h2>How they read</h2>
<p class="note">The captions nearest to the centre. A style is good when its captions share a manner, not a person.</p>
{"".join(style_block(*example) for example in view.examples)}
</body></html>
"""


def coverage_table(view: View) -> str:
    """Give the table of how many captions each scheme covers, and how often."""
    rows = []
    for name, times in view.times_covered.items():
        sizes = view.sizes[name]
        cells = [
            f"{len(sizes)}",
            f"{sizes.min()} / {np.median(sizes):g} / {sizes.max()}",
            f"{100 * (times > 0).mean():.1f} %",
            f"{times.mean():.2f}",
            f"{times.max()}",
        ]
        rows.append(
            f"<tr><td>{NAMES[name]}</td>" + "".join(f"<td class=n>{cell}</td>" for cell in cells) + "</tr>"
        )
    return (
        "<table><tr><th>scheme</th><th class=n>clusters</th><th class=n>size: least / median / most</th>"
        "<th class=n>captions covered</th><th class=n>clusters per caption</th><th class=n>most</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def style_block(scheme: str, style_id: int, size: int, captions: list[str]) -> str:
    """Give one style's typical captions."""
    lines = "".join(f"<p>{html.escape(caption)}</p>" for caption in captions)
    return (
        f'<div class="style" style="border-color:{COLOURS[scheme]}"><p><b>Style {style_id}</b> '
        f'<span class="note">{NAMES[scheme]}, {size} captions</span></p>{lines}</div>'
    )


# --------------------------------------------------------------------------------------------------------------- pictures


def draw_map(view: View) -> bytes:
    """Draw captions and centres twice: around the captions, and as far as the centres reach. Returns a PNG."""
    figure, (near, far) = new_figure(1, 2, (11, 4.8))
    for axes, title in ((near, "around the captions"), (far, "as far as the centres reach")):
        axes.scatter(*view.points.T, s=4, c=CLOUD, linewidths=0, rasterized=True, label="captions")
        for name, centres in view.centres.items():
            axes.scatter(
                *centres.T,
                s=16,
                c=COLOURS[name],
                marker={"ups": "^"}.get(name, "o"),
                alpha=0.75,
                linewidths=0,
                label=f"{NAMES[name]} centres",
            )
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("first principal component")
    near.set_ylabel("second principal component")
    low, high = view.points.min(0), view.points.max(0)
    room = ROOM * np.maximum(high - low, 1e-6)
    near.set_xlim(low[0] - room[0], high[0] + room[0])
    near.set_ylim(low[1] - room[1], high[1] + room[1])
    far.legend(loc="best", fontsize=9, framealpha=0.9)
    return png_of(figure)


def draw_sizes(view: View) -> bytes:
    """Draw the sorted cluster sizes, and how many captions are in 0, 1, 2, ... clusters. Returns a PNG."""
    figure, (left, right) = new_figure(1, 2, (11, 3.6))
    for name, sizes in view.sizes.items():
        left.plot(
            np.arange(1, len(sizes) + 1), np.sort(sizes)[::-1], color=COLOURS[name], drawstyle="steps-mid"
        )
    left.set_xlabel("clusters, the largest first")
    left.set_ylabel("captions in the cluster")
    left.set_ylim(bottom=0)
    most = max(int(np.percentile(times, 99.5)) for times in view.times_covered.values()) + 1
    width = 0.8 / len(view.times_covered)
    for place, (name, times) in enumerate(view.times_covered.items()):
        bars = np.bincount(np.minimum(times, most), minlength=most + 1) / len(times) * 100
        right.bar(
            np.arange(most + 1) + (place - (len(view.times_covered) - 1) / 2) * width,
            bars,
            width,
            color=COLOURS[name],
            label=NAMES[name],
        )
    right.set_xlabel("clusters that a caption is in")
    right.set_ylabel("captions, %")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize=9)
    return png_of(figure)


def new_figure(rows: int, columns: int, size: tuple[float, float]):
    """Make a figure without a window, and its axes, drawn alike."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, axes


def png_of(figure) -> bytes:
    """Give a figure as a PNG of 110 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def picture(png: bytes, description: str) -> str:
    """Give an image element with the picture inside."""
    return (
        f'<img alt="{html.escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
