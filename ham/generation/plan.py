"""What a captioning job is: its fixed image list and every setting that its captions depend on, written once as plan.json.

The same command again continues the job; a setting that would change captions half-way is refused by name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.datasets import PackedStrings
from ham.generation.style_draws import StylePlan
from ham.locks import FileLock
from ham.records import NO_STYLE, check_int, check_kind, read_json, write_json
from ham.runtime import UsageError, WorkError, git_revision, log

PLAN_VERSION = 1
BEFORE = {
    "engine": "native",
    "weights": "full",
}  # settings that jobs of the first version lack, with what they had
NOT_COMPARED = {"repeat_styles"}  # follows from the others; a job keeps what it was begun with
ENGINE_SETTINGS = ("engine", "model", "dtype", "weights")  # may change with --mix-engines


@dataclass(frozen=True)
class Plan:
    """A job on disk. settings: what captions depend on, by option name. info: where it came from, for people and `retry`."""

    folder: Path
    images: PackedStrings
    shard_size: int
    settings: dict[str, Any]
    info: dict[str, Any]

    @property
    def num_shards(self) -> int:
        return -(-len(self.images) // self.shard_size)

    @property
    def image_root(self) -> Path:
        return Path(self.settings.get("image_root") or self.info.get("image_root") or ".")

    @property
    def styles(self) -> StylePlan:
        return StylePlan(
            tuple(self.settings["style_pool"]),
            self.settings["styles"] == "random",
            self.settings["captions_per_image"],
            self.settings["max_redraws"],
            self.settings["seed"],
            self.settings.get("repeat_styles", True),
        )


def default_shard_size(count: int) -> int:
    """Choose images per shard: about 256 shards, of 16 to 1000 images; it never looks at the number of processes."""
    return max(16, min(1000, -(-count // 256)))


# ----------------------------------------------------------------------------------------------------- writing and waiting


def settle_plan(
    folder: Path,
    images: Callable[[], Iterable[str]],
    settings: dict[str, Any],
    info: dict[str, Any],
    shard_size: int | None = None,
    locks: bool = True,
    may_differ: tuple[str, ...] = (),
) -> Plan:
    """Write the job's plan, or check that the one in `folder` is the same job. One process at a time.

    may_differ: settings that are not compared. Raises UsageError naming each setting that differs from the plan's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "plan.lock", locks):
        if not (folder / "plan.json").exists():
            _write_plan(folder, images(), settings, info, shard_size)
            return load_plan(folder)
        plan = load_plan(folder)
        check_settings(plan, settings, shard_size, may_differ)
        _check_images(plan, images(), info)
        return plan


