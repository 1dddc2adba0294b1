"""Write safetensors files and folders of weights: whole or not at all, the same bytes for the same tensors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham.records import atomic_write, write_json
from ham.runtime import UsageError, log
from ham.tensor_files.files import DTYPE_NAMES


def write_file(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all; equal tensors and metadata give equal bytes."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {}).items()))} if metadata else {}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(raw_bytes(tensors[name]))


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's numbers as they are stored, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_shards(
    folder: str | Path,
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write tensors as model.safetensors, or as shards with an index when they are larger than one shard.

    Holds one shard in memory. The index is written last. Returns the number of files.
    """
    folder = Path(folder)
    metadata = metadata or {"format": "pt"}
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    held = total = 0

    def flush() -> None:
        write_file(folder / f"shard-{len(shards)}.part", pending, metadata)
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if pending and held + size > max_shard_bytes:
            flush()
            held = 0
        pending[name] = tensor
        held, total = held + size, total + size
    flush()
    if len(shards) == 1:
        (folder / "shard-0.part").replace(folder / "model.safetensors")
        return 1
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}.part").replace(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
        indent=2,
    )
    log.info("%s: %d tensors, %.2f GiB in %d files", folder, len(weight_map), total / 2**30, len(shards))
    return len(shards)


def check_new_folder(out: str | Path) -> None:
    """Raise UsageError unless `out` is free for a new folder: it does not exist, or is an empty folder."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; expected a new or an empty folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; expected a new or an empty folder")


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Create the folder `out` whole: yields a folder beside it, which gets its name when the block ends well.

    On an error nothing is left behind. What a killed process left is removed by the next one that writes `out`.
    Raises UsageError when `out` holds something already.
    """
    check_new_folder(out)
    out = Path(out).resolve()
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if out.is_dir():
            out.rmdir()
        beside.replace(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def digest(tensors: Iterable[tuple[str, Tensor]], *settings: object) -> str:
    """Compute a digest of every tensor's name, dtype, shape and bytes, and of settings: 16 hexadecimal digits."""
    found = hashlib.blake2b(" ".join(map(str, settings)).encode(), digest_size=8)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(raw_bytes(tensor))
    return found.hexdigest()
