"""Loading and merging never hold a model twice: peaks of resident memory, on a checkpoint of 100 MB in shards."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny_llava
import torch
from tiny_llava import CONFIG, original_tensors, write_folder

from ham.captioner.checkpoint import load_captioner, merge
from ham.tensor_files import write_shards

SIZES = {"intermediate_size": 32768, "num_hidden_layers": 8}
SHARD_BYTES = 15_000_000


def memory(name: str) -> int:
    """Read a figure of this process in bytes: VmRSS is what it holds now, VmHWM the most since the peak was forgotten."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def growth(work: Callable[[], object]) -> int:
    """Give the bytes by which the peak of `work` exceeds what was held before, its result included."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory would be used again without growth
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = memory("VmRSS")
    kept = work()
    peak = memory("VmHWM") - before
    del kept
    return peak


def measure(sender: object, small: Path, folders: list[Path]) -> None:
    load_captioner(small)  # what is imported late is imported now
    found = []
    for folder in folders:
        merged = folder.with_name(f"merged-{folder.name}")
        found.append(
            {
                "load": growth(partial(load_captioner, folder)),
                "load_bf16": growth(partial(load_captioner, folder, dtype=torch.bfloat16)),
                "merge": growth(partial(merge, folder, merged, max_shard_gib=SHARD_BYTES / 2**30)),
            }
        )
        shutil.rmtree(merged)
    sender.send(found)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
def test_loading_and_merging_hold_one_model_and_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write_folder(tmp_path / "small", original_tensors(), CONFIG)
    monkeypatch.setattr(tiny_llava, "INNER", SIZES["intermediate_size"])
    monkeypatch.setattr(tiny_llava, "LAYERS", SIZES["num_hidden_layers"])
    tensors = original_tensors()
    size = sum(tensor.numel() * 4 for tensor in tensors.values())
    folders = [write_folder(tmp_path / kind, {}, {**CONFIG, **SIZES}) for kind in ("safetensors", "bin")]
    for folder in folders:
        (folder / "model.safetensors").unlink()
    assert write_shards(folders[0], tensors.items(), SHARD_BYTES) > 5
    for number, place in enumerate(range(0, len(tensors), 8)):
        torch.save(
            dict(list(tensors.items())[place : place + 8]), folders[1] / f"pytorch_model-{number:05d}.bin"
        )
    del tensors
    context = multiprocessing.get_context("fork")  # memory of its own, without importing everything again
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender, small, folders))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    for peak in found:
        assert size < peak["load"] < 1.3 * size, (size, found)
        assert 0.5 * size < peak["load_bf16"] < 0.8 * size, (size, found)
        assert peak["merge"] < 0.5 * size, (size, found)
