"""One HTML page that a person can judge a job by: images drawn at random, with their captions and styles."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from ham.generation.plan import Plan
from ham.generation.shards import is_done, read_rows, rows_file
from ham.llava.preprocess import ImageError, open_image
from ham.records import CaptionRow, atomic_write, path_below
from ham.runtime import UsageError, numpy_generator

STYLE = """body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 60em; color: #222; background: #fafafa; }
article { display: flex; gap: 1.2em; padding: 1em 0; border-top: 1px solid #ddd; }
img, .none { width: 96px; align-self: flex-start; } .none { color: #a00; }
p { margin: 0 0 .5em; } small { color: #777; } .rejected { color: #a60; } code { font-size: 12px; color: #777; }"""


def write_samples(plan: Plan, image_root: Path, count: int = 40, height_px: int = 256) -> Path:
    """Write samples.html: `count` images of the finished shards, drawn by the job's seed. Self-contained.

    Images are thumbnails in base64; one that cannot be read is shown as its reason. Returns the page's path.
    """
    done = [shard for shard in range(plan.num_shards) if is_done(plan.folder, shard)]
    order = numpy_generator(plan.settings["seed"], "samples").permutation(len(plan.images))
    finished = set(done)
    chosen = [index for index in order.tolist() if index // plan.shard_size in finished][:count]
    rows = _rows_of(plan, sorted(chosen))
    body = "\n".join(
        _article(image, rows[image], image_root, height_px)
        for image in (plan.images[index] for index in chosen)
    )
    title = html.escape(f"{len(chosen)} of {len(plan.images)} images, drawn at random")
    page = plan.folder / "samples.html"
    with atomic_write(page) as file:
        file.write(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
            f"<p><small>{html.escape(_about(plan))}</small></p>\n{body}\n</body></html>\n"
        )
    return page


def _rows_of(plan: Plan, indices: list[int]) -> dict[str, list[CaptionRow]]:
    images: dict[str, list[CaptionRow]] = {plan.images[index]: [] for index in indices}
    for shard in sorted({index // plan.shard_size for index in indices}):
        for row in read_rows(rows_file(plan.folder, shard)):
            if row.image in images:
                images[row.image].append(row)
    return images


def _about(plan: Plan) -> str:
    names = ("model_path", "prompt", "template", "seed", "temperature", "vision_tower")
    known = {**plan.info, **plan.settings}
    return " · ".join(f"{name}: {known[name]}" for name in names if known.get(name) is not None)


def _article(image: str, rows: list[CaptionRow], image_root: Path, height_px: int) -> str:
    lines = []
    for row in rows:
        if row.status == "failed":
            lines.append(f'<p class="rejected">failed: {html.escape(row.reason or "")}</p>')
            continue
        note = f"style {row.style_id}" + (f", attempt {row.attempt}" if row.attempt else "")
        note += f", rejected: {row.reason}" if row.reason else ""
        kind = ' class="rejected"' if row.status == "rejected" else ""
        lines.append(f"<p{kind}>{html.escape(row.caption)}<br><small>{html.escape(note)}</small></p>")
    text = "".join(lines) + f"<code>{html.escape(image)}</code>"
    return f"<article>{_thumbnail(image, image_root, height_px)}<div>{text}</div></article>"


def _thumbnail(image: str, image_root: Path, height_px: int) -> str:
    try:
        picture = open_image(path_below(image_root, image))
    except (ImageError, UsageError):
        return '<div class="none">no image</div>'
    picture.thumbnail((height_px, height_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
