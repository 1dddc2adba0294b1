"""Weight files: finding, streaming and writing safetensors and .bin shards.

Knows nothing of what the tensors mean. Everything is read with safetensors or `torch.load(weights_only=True)`, one tensor at a
time and memory-mapped, so that a checkpoint never lies in memory twice.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ham.records import read_json, write_json
from ham.runtime import UsageError, log

# In the order of preference: index file, single file, pattern of shards without an index.
KINDS = (
    ("model.safetensors.index.json", "model.safetensors", "model-*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*.bin"),
)


def weight_files(folder: str | Path) -> list[Path]:
    """List a folder's weight files, safetensors before .bin. Raises UsageError when there are none or a shard is missing."""
    folder = Path(folder)
    for index, single, pattern in KINDS:
        if (folder / index).is_file():
            files = [folder / name for name in sorted(set(read_json(folder / index)["weight_map"].values()))]
        elif (folder / single).is_file():
            files = [folder / single]
        else:
            files = sorted(folder.glob(pattern))
        if files:
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise UsageError(
                    f"{folder}: {index} names {len(missing)} missing shard(s), e.g. {missing[0]}; copy them there"
                )
            return files
    raise UsageError(
        f"{folder}: no weights; expected model.safetensors, pytorch_model.bin, or shards of either"
    )


def tensor_names(folder: str | Path) -> list[str]:
    """List the names of all tensors in a folder's weight files, from the index where there is one."""
    folder, files = Path(folder), weight_files(folder)
    for index, _, _ in KINDS:
        if (folder / index).is_file():
            weight_map = read_json(folder / index)["weight_map"]
            if {folder / file for file in weight_map.values()} == set(files):
                return list(weight_map)
    return [name for file in files for name, _ in file_tensors(file)]


def read_tensors(
    folder: str | Path, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor on the CPU, memory-mapped where possible) for the wanted names of all weight files, one by one."""
    for file in weight_files(folder):
        for name, read in file_tensors(file):
            if wanted(name):
                yield name, read()


def file_tensors(file: Path) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield (name, function that reads the tensor) for one file. Raises UsageError when the file is broken."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():
                    yield name, lambda name=name: opened.get_tensor(name)
            return
        state = load_bin(file)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise UsageError(
            f"{file}: cannot be read as weights ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "copy the file again"
        ) from error
    for name in list(state):
        yield name, lambda name=name: state[name]


def load_bin(file: Path) -> dict[str, torch.Tensor]:
    """Read a .bin file of tensors, memory-mapped where its format allows."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of before torch 1.6 cannot be mapped
        return torch.load(file, map_location="cpu", weights_only=True)


def write_shards(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], max_shard_bytes: int) -> int:
    """Write tensors as model.safetensors, or as shards with an index when they are larger than one shard.

    Holds one shard in memory. Returns the number of files.
    """
    shards: list[list[str]] = []
    storages: set[int] = set()  # safetensors refuses tensors that share memory, as tied weights in a .bin do
    pending: dict[str, torch.Tensor] = {}
    held = total = 0

    def flush() -> None:
        save_file(pending, str(folder / f"shard-{len(shards)}.part"), metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        storages.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if pending and held + size > max_shard_bytes:
            flush()
            held = 0
        storage = tensor.untyped_storage().data_ptr()
        pending[name] = tensor.clone() if storage in storages else tensor.contiguous()
        storages.add(storage)
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


def read_settings(file: Path) -> dict:
    """Read a JSON object. Raises UsageError when the file is missing or holds something else."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise UsageError(f"{file}: expected a JSON object, found {json.dumps(value)[:60]}")
    return value
