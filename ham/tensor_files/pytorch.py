"""Open PyTorch's weight files (.bin, .pt, .pth, TorchScript archives) without executing anything in them.

The pickle inside is read by a restricted unpickler (see `unpickle`); tensors are memory-mapped and read one at a time.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ham.tensor_files.errors import UnreadableError
from ham.tensor_files.unpickle import (
    LEGACY_MAGIC,
    MAX_TENSORS,
    CountedReader,
    Foreign,
    Storage,
    StoredTensor,
    TensorUnpickler,
)

WRAPPINGS = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")
MAX_WRAPPINGS = 4
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip entry, in front of its name


def map_bytes(path: Path) -> Tensor:
    """Map a file into memory, uint8 [bytes]; changes to it stay in memory."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


@dataclass
class TorchFile:
    """An opened file. root: what was pickled. place_of: first byte of every storage. script: a TorchScript archive."""

    path: Path
    root: Any
    place_of: dict[str, int]
    script: bool = False

    def read(self, stored: StoredTensor, mapped: Tensor) -> Tensor:
        """Read one tensor from the file's bytes: a view of them where its alignment allows."""
        start = self.place_of[stored.storage.key]
        size = stored.storage.dtype.itemsize * stored.storage.numel
        values = mapped[start : start + size]
        if start % stored.dtype.itemsize:
            values = values.clone()
        values = values.view(stored.dtype)  # its place in the mapped file is part of the offset
        return values.as_strided(stored.shape, stored.stride, values.storage_offset() + stored.offset)


# ---------------------------------------------------------------------------------------------------------- the two formats


