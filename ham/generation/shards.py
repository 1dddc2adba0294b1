"""Fixed, numbered shards of the image list: which process takes which, and how their rows are written.

00017.jsonl.partial   rows as they are made, with their tokens; a restart continues behind the last whole line
00017.jsonl           all rows, in the order of images and draws; appears by rename, and then the shard is done
00017.json            its receipt: counts, reasons, seconds
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham.generation.style_draws import Draw
from ham.records import (
    NO_STYLE,
    CaptionRow,
    FileLock,
    check_int,
    check_kind,
    from_dict,
    parse_json,
    read_jsonl,
    to_json_line,
    write_json,
    write_jsonl,
)
from ham.runtime import UsageError, WorkError

if TYPE_CHECKING:
    from ham.generation.plan import Plan

STATUSES = ("accepted", "rejected", "failed")


def shard_range(shard: int, shard_size: int, count: int) -> range:
    """Return the indices of a shard's images."""
    return range(shard * shard_size, min((shard + 1) * shard_size, count))


def shards_of(rank: int, world_size: int, num_shards: int, only: tuple[int, int] | None = None) -> range:
    """Return the shards that one rank takes: rank, rank + world_size, ...; of only[0] ... only[1] - 1 where given."""
    first, last = only or (0, num_shards)
    return range(first + rank, min(last, num_shards), world_size)


def parse_shards(text: str) -> tuple[int, int]:
    """Parse `--shards a:b`. Raises UsageError when it is no such range."""
    first, _, last = text.partition(":")
    if not (_is_number(first) and _is_number(last) and int(first) < int(last)):
        raise UsageError(
            f"--shards {text}: expected a:b with a < b, the first shard and the one after the last"
        )
    return int(first), int(last)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 12


def rows_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.jsonl"


def receipt_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.json"


def partial_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.jsonl.partial"


def is_done(folder: Path, shard: int) -> bool:
    return rows_file(folder, shard).exists()


def read_rows(file: Path) -> list[CaptionRow]:
    """Read a finished shard. Raises UsageError naming file and line where a row is damaged."""
    return [parse_row(row, f"{file}, line {number}") for number, row in enumerate(read_jsonl(file), start=1)]


def parse_row(value: dict[str, Any], where: str) -> CaptionRow:
    """Build a row from its JSON object. Raises UsageError naming what is wrong."""
    row = from_dict(CaptionRow, value, where)
    check_kind(row.image, str, f"{where}: image")
    check_kind(row.caption, str, f"{where}: caption")
    if row.style_id is not None:
        check_int(row.style_id, f"{where}: style_id", NO_STYLE, 2**31)
    check_int(row.attempt, f"{where}: attempt", 0, 2**31)
    if row.status not in STATUSES:
        raise UsageError(f"{where}: status {ascii(row.status)[:40]}; expected one of {', '.join(STATUSES)}")
    if row.reason is not None:
        check_kind(row.reason, str, f"{where}: reason")
    return row


def read_partial(file: Path) -> tuple[list[tuple[CaptionRow, int]], int]:
    """Read the whole lines of a shard in progress as rows with their tokens, and where they end in bytes.

    A killed writer may leave a torn line at the end.
    """
    if not file.exists():
        return [], 0
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
        where = f"{file}, line {number}"
        try:
            value = check_kind(parse_json(line.decode(), where), dict, where)
            tokens = check_int(value.get("tokens", 0), f"{where}: tokens", 0, 2**31)
            rows.append((parse_row(value, where), tokens))
        except (UnicodeDecodeError, UsageError) as error:
            raise UsageError(f"{error}; delete the file, its images are captioned again") from None
    return rows, end


