"""Open finished shards again for the images that lack captions, keeping every other row as it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ham.generation.plan import Plan
from ham.generation.shards import (
    is_done,
    partial_file,
    read_partial,
    read_rows,
    receipt_file,
    rows_file,
)
from ham.generation.status import read_receipt
from ham.locks import FileLock
from ham.records import CaptionRow, atomic_write, to_json_line
from ham.runtime import WorkError, log


def reopen_shards(plan: Plan, locks: bool = True) -> int:
    """Remove the failed and rejected rows of all images that lack captions; their shards are then in progress again.

    A shard's kept rows become its partial file before its finished file goes, so that a killed process loses none.
    Returns the number of images to caption again.
    """
    images = 0
    for shard in range(plan.num_shards):
        with FileLock(plan.folder / "locks" / f"{shard:05d}.lock", locks):
            if is_done(plan.folder, shard):
                images += _reopen_finished(plan, shard)
            else:
                images += _strip_partial(plan, shard)
    log.info("%d images lack captions and are captioned again", images)
    return images


def kept_rows(rows: list[CaptionRow], captions_per_image: int) -> list[CaptionRow]:
    """Return the rows of one image that stay: all when it has its captions, else the accepted ones."""
    accepted = [row for row in rows if row.status == "accepted"]
    return rows if len(accepted) >= captions_per_image else accepted


def _reopen_finished(plan: Plan, shard: int) -> int:
    file = rows_file(plan.folder, shard)
    rows = read_rows(file)
    kept, images = _keep(plan, rows)
    if not images:
        return 0
    tokens = read_receipt(receipt_file(plan.folder, shard))["tokens"]
    _write_partial(plan, shard, [(row, tokens if index == 0 else 0) for index, row in enumerate(kept)])
    try:
        file.unlink()
    except OSError as error:
        raise WorkError(f"{file}: cannot be removed: {error.strerror}") from None
    return images


def _strip_partial(plan: Plan, shard: int) -> int:
    """Remove the rows of finished images without captions from a shard in progress."""
    rows = read_partial(partial_file(plan.folder, shard))[0]
    tokens = {(row.image, row.style_id, row.attempt): count for row, count in rows}
    images, kept = 0, []
    for image, own in _by_image([row for row, _ in rows]):
        is_finished = not plan.styles.replay(image, own)[1]
        stay = kept_rows(own, plan.settings["captions_per_image"]) if is_finished else own
        images += len(stay) < len(own)
        kept += stay
    if images:
        _write_partial(plan, shard, [(row, tokens[row.image, row.style_id, row.attempt]) for row in kept])
    return images


def _keep(plan: Plan, rows: list[CaptionRow]) -> tuple[list[CaptionRow], int]:
    images, kept = 0, []
    for _, own in _by_image(rows):
        stay = kept_rows(own, plan.settings["captions_per_image"])
        images += len(stay) < len(own)
        kept += stay
    return kept, images


def _by_image(rows: list[CaptionRow]) -> Iterator[tuple[str, list[CaptionRow]]]:
    ordered = sorted(rows, key=lambda row: row.image)  # stable: the rows of an image keep their order
    for image, own in groupby(ordered, key=lambda row: row.image):
        yield image, list(own)


def _write_partial(plan: Plan, shard: int, rows: list[tuple[CaptionRow, int]]) -> None:
    with atomic_write(partial_file(plan.folder, shard)) as file:
        for row, tokens in rows:
            file.write(to_json_line({**row.__dict__, "tokens": tokens}))
