"""Writing a checkpoint, whatever it consists of, as one folder in the original LLaVA / HAM layout.

Works on files: tensors pass through one by one, those that nothing replaces bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from ham.llava import layouts
from ham.llava.source import Source, fit_vocabulary
from ham.llava.transformers_compat import load_tokenizer
from ham.llava.vision_tower import plain_tower_folder
from ham.records import write_json
from ham.runtime import UsageError
from ham.tensor_files import read_tensors, write_shards

COPIED = (
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
)


def write_original(source: Source, out: str | Path, max_shard_gib: float = 4.0) -> None:
    """Write a checkpoint, with everything on top of it, to the new folder `out`, weights as sharded safetensors.

    Adapter tensors take the dtype that the base model's have. The folder appears whole.
    Raises UsageError when `out` holds something already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty; choose another --out")
    tokenizer = load_tokenizer(source.folder)
    fit_vocabulary(source, tokenizer)

    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write_shards(beside, merged_tensors(source), int(max_shard_gib * 2**30))
        write_json(beside / "config.json", merged_config(source), indent=2)
        for name in COPIED:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, beside / name)
        copy_tower(source, beside)
        if out.is_dir():
            out.rmdir()
        beside.replace(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def merged_tensors(source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors under their original names and in the base model's dtypes."""
    known = set(source.replaced) | {layouts.EMBEDDINGS}
    dtypes = {
        layouts.original_name(name): tensor.dtype
        for name, tensor in read_tensors(
            source.folder, wanted=lambda name: layouts.original_name(name) in known
        )
    }
    for name, tensor in source.tensors():
        if name in source.replaced:
            tensor = tensor.to(dtypes.get(name, dtypes[layouts.EMBEDDINGS]))
        yield name, tensor


def merged_config(source: Source) -> dict:
    """Give the config with the original LLaVA's keys, padding as this captioner does, and what only we record under `ham`."""
    kept = ("template", "style_tokens", "max_length")
    ours = {key: source.manifest[key] for key in kept if source.manifest.get(key)}
    if source.recorded_tower():
        ours["vision_tower"] = source.recorded_tower()
    config = {key: value for key, value in source.config.items() if key != "ham"}
    if source.manifest:
        config["image_aspect_ratio"] = "pad"
    return {**config, **({"ham": ours} if ours else {})}


def copy_tower(source: Source, out: Path) -> None:
    """Copy the plain vision tower where it lies inside the base model's folder; elsewhere it is found by its name again."""
    tower = plain_tower_folder(source.folder, source.config.get("mm_vision_tower"))
    if tower is not None and source.folder.resolve() in tower.resolve().parents:
        shutil.copytree(tower, out / tower.resolve().relative_to(source.folder.resolve()))