def wait_for_plan(
    folder: Path,
    settings: dict[str, Any],
    shard_size: int | None = None,
    timeout_s: float = 1800.0,
    may_differ: tuple[str, ...] = (),
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
    check_settings(plan, settings, shard_size, may_differ)
    return plan


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
    value = {
        "version": PLAN_VERSION,
        "images": len(packed),
        "image_list": _digest(packed)[0],
        "shard_size": shard_size,
        "shards": -(-len(packed) // shard_size),
        "settings": settings,
        "info": {**info, "git_revision": git_revision()},
    }
    write_json(folder / "plan.json", value)
    log.info("%d images in %d shards of %d: %s", len(packed), value["shards"], shard_size, folder)


def move_image_root(plan: Plan, image_root: str) -> Plan:
    """Record a new image root in plan.json, for `retry` after the images were moved or mounted."""
    file = plan.folder / "plan.json"
    value = read_json(file)
    value["settings"]["image_root"] = value["info"]["image_root"] = image_root
    write_json(file, value)
    return load_plan(plan.folder)


# ----------------------------------------------------------------------------------------------------------------- reading


def load_plan(folder: Path) -> Plan:
    """Read the plan of an output folder. Raises UsageError when there is none or it is damaged."""
    file = Path(folder) / "plan.json"
    value = check_kind(read_json(file), dict, str(file))
    version = value.get("version")
    if version != PLAN_VERSION or isinstance(version, bool):
        raise UsageError(
            f"{file}: not a captioning plan of version {PLAN_VERSION} (version {ascii(version)[:40]}); use a new --out"
        )
    missing = [key for key in ("images", "image_list", "shard_size", "settings", "info") if key not in value]
    if missing:
        raise UsageError(f"{file}: not a captioning plan: no {', '.join(missing)}; use a new --out")
    counted = check_int(value["images"], f"{file}: images", 1, 2**40)
    shard_size = check_int(value["shard_size"], f"{file}: shard_size", 1, 2**40)
    settings = check_kind(value["settings"], dict, f"{file}: settings")
    info = check_kind(value["info"], dict, f"{file}: info")
    check_plan_settings(settings, f"{file}: settings")
    for key in ("image_root", "model_path", "images"):
        check_kind(info.get(key, ""), str, f"{file}: info: {key}")
    check_kind(settings.get("image_root", ""), str, f"{file}: settings: image_root")
    return Plan(Path(folder), _open_images(folder, counted), shard_size, settings, info)


def _open_images(folder: Path, counted: int) -> PackedStrings:
    try:
        images = PackedStrings(Path(folder) / "images.packed")
    except FileNotFoundError:
        raise UsageError(
            f"{folder}/images.packed is missing, which plan.json needs; use a new --out"
        ) from None
    if len(images) != counted:
        raise UsageError(
            f"{folder}: plan.json counts {counted} images, images.packed holds {len(images)}; use a new --out"
        )
    return images


def check_plan_settings(settings: dict[str, Any], where: str) -> None:
    """Check the settings that every command reads. Raises UsageError."""
    check_kind(settings.get("styles"), str, f"{where}: styles")
    pool = check_kind(settings.get("style_pool"), list, f"{where}: style_pool")
    if not pool:
        raise UsageError(f"{where}: style_pool is empty")
    for style_id in pool:
        check_int(style_id, f"{where}: style_pool", NO_STYLE, 2**31)
    check_int(settings.get("captions_per_image"), f"{where}: captions_per_image", 1, 10**6)
    check_int(settings.get("max_redraws"), f"{where}: max_redraws", 0, 10**6)
    check_int(settings.get("seed"), f"{where}: seed", -(2**63), 2**63 - 1)
    check_kind(settings.get("reject_slash_n"), bool, f"{where}: reject_slash_n")
    check_kind(settings.get("repeat_styles", True), bool, f"{where}: repeat_styles")


# --------------------------------------------------------------------------------------------------------------- comparing


def check_settings(
    plan: Plan, settings: dict[str, Any], shard_size: int | None = None, may_differ: tuple[str, ...] = ()
) -> None:
    """Refuse to continue a job under other settings. Raises UsageError naming each."""
    old = {**BEFORE, "image_root": plan.info.get("image_root"), **plan.settings}
    changed = [
        f"{name} was {old.get(name)!r:.200}, now {settings[name]!r:.200}"
        for name in settings
        if name not in may_differ and name not in NOT_COMPARED and old.get(name) != settings[name]
    ]
    if shard_size is not None and shard_size != plan.shard_size:
        changed.append(f"shard_size was {plan.shard_size}, now {shard_size}")
    if changed:
        moved = any(change.startswith("image_root") for change in changed)
        hint = f"; if the images have moved: caption.py retry {plan.folder} --image-root DIR" if moved else ""
        raise UsageError(
            f"{plan.folder} holds a job with other settings: {'; '.join(changed)}. "
            f"Use the same values, or a new --out{hint}"
        )


def _check_images(plan: Plan, images: Iterable[str], info: dict[str, Any]) -> None:
    digest, count = _digest(images)
    value = read_json(plan.folder / "plan.json")
    if digest == value["image_list"]:
        return
    if _is_same_source(plan, info, count):
        log.warning(
            "%s was planned by an earlier version, which listed images by other rules; its list of %d images is kept",
            plan.folder,
            len(plan.images),
        )
        return
    then = len(plan.images)
    what = f"{then} images then, {count} now"
    if count == then:
        what = f"{count} images, but other paths or another order"
    raise UsageError(
        f"{plan.folder} holds a job with another image list (--images, --image-root, --limit, --sample): {what}. "
        "Use the same list, or a new --out"
    )


def _is_same_source(plan: Plan, info: dict[str, Any], count: int) -> bool:
    """Return whether a job of the first version was planned from the same --image-root and --images without --limit."""
    options = info.get("options")
    if "options" in plan.info or not options or options.get("limit") or options.get("sample"):
        return False
    return bool(count) and all(plan.info.get(key) == info.get(key) for key in ("image_root", "images"))


def _digest(images: Iterable[str]) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    for path in images:
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
        count += 1
    return digest.hexdigest(), count
