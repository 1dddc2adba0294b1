"""Weight files: the one place that reads and writes them.

    weights = index("checkpoint/")             # {name: TensorInfo(file, shape, dtype)}; headers only
    weights.read("visual.proj")                # one tensor
    for name, tensor in weights.stream(device="cuda", dtype=torch.bfloat16): ...

Read: .safetensors, PyTorch's .bin / .pt / .pth, TorchScript archives, and folders of shards with an index. The format is
detected from the file's content, nothing in a file is executed, and tensors are memory-mapped and read one at a time.
Written: safetensors, whole or not at all, the same bytes for the same tensors. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

from ham.tensor_files.reading import (
    TensorIndex,
    TensorInfo,
    index,
    read_settings,
    weight_files,
)
from ham.tensor_files.writing import check_new_folder, digest, new_folder, raw_bytes, write_file, write_shards

__all__ = [
    "TensorIndex",
    "TensorInfo",
    "check_new_folder",
    "digest",
    "index",
    "new_folder",
    "raw_bytes",
    "read_settings",
    "weight_files",
    "write_file",
    "write_shards",
]