def open_zip(path: Path) -> TorchFile:
    """Open a zip archive of torch.save or torch.jit.save. Raises UnreadableError."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UnreadableError(
                f"a zip archive without the data.pkl of torch.save (it holds {', '.join(list(entries)[:3])})",
                "give the file that torch.save or torch.jit.save wrote",
            )
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in entries and archive.read(f"{prefix}byteorder") != b"little":
            raise UnreadableError(
                "weights in big-endian byte order", "save them again on a little-endian machine"
            )
        with archive.open(pickles[0]) as file:
            unpickler = TensorUnpickler(CountedReader(file))
            root = unpickler.load()
    place_of = {}
    with path.open("rb") as file:
        for storage in unpickler.storages.values():
            entry = entries.get(f"{prefix}data/{storage.key}")
            place_of[storage.key] = place_of_entry(file, entry, storage)
    script = f"{prefix}constants.pkl" in entries or any(name.startswith(f"{prefix}code/") for name in entries)
    return TorchFile(path, root, place_of, script)


def place_of_entry(file: IO[bytes], entry: zipfile.ZipInfo | None, storage: Storage) -> int:
    """Find the first byte of a storage's zip entry. Raises UnreadableError when it is missing, compressed or cut."""
    needed = storage.numel * storage.dtype.itemsize
    if entry is None:
        raise UnreadableError(f"an archive that lacks the numbers of tensor storage {storage.key!r}")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise UnreadableError(
            "an archive with compressed tensors",
            "torch.save never compresses: save the weights with it again",
        )
    file.seek(entry.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise UnreadableError("a damaged zip archive (an entry is not where its directory says)")
    *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    start = entry.header_offset + LOCAL_HEADER.size + name_length + extra_length
    if entry.file_size < needed or start + needed > file.seek(0, 2):
        raise UnreadableError(
            f"an archive whose tensor storage {storage.key!r} has {entry.file_size} bytes where {needed} are declared"
        )
    return start


def open_legacy(path: Path) -> TorchFile:
    """Open a file of torch.save before PyTorch 1.6: pickles, then every storage's length and numbers."""
    with path.open("rb") as file:
        reader = CountedReader(file)
        if TensorUnpickler(reader).load() != LEGACY_MAGIC:
            raise UnreadableError(
                "a Python pickle that torch.save did not write",
                "save the weights with torch.save(model.state_dict(), ...)",
            )
        for _ in range(2):  # the protocol's number, facts about the machine
            TensorUnpickler(reader).load()
        unpickler = TensorUnpickler(reader)
        root = unpickler.load()
        keys = TensorUnpickler(reader).load()
        place, size = file.tell(), path.stat().st_size
        place_of = {}
        for key in keys if isinstance(keys, list) else []:
            storage = unpickler.storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise UnreadableError("a file of an old torch.save with a storage that no tensor uses")
            end = place + 8 + storage.numel * storage.dtype.itemsize
            file.seek(place)
            if file.read(8) != storage.numel.to_bytes(8, "little", signed=True) or end > size:
                raise UnreadableError("a damaged or cut file of an old torch.save")
            place_of[key] = place + 8
            place = end
    if missing := unpickler.storages.keys() - place_of.keys():
        raise UnreadableError(f"a file of an old torch.save without the numbers of {len(missing)} storages")
    return TorchFile(path, root, place_of)


# ---------------------------------------------------------------------------------------------- finding the tensors


def module_tensors(module: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Yield (dotted name, tensor) for the tensors that a TorchScript module and its submodules hold."""
    waiting, visits = [("", module)], 0
    while waiting:
        prefix, current = waiting.pop()
        visits += 1
        if visits > MAX_TENSORS or prefix.count(".") > 100:
            raise UnreadableError("a TorchScript archive of endlessly nested modules")
        state = current.state if isinstance(current, Foreign) else None
        inner = []
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Foreign):
                inner.append((f"{prefix}{name}.", value))
        waiting += reversed(inner)


def find_state(root: Any) -> tuple[dict[str, StoredTensor], dict[Any, Any]]:
    """Find the dictionary of tensors, perhaps wrapped as {"model": ...}: (it, what stands beside it).

    Objects of other classes beside the weights are skipped. Raises UnreadableError for a whole pickled model.
    """
    beside: dict[Any, Any] = {}
    for _ in range(MAX_WRAPPINGS):
        root = entries_of(root)
        tensors = {
            name: value
            for name, value in root.items()
            if isinstance(name, str) and isinstance(value, StoredTensor)
        }
        inner = wrapped_state(root, bool(tensors))
        if inner is None:
            return tensors, beside | root
        beside |= root
        root = inner
    return {}, beside


def entries_of(value: Any) -> dict[Any, Any]:
    """Return a dictionary's entries. Raises UnreadableError for anything else, such as a whole pickled model."""
    if isinstance(value, Foreign) and not value.entries:
        raise UnreadableError(
            f"a whole pickled object of class {value.class_name}, which only its own code can open",
            "save its weights alone there: torch.save(model.state_dict(), ...)",
        )
    entries = value.entries if isinstance(value, Foreign) else value  # a subclass of dict, or a dict
    if not isinstance(entries, dict):
        raise UnreadableError(
            f"a pickled {type(value).__name__} without named tensors", "give a file with a state dictionary"
        )
    return entries


def wrapped_state(root: dict[Any, Any], has_tensors: bool) -> Any:
    """Return the entry of `root` that holds the weights, or None when `root` holds them itself.

    Known wrappers come first, then the only entry with tensors whatever its name. Raises UnreadableError for several.
    """
    known = [root[key] for key in WRAPPINGS if key in root]
    for value in known:
        if holds_tensors(value):
            return value
    if has_tensors:
        return None
    inner = {key: value for key, value in root.items() if holds_tensors(value)}
    if len(inner) > 1:
        raise UnreadableError(
            f"a file with several sets of tensors ({', '.join(map(str, list(inner)[:4]))})",
            "save the one that is meant alone",
        )
    models = [value for value in root.values() if isinstance(value, Foreign) and is_module(value)]
    return next(iter([*inner.values(), *models]), None)


def holds_tensors(value: Any, depth: int = MAX_WRAPPINGS) -> bool:
    """Check whether a dictionary has tensors in it, perhaps inside a known wrapper."""
    entries = value.entries if isinstance(value, Foreign) else value
    if not isinstance(entries, dict) or depth == 0:
        return False
    if any(isinstance(one, StoredTensor) for one in entries.values()):
        return True
    return any(holds_tensors(entries[key], depth - 1) for key in WRAPPINGS if key in entries)


def is_module(value: Foreign) -> bool:
    """Check whether an object that was not read is a pickled torch module."""
    return isinstance(value.state, dict) and "_modules" in value.state


def is_plain(value: Any, depth: int = 4) -> bool:
    """Check that a value consists of strings, numbers, lists and dictionaries only."""
    if isinstance(value, dict):
        return depth > 0 and all(is_plain(one, depth - 1) for one in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, str | int | float)
