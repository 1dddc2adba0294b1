"""Cache of neutral texts: JSON lines that grow batch by batch, so that no caption is rewritten twice, also after a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ham.records import to_json_line
from ham.runtime import UsageError, log, progress
from ham.style.neutral import Neutralizer, NeutralText


def neutralize_cached(
    captions: Sequence[str], neutralizer: Neutralizer, cache: Path, batch_size: int = 256
) -> list[NeutralText]:
    """Neutralize captions, each distinct one once; texts that `cache` (JSON lines) already has are taken from it.

    Returns one NeutralText per caption, in order. A cut last line, left by a killed run, is computed again.
    """
    known = read_cache(cache)
    wanted = [caption for caption in dict.fromkeys(captions) if caption not in known]
    if wanted:
        log.info("neutral text: %d captions to do, %d known", len(wanted), len(known))
        cache.parent.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(wanted), batch_size)
        for start in progress(starts, what="neutral text", unit=f"x{batch_size} captions"):
            rows = neutralizer(wanted[start : start + batch_size])
            append(cache, rows)
            known.update((row.caption, row) for row in rows)
    return [known[caption] for caption in captions]


def append(cache: Path, rows: Sequence[NeutralText]) -> None:
    """Append rows to the cache. An OSError, such as a full disk, names the file."""
    try:
        with cache.open("a", encoding="utf-8") as file:
            file.writelines(to_json_line(row) for row in rows)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(cache)) from None


def read_cache(cache: Path) -> dict[str, NeutralText]:
    """Read the cache of an earlier run, dropping a cut last line from the file. Raises UsageError on other damage."""
    if not cache.exists():
        return {}
    *lines, cut = cache.read_bytes().split(b"\n")  # not splitlines: captions may hold other line separators
    if cut:
        with cache.open("r+b") as file:
            file.truncate(file.seek(0, 2) - len(cut))
    try:
        rows = [NeutralText(**json.loads(line)) for line in lines]
        if not all(isinstance(text, str) for row in rows for text in (row.caption, row.neutral)):
            raise TypeError("a text is not a string")
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{cache}: damaged cache of neutral texts: {error}; delete the file to compute them again"
        ) from None
    return {row.caption: row for row in rows}
