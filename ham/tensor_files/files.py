"""Open one weight file: its format is detected from its content."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ham.tensor_files.errors import UnreadableError, first_line, refuse
from ham.tensor_files.pytorch import (
    TorchFile,
    find_state,
    is_plain,
    map_bytes,
    module_tensors,
    open_legacy,
    open_zip,
)

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass
class WeightFile:
    """One weight file. tensors: {name: (shape, dtype)}. map_file: map the file, return a function that reads one tensor.

    The mapping lives as long as that function or a tensor read with it, so that not all shards are mapped at once.
    """

    path: Path
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]]
    metadata: dict[str, Any]
    map_file: Callable[[], Callable[[str], Tensor]]
    torchscript: bool = False

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one at a time. Raises UsageError when the file was damaged since it was opened."""
        try:
            read_one = self.map_file()
        except (SafetensorError, RuntimeError, ValueError) as error:
            refuse(self.path, UnreadableError(f"damaged ({first_line(error)})"))
        for name in names:
            yield name, read_one(name)


def open_file(path: Path) -> WeightFile:
    """Read the header of one weight file, whose format is detected from its content. Raises UsageError."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start[:4] == b"PK\x03\x04":
            if not zipfile.is_zipfile(path):
                raise UnreadableError("the beginning of a zip archive: the file was cut")
            return open_torch(path, open_zip(path))
        if start[5:9] == b"\0\0\0{":  # a small number of 8 bytes, then JSON
            return open_safetensors(path)
        if start[:1] == b"\x80":
            return open_torch(path, open_legacy(path))
        raise UnreadableError(*what_else(start))
    except UnreadableError as error:
        refuse(path, error)
    except (
        Exception
    ) as error:  # a damaged or hostile file makes zipfile, pickle and struct raise almost any type
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek to before the start
            raise
        refuse(path, UnreadableError(f"a damaged or cut PyTorch file ({type(error).__name__})"))


def what_else(start: bytes) -> tuple[str, str]:
    """Describe a file that holds no weights by its first bytes, and say what to do about it."""
    again = "copy or download the file again"
    head = start.lstrip().lower()
    if not start:
        return "empty (0 bytes)", again
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML)", "download the file itself, not the page that links to it"
    for magic, name in (
        (b"GGUF", "a GGUF file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"%PDF", "a PDF document"),
        (b"\x7fELF", "a program"),
    ):
        if start.startswith(magic):
            return name, "give a file of weights"
    if start[257:262] == b"ustar":
        return "a tar archive", "unpack it and give the file of weights inside"
    if not any(start[:8]) or b"\0" in start:
        return "binary data of no known format, or a damaged file", again
    try:
        start[:256].decode("utf-8")
    except UnicodeDecodeError:
        return "binary data of no known format, or a damaged file", again
    return "a text file", "give a file of weights"


def open_safetensors(path: Path) -> WeightFile:
    """Open a safetensors file. Raises UnreadableError."""
    try:
        opened = safe_open(str(path), framework="pt")
        tensors = {}
        for name in opened.keys():
            part = opened.get_slice(name)
            dtype = DTYPES.get(part.get_dtype())
            if dtype is None:
                raise UnreadableError(
                    f"a safetensors file with the unsupported type {part.get_dtype()} ('{name}')",
                    "save it as float32, float16 or bfloat16",
                )
            tensors[name] = (tuple(part.get_shape()), dtype)
        metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise UnreadableError(f"a damaged or cut safetensors file ({first_line(error)})") from None
    if not tensors:
        raise UnreadableError("a safetensors file without tensors", "give a file of weights")
    return WeightFile(path, tensors, metadata, lambda: safe_open(str(path), framework="pt").get_tensor)


def open_torch(path: Path, opened: TorchFile) -> WeightFile:
    """Find the state dictionary in an opened PyTorch file. Raises UnreadableError when there is none."""
    if opened.script:
        state, beside = dict(module_tensors(opened.root)), {}
    else:
        state, beside = find_state(opened.root)
    if not state:
        raise UnreadableError("a PyTorch file that holds no tensors", "give a file with a state dictionary")
    tensors = {name: (stored.shape, stored.dtype) for name, stored in state.items()}
    metadata = {name: value for name, value in beside.items() if isinstance(name, str) and is_plain(value)}

    def map_file() -> Callable[[str], Tensor]:
        mapped = map_bytes(path)
        return lambda name: opened.read(state[name], mapped)

    return WeightFile(path, tensors, metadata, map_file, opened.script)
