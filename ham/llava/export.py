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
from ham.llava.vision_tower import (
    INSIDE,
    checked_settings,
    image_processor_config,
    plain_tower_folder,
)
from ham.records import write_json
from ham.tensor_files import check_new_folder, new_folder, read_settings, write_shards

COPIED = ("generation_config.json", "preprocessor_config.json", "tokenizer.model")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def write_original(source: Source, out: str | Path, max_shard_gib: float = 4.0) -> None:
    """Write a checkpoint, with everything on top of it, to the new folder `out`, weights as sharded safetensors.

    Tensors that nothing replaces are copied bit for bit; an adapter's keep their own precision where the base
    model's dtype would round them. The folder appears whole.
    Raises UsageError when `out` holds something already.
    """
    check_new_folder(out)
    tokenizer = load_tokenizer(source.folder)
    fit_vocabulary(source, tokenizer)
    with new_folder(out) as beside:
        write_shards(beside, merged_tensors(source), int(max_shard_gib * 2**30))
        write_json(beside / "config.json", merged_config(source), indent=2)
        copy_tokenizer(source, beside)
        copy_tower(source, beside)


def copy_tokenizer(source: Source, out: Path) -> None:
    """Copy the tokenizer's files; those of our own llava-hf export without the style tokens."""
    is_export = "vocab_size" in source.manifest
    for name in COPIED if is_export else (*COPIED, *TOKENIZER):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, out / name)
    if not is_export:
        return
    settings = read_settings(source.folder / "tokenizer_config.json")
    for key in ("chat_template", "image_token", "processor_class"):
        settings.pop(key, None)
    settings.update(padding_side="right")
    if (out / "tokenizer.model").is_file():
        settings.update(tokenizer_class="LlamaTokenizer", legacy=False, sp_model_kwargs={})
    else:
        content = read_settings(source.folder / "tokenizer.json")
        added = [one for one in content["added_tokens"] if one["id"] < source.config["vocab_size"]]
        write_json(out / "tokenizer.json", {**content, "added_tokens": added}, indent=None)
    write_json(out / "tokenizer_config.json", settings, indent=2)


def merged_tensors(source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors under their original names.

    What training changed takes the base model's dtype where that loses nothing, and keeps its own precision elsewhere.
    """
    embeddings = source.index[source.stored[layouts.EMBEDDINGS]].dtype
    for name, tensor in source.tensors():
        if name in source.replaced:
            stored = source.stored.get(name)
            narrow = tensor.to(source.index[stored].dtype if stored else embeddings)
            tensor = narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor
        yield name, tensor


def merged_config(source: Source) -> dict:
    """Return the config with the original LLaVA's keys, and what only we record under `ham`."""
    kept = ("template", "prompt", "style_tokens", "max_length", "untrained_styles")
    ours = {key: source.manifest[key] for key in kept if source.manifest.get(key)}
    if source.recorded_tower():
        ours["vision_tower"] = source.recorded_tower()
    if any(name.startswith(layouts.TOWER) for name in source.lora):
        ours["vision_tower"] = INSIDE
    config = {key: value for key, value in source.config.items() if key != "ham"}
    if source.manifest:
        config["image_aspect_ratio"] = "pad"
    return {**config, **({"ham": ours} if ours else {})}


def copy_tower(source: Source, out: Path) -> None:
    """Copy the plain vision tower where it is inside the base model's folder; elsewhere it is found by its name again.

    The reference's loader needs a preprocessor_config.json beside it: one is written where there is none.
    """
    tower = plain_tower_folder(source.folder, source.config.get("mm_vision_tower"))
    if tower is None or source.folder.resolve() not in tower.resolve().parents:
        return
    copy = out / tower.resolve().relative_to(source.folder.resolve())
    shutil.copytree(tower, copy)
    settings = copy / "preprocessor_config.json"
    if not settings.is_file():
        size = checked_settings(read_settings(copy / "config.json"), tower)["image_size"]
        write_json(settings, image_processor_config(size), indent=2)