class OpenShard:
    """A shard that this process is writing; it holds the shard's lock until `close`."""

    def __init__(self, plan: Plan, shard: int, lock: FileLock) -> None:
        self.plan, self.shard, self.lock = plan, shard, lock
        self.images = [plan.images[index] for index in shard_range(shard, plan.shard_size, len(plan.images))]
        self.started = time.monotonic()
        self._partial = partial_file(plan.folder, shard)
        rows, self._end = read_partial(self._partial)
        self.resumed_rows = len(rows)
        self.tokens = sum(tokens for _, tokens in rows)
        self._rows: dict[str, list[CaptionRow]] = {image: [] for image in self.images}
        for row, _ in rows:
            if row.image not in self._rows:
                raise UsageError(
                    f"{self._partial}: image {ascii(row.image)[:200]} is not in shard {shard}; delete the file"
                )
            self._rows[row.image].append(row)
        self.unfinished = {image for image in self.images if self.next_draws(image)}
        self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)

    def next_draws(self, image: str) -> list[Draw]:
        """Return the draws to make next for an image; none when it is done."""
        return self.plan.styles.replay(image, self._rows[image])[1]

    def add(self, rows: Iterable[tuple[CaptionRow, int]]) -> None:
        """Append rows with their tokens to the partial file. On an error the file ends with a whole line again."""
        rows = list(rows)
        data = "".join(to_json_line({**asdict(row), "tokens": tokens}) for row, tokens in rows).encode()
        try:
            _write_all(self._file, data)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            self.close()
            raise _disk_error(error, self._partial) from error
        self._end += len(data)
        self.tokens += sum(tokens for _, tokens in rows)
        for row, _ in rows:
            self._rows[row.image].append(row)
        self.unfinished -= {row.image for row, _ in rows if not self.next_draws(row.image)}

    def finish(self) -> dict[str, int]:
        """Write the shard's receipt and rows whole, remove the partial file, release the lock. Returns the counts."""
        folder = self.plan.folder
        ordered = [
            row for image in self.images for row in self.plan.styles.replay(image, self._rows[image])[0]
        ]
        counts = count_rows(ordered)
        try:
            write_json(
                receipt_file(folder, self.shard),
                {
                    "shard": self.shard,
                    "images": len(self.images),
                    **counts,
                    "reasons": count_reasons(ordered),
                    "tokens": self.tokens,
                    "resumed_rows": self.resumed_rows,
                    "seconds": round(time.monotonic() - self.started, 3),
                },
            )
            write_jsonl(rows_file(folder, self.shard), ordered)
        except OSError as error:
            self.close()
            raise _disk_error(error, rows_file(folder, self.shard)) from error
        self._partial.unlink(missing_ok=True)
        self.close(done=True)
        return counts

    def close(self, done: bool = False) -> None:
        """Close the file and release the lock; an empty partial file is removed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if self._end == 0:
                self._partial.unlink(missing_ok=True)
            self.lock.release(remove=done)


def claim(plan: Plan, shard: int, locks: bool = True) -> OpenShard | None:
    """Open a shard for writing; None when it is done or another process is writing it."""
    if is_done(plan.folder, shard):
        partial_file(plan.folder, shard).unlink(missing_ok=True)  # its writer died between rename and removal
        return None
    lock = FileLock(plan.folder / "locks" / f"{shard:05d}.lock", locks)
    if not lock.try_acquire():
        return None
    if is_done(plan.folder, shard):
        lock.release(remove=True)
        return None
    try:
        return OpenShard(plan, shard, lock)
    except BaseException:
        lock.release()
        raise


def count_rows(rows: Iterable[CaptionRow]) -> dict[str, int]:
    """Count rows by status."""
    counts = Counter(row.status for row in rows)
    return {status: counts[status] for status in STATUSES}


def count_reasons(rows: Iterable[CaptionRow]) -> dict[str, int]:
    """Count why rows were rejected or failed; of a failure's text only the part before the colon."""
    return dict(sorted(Counter(row.reason.split(":")[0] for row in rows if row.reason).items()))


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _disk_error(error: OSError, file: Path) -> WorkError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return WorkError(
            f"no space left for {file} ({error.strerror}); all files there are whole: free some space, then repeat the "
            "command to continue"
        )
    return WorkError(f"cannot write {file}: {error.strerror or error}")
