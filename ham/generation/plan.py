"""What a captioning job is: its frozen image list and every setting that its captions depend on, written once as plan.json.

The same command again is a resume; a setting that would change captions half-way is refused by name.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.datasets import PackedStrings
from ham.generation.style_draws import StylePlan
from ham.records import FileLock, read_json, write_json
from ham.runtime import UsageError, WorkError, git_revision, log

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
IMAGE_KEYS = ("image_path", "file_path", "img_path", "image")
PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """A job on disk. settings: what captions depend on, by option name. info: where it came from, for people."""

    folder: Path
    images: PackedStrings
    shard_size: int
    settings: dict[str, Any]
    info: dict[str, Any]

    @property
    def num_shards(self) -> int:
        return -(-len(self.images) // self.shard_size)

    @property
    def styles(self) -> StylePlan:
        return StylePlan(
            tuple(self.settings["style_pool"]),
            self.settings["styles"] == "random",
            self.settings["captions_per_image"],
            self.settings["max_redraws"],
            self.settings["seed"],
        )


# -------------------------------------------------------------------------------------------------------- the image list


def list_images(image_root: Path, images: Path | None = None, limit: int | None = None) -> Iterator[str]:
    """Yield the job's image paths, relative to the root, each once, in order.

    images: a .txt file (one path a line), a JSON list of paths, a JSON list of records (CUHK-PEDES, ICFG-PEDES, RSTPReid,
    SYNTH-PEDES, LLaVA) or a JSON object whose keys are paths; None takes every image file below the root, sorted.
    Raises UsageError when there is nothing, or nothing readable, to list.
    """
    if not Path(image_root).is_dir():
        raise UsageError(f"--image-root {image_root}: no such folder")
    count = 0
    for path in _walk(Path(image_root)) if images is None else _first_seen(_read_list(Path(images))):
        if limit is not None and count >= limit:
            break
        count += 1
        yield path
    if not count:
        raise UsageError(f"{images or image_root}: no images to caption")


def _first_seen(paths: Iterable[str]) -> Iterator[str]:
    seen = set()
    for path in paths:
        if path not in seen:
            seen.add(path)
            yield path


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path per file costs seconds
                path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")  # noqa: PTH118
                if not path.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in path):
                    raise UsageError(
                        f"{path!r} below {root}: the name is not UTF-8; rename it, or give a list with --images"
                    )
                yield path


def _read_list(file: Path) -> Iterator[str]:
    if file.suffix == ".txt":
        try:
            with file.open(encoding="utf-8") as lines:
                yield from (line.rstrip("\r\n") for line in lines if line.strip())
        except FileNotFoundError:
            raise UsageError(f"--images {file}: no such file") from None
        return
    rows = read_json(file)
    if not isinstance(rows, list | dict):
        raise UsageError(
            f"--images {file}: expected a list of paths or records, or an object keyed by path; "
            f"found {type(rows).__name__}"
        )
    for index, row in enumerate(rows):
        if isinstance(row, dict):
            row = next((row[key] for key in IMAGE_KEYS if key in row), None)
        if not isinstance(row, str):
            raise UsageError(
                f"--images {file}, record {index}: no image path; expected a string, or a record with one of "
                f"the keys {', '.join(IMAGE_KEYS)}"
            )
        yield row.replace("\\", "/")


# --------------------------------------------------------------------------------------------------------------- the plan


def default_shard_size(count: int) -> int:
    """Choose images per shard: about 256 shards, of 16 to 1000 images; it never looks at the number of processes."""
    return max(16, min(1000, -(-count // 256)))


def settle_plan(
    folder: Path,
    images: Callable[[], Iterable[str]],
    settings: dict[str, Any],
    info: dict[str, Any],
    shard_size: int | None = None,
    locks: bool = True,
) -> Plan:
    """Write the job's plan, or check that the one in `folder` is the same job. One process at a time.

    Raises UsageError naming each setting that differs from the plan's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "plan.lock", locks):
        if not (folder / "plan.json").exists():
            _write_plan(folder, images(), settings, info, shard_size)
            return load_plan(folder)
        plan = load_plan(folder)
        check_settings(plan, settings, shard_size)
        _check_images(plan, images())
        return plan


