"""Write the page that shows what the styles are: map of the feature space, cluster sizes, coverage, typical captions.

One HTML file with its pictures inside. It draws a `View` and does not depend on how styles are made.
"""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ham.records import atomic_write
from ham.report.page import data_uri, html_page

INK, CLOUD, MARGIN = "#222222", "#b8bec6", 0.06
COLORS = {"kmeans": "#1f6fb4", "ups": "#d9601a", "dbscan": "#2e8b57"}
NAMES = {"kmeans": "KMeans", "ups": "UPS", "dbscan": "DBSCAN"}


class View(Protocol):
    """Data of the page; see ham.style.analysis.StylesView."""

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
    """Return the page's HTML."""
    facts, counts = view.facts, view.facts["counts"]
    recipe = (
        f"{facts['neutralizer']['method']} neutralizer, {facts['encoder']['encoder']} features, K1 = {facts['K1']}, "
        f"K2 = {facts['K2']}, beta = {facts['beta']:g}, Q = {facts['Q']}, {facts['clusters']['distance']} distance"
        f"{', standardized' if facts['clusters'].get('standardize') else ''}, seed {facts['seed']}"
    )
    outside = "; ".join(
        f"{count} of {len(view.centres[name])} {NAMES[name]} centers lie outside the range of the captions"
        for name, count in view.outside.items()
    )
    body = f"""<header><h1>{counts["styles"]} styles of {counts["captions"]:,} captions</h1>
<p>{html.escape(recipe)}. {counts["records"]:,} instruction records.</p></header><main>
<section><h2>Map</h2>
{picture(draw_map(view), "captions and cluster centers on the plane of the first two principal components")}
<p class="note">The plane shows {view.explained_pct:.0f} % of the variance. {html.escape(outside)}.</p></section>
<section><h2>Cluster sizes, and clusters per caption</h2>
{picture(draw_sizes(view), "cluster sizes and clusters per caption")}
{coverage_table(view)}</section>
<section><h2>Typical captions</h2>
<p class="note">The captions nearest to the center. A style is good when its captions share the style, not the person.</p>
{"".join(style_block(*example) for example in view.examples)}</section></main><footer></footer>"""
    return html_page("Styles", body)


def coverage_table(view: View) -> str:
    """Return the table of how many captions each scheme covers, and how often."""
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
        '<div class="wide"><table>'
        "<tr><th>scheme</th><th class=n>clusters</th><th class=n>size: smallest / median / largest</th>"
        "<th class=n>captions covered</th><th class=n>clusters per caption</th><th class=n>largest number</th></tr>"
        + "".join(rows)
        + "</table></div>"
    )


def style_block(scheme: str, style_id: int, size: int, captions: list[str]) -> str:
    """Return one style's typical captions."""
    lines = "".join(f"<p>{html.escape(caption)}</p>" for caption in captions)
    return (
        f'<div class="style" style="border-color:{COLORS[scheme]}"><p><b>Style {style_id}</b> '
        f'<span class="note">{NAMES[scheme]}, {size} captions</span></p>{lines}</div>'
    )


# --------------------------------------------------------------------------------------------------------------- pictures


def draw_map(view: View) -> bytes:
    """Draw captions and centres twice: around the captions, and range of all centers. Returns a PNG."""
    figure, (near, far) = new_figure(1, 2, (11, 4.8))
    for axes, title in ((near, "range of the captions"), (far, "range of all centers")):
        axes.scatter(*view.points.T, s=4, c=CLOUD, linewidths=0, rasterized=True, label="captions")
        for name, centres in view.centres.items():
            axes.scatter(
                *centres.T,
                s=16,
                c=COLORS[name],
                marker={"ups": "^"}.get(name, "o"),
                alpha=0.75,
                linewidths=0,
                label=f"{NAMES[name]} centers",
            )
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("first principal component")
    near.set_ylabel("second principal component")
    low, high = view.points.min(0), view.points.max(0)
    margin = MARGIN * np.maximum(high - low, 1e-6)
    near.set_xlim(low[0] - margin[0], high[0] + margin[0])
    near.set_ylim(low[1] - margin[1], high[1] + margin[1])
    far.legend(loc="best", fontsize=9, framealpha=0.9)
    return png_of(figure)


def draw_sizes(view: View) -> bytes:
    """Draw the sorted cluster sizes, and how many captions are in 0, 1, 2, ... clusters. Returns a PNG."""
    figure, (left, right) = new_figure(1, 2, (11, 3.6))
    for name, sizes in view.sizes.items():
        left.plot(
            np.arange(1, len(sizes) + 1), np.sort(sizes)[::-1], color=COLORS[name], drawstyle="steps-mid"
        )
    left.set_xlabel("clusters by size")
    left.set_ylabel("captions per cluster")
    left.set_ylim(bottom=0)
    most = max(int(np.percentile(times, 99.5)) for times in view.times_covered.values()) + 1
    width = 0.8 / len(view.times_covered)
    for position, (name, times) in enumerate(view.times_covered.items()):
        bars = np.bincount(np.minimum(times, most), minlength=most + 1) / len(times) * 100
        right.bar(
            np.arange(most + 1) + (position - (len(view.times_covered) - 1) / 2) * width,
            bars,
            width,
            color=COLORS[name],
            label=NAMES[name],
        )
    right.set_xlabel("clusters per caption")
    right.set_ylabel("captions, %")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize=9)
    return png_of(figure)


def new_figure(rows: int, columns: int, size: tuple[float, float]):
    """Create a figure without a window, and its axes, in the common look."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK, labelsize=9)
    return figure, axes


def png_of(figure) -> bytes:
    """Return a figure as a PNG of 110 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def picture(png: bytes, description: str) -> str:
    """Return an image element with the picture inside."""
    return f'<div class="chart whole"><img alt="{html.escape(description)}" src="{data_uri(png)}"></div>'
