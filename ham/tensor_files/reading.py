"""The tensors of a file or folder by name: headers are read once, tensors when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham.records import read_json
from ham.runtime import UsageError
from ham.tensor_files.files import WeightFile, open_file

# In the order of preference: index file, single file, pattern of shards without an index.
KINDS = (
    ("model.safetensors.index.json", "model.safetensors", "model-*.safetensors"),
    (
        "open_clip_model.safetensors.index.json",
        "open_clip_model.safetensors",
        "open_clip_model-*.safetensors",
    ),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*.bin"),
    (
        "open_clip_pytorch_model.bin.index.json",
        "open_clip_pytorch_model.bin",
        "open_clip_pytorch_model-*.bin",
    ),
)
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is stored and what it looks like."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorIndex(Mapping[str, TensorInfo]):
    """The tensors of a file or folder by name, read from the headers once.

    source: what was opened. metadata: what stands beside the tensors (safetensors metadata; plain values in a pickle).
    torchscript: whether it is a TorchScript archive.
    """

    def __init__(self, source: Path, files: list[WeightFile]) -> None:
        self.source = source
        self.metadata: dict[str, Any] = {}
        self.torchscript = any(file.torchscript for file in files)
        self._file_of: dict[str, WeightFile] = {}
        for file in files:
            self.metadata.update(file.metadata)
            for name in file.tensors:
                if name in self._file_of:
                    other = self._file_of[name].path.name
                    raise UsageError(
                        f"{source}: '{name}' stands in the weights twice ({other} and {file.path.name}); remove the file "
                        "that does not belong there"
                    )
                self._file_of[name] = file

    def __getitem__(self, name: str) -> TensorInfo:
        file = self._file_of[name]
        return TensorInfo(file.path, *file.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    @property
    def files(self) -> list[Path]:
        """List the files that hold the tensors."""
        return list(dict.fromkeys(file.path for file in self._file_of.values()))

    def read(
        self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Read one tensor; on the CPU in its own dtype it is a view of the mapped file. Raises KeyError for an unknown name."""
        _, tensor = next(self._file_of[name].read([name]))
        return tensor if device is None and dtype is None else tensor.to(device=device, dtype=dtype)

    def stream(
        self,
        wanted: Callable[[str], bool] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of the wanted names, one at a time, in the order of the files."""
        names_of: dict[Path, list[str]] = {}
        for name, file in self._file_of.items():
            if wanted is None or wanted(name):
                names_of.setdefault(file.path, []).append(name)
        for names in names_of.values():
            for name, tensor in self._file_of[names[0]].read(names):
                yield (
                    name,
                    tensor if device is None and dtype is None else tensor.to(device=device, dtype=dtype),
                )


def index(source: str | Path) -> TensorIndex:
    """Read the headers of a weight file, of a folder of weights, or of the shards that an `.index.json` names.

    In a folder safetensors come before .bin. Raises UsageError naming the file, what it is, what was expected and what to do.
    """
    source = Path(source)
    if source.is_file() and not source.name.endswith(".index.json"):
        return TensorIndex(source, [open_file(source)])
    files = weight_files(source)
    opened = [open_file(file) for file in files]
    found = TensorIndex(source, opened)
    listing = index_file_of(source)
    if listing is not None:
        lacking = [name for name in weight_map_of(listing) if name not in found]
        if lacking:
            raise UsageError(
                f"{listing}: names {len(lacking)} tensors that are not in the shards, e.g. '{lacking[0]}'; copy the "
                "folder again"
            )
    return found


# ------------------------------------------------------------------------------------------------------------ which files


def weight_files(source: str | Path) -> list[Path]:
    """List a folder's weight files, safetensors before .bin, or the shards of an index file.

    Raises UsageError when there are none or a shard is missing.
    """
    source = Path(source)
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; expected weights")
    if not source.is_file() and not source.is_dir():
        raise UsageError(f"{source}: neither a file nor a folder (a pipe or device); expected weights")
    listing = index_file_of(source)
    if listing is not None:
        return shards_of(listing)
    for _, single, pattern in KINDS:
        files = [source / single] if (source / single).is_file() else sorted(source.glob(pattern))
        if files:
            return files
    present = sorted(file.name for file in source.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    hint = f"; give a file itself: {', '.join(present[:3])}" if present else ""
    raise UsageError(
        f"{source}: no weights here; expected model.safetensors, pytorch_model.bin, shards of either, or open_clip's "
        f"open_clip_model.safetensors, open_clip_pytorch_model.bin{hint}"
    )


def index_file_of(source: Path) -> Path | None:
    """Find the index of a folder's shards, where that is what would be read."""
    if source.is_file():
        return source if source.name.endswith(".index.json") else None
    for listing, single, pattern in KINDS:
        if (source / listing).is_file():
            return source / listing
        if (source / single).is_file() or any(source.glob(pattern)):
            return None
    return None


def weight_map_of(listing: Path) -> dict[str, str]:
    """Read {tensor: file name} of an index file. Raises UsageError unless every file is a relative path inside its folder."""
    content = read_json(listing)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(
            f"{listing}: no 'weight_map' with tensors; expected an object {{tensor: file name}}; copy the file again"
        )
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file:
            raise UsageError(
                f"{listing}: weight_map['{name}'] is {json.dumps(file)[:60]}; expected a file name; copy the file again"
            )
        pieces = file.replace("\\", "/").split("/")
        if file.startswith(("/", "\\")) or ".." in pieces or file[1:2] == ":" or "\0" in file:
            raise UsageError(
                f"{listing}: weight_map['{name}'] is '{file[:100]}', outside the folder; expected a file inside it"
            )
    return weight_map


def shards_of(listing: Path) -> list[Path]:
    """List the shards of an index file. Raises UsageError when some are missing."""
    files = [listing.parent / name for name in sorted(set(weight_map_of(listing).values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UsageError(
            f"{listing}: names {len(missing)} missing shard(s), e.g. {missing[0]}; copy them there"
        )
    return files


def read_settings(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UsageError when the file is missing or holds something else."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise UsageError(f"{file}: expected a JSON object, found {json.dumps(value)[:60]}")
    return value