def wait_for_plan(
    folder: Path, settings: dict[str, Any], shard_size: int | None = None, timeout_s: float = 1800.0
) -> Plan:
    """Wait until rank 0 has written the plan, and check the settings against it."""
    deadline = time.monotonic() + timeout_s
    while not (folder / "plan.json").exists():
        if time.monotonic() > deadline:
            raise WorkError(
                f"{folder}/plan.json: rank 0 wrote none within {timeout_s:.0f} s; do all nodes see this folder?"
            )
        time.sleep(0.2)
    plan = load_plan(folder)
    check_settings(plan, settings, shard_size)
    return plan


def load_plan(folder: Path) -> Plan:
    """Read the plan of an output folder. Raises UsageError when there is none or it is damaged."""
    file = Path(folder) / "plan.json"
    value = read_json(file)
    try:
        if value["version"] != PLAN_VERSION:
            raise UsageError(
                f"{file}: version {value['version']}, this code reads {PLAN_VERSION}; use a new --out"
            )
        counted, shard_size, settings, info = (
            value[key] for key in ("images", "shard_size", "settings", "info")
        )
        images = PackedStrings(Path(folder) / "images.packed")
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a captioning plan ({error!r})") from None
    except FileNotFoundError:
        raise UsageError(
            f"{folder}/images.packed is missing, which plan.json needs; use a new --out"
        ) from None
    if len(images) != counted:
        raise UsageError(
            f"{folder}: plan.json counts {counted} images, images.packed holds {len(images)}; use a new --out"
        )
    return Plan(Path(folder), images, shard_size, settings, info)


def _write_plan(
    folder: Path,
    images: Iterable[str],
    settings: dict[str, Any],
    info: dict[str, Any],
    shard_size: int | None,
) -> None:
    if any(folder.glob("[0-9]*.jsonl")):
        raise UsageError(f"{folder}: holds caption shards but no plan.json; use a new --out")
    packed = PackedStrings.write(folder / "images.packed", images)
    shard_size = shard_size or default_shard_size(len(packed))
    write_json(
        folder / "plan.json",
        {
            "version": PLAN_VERSION,
            "images": len(packed),
            "image_list": _digest(packed),
            "shard_size": shard_size,
            "shards": -(-len(packed) // shard_size),
            "settings": settings,
            "info": {**info, "git_revision": git_revision()},
        },
    )
    log.info(
        "%d images in %d shards of %d: %s", len(packed), -(-len(packed) // shard_size), shard_size, folder
    )


def check_settings(plan: Plan, settings: dict[str, Any], shard_size: int | None = None) -> None:
    """Refuse to go on with a job under other settings. Raises UsageError naming each."""
    changed = [
        f"{name} was {plan.settings.get(name)!r:.200}, now {settings.get(name)!r:.200}"
        for name in {**plan.settings, **settings}
        if plan.settings.get(name) != settings.get(name)
    ]
    if shard_size is not None and shard_size != plan.shard_size:
        changed.append(f"shard_size was {plan.shard_size}, now {shard_size}")
    if changed:
        raise UsageError(
            f"{plan.folder} holds a job with other settings: {'; '.join(changed)}. "
            "Use the same values, or a new --out"
        )


def _check_images(plan: Plan, images: Iterable[str]) -> None:
    digest, count = hashlib.sha256(), 0
    for path in images:
        _add_path(digest, path)
        count += 1
    recorded = read_json(plan.folder / "plan.json")["image_list"]
    if digest.hexdigest() != recorded:
        then = len(plan.images)
        what = (
            f"{then} images then, {count} now"
            if count != then
            else f"{count} images, but other paths or another order"
        )
        raise UsageError(
            f"{plan.folder} holds a job with another image list (--images, --image-root, --limit): {what}. "
            "Use the same list, or a new --out"
        )


def _digest(images: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in images:
        _add_path(digest, path)
    return digest.hexdigest()


def _add_path(digest: Any, path: str) -> None:
    digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
