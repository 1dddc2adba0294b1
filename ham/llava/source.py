"""Where a LLaVA's weights come from: a whole checkpoint, or a LoRA on top of one.

The format is detected from the files, never from the folder's name. Tensors are streamed under their original LLaVA names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ham.llava import layouts
from ham.runtime import UsageError, log
from ham.tensor_files import load_bin, read_settings, read_tensors, tensor_names


@dataclass
class LowRank:
    """One low-rank update: weight + scale * up @ down. down [r, in], up [out, r]."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass
class Source:
    """A checkpoint on disk, before its weights are read.

    folder: the whole checkpoint at the bottom. config: original LLaVA keys. manifest: what training recorded. replaced:
    tensors (original names) of adapters on top. lora: updates to the language model's weights.
    vocab_size: embeddings and head are cut to so many rows; None keeps them.
    """

    folder: Path
    hf_layout: bool
    config: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    lora: dict[str, list[LowRank]] = field(default_factory=dict)
    vocab_size: int | None = None

    def names(self) -> set[str]:
        """List the original names of all tensors."""
        return {layouts.original_name(name) for name in tensor_names(self.folder)} | set(self.replaced)

    def recorded_tower(self) -> str | None:
        """Give the vision tower that training used, where it is not the one that the base model's config names."""
        tower = self.manifest.get("vision_tower")
        return None if tower == self.config.get("mm_vision_tower") else tower

    def tensors(self, wanted: Any = lambda name: True) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (original name, tensor) of the wanted names, low-rank updates applied, the folder's own dtypes."""
        given = set()
        for name, tensor in read_tensors(
            self.folder, wanted=lambda name: wanted(layouts.original_name(name))
        ):
            name = layouts.original_name(name)
            if name in given:
                raise UsageError(f"{self.folder}: '{name}' stands in the weights twice")
            given.add(name)
            if name in self.replaced:
                tensor = self.replaced[name]
            if self.vocab_size is not None and name in (layouts.EMBEDDINGS, layouts.HEAD):
                tensor = tensor[: self.vocab_size]
            yield name, self._updated(name, tensor)
        for name, tensor in self.replaced.items():
            if name not in given and wanted(name):
                yield name, tensor

    def _updated(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        for update in self.lora.get(name, ()):
            if (update.up.shape[0], update.down.shape[1]) != tuple(tensor.shape):
                raise UsageError(
                    f"LoRA for '{name}' is {update.up.shape[0]} x {update.down.shape[1]}, but the base model's "
                    f"weight is {tuple(tensor.shape)}; this is not the base model it was trained on"
                )
            tensor = (tensor.float() + update.scale * (update.up.float() @ update.down.float())).to(
                tensor.dtype
            )
        return tensor


def find_source(
    path: str | Path,
    base_model: str | Path | None = None,
    find_base: Callable[[Path], Source] | None = None,
) -> Source:
    """Detect what kind of checkpoint a folder holds and gather what changes its weights.

    base_model: path of a LoRA's base model, if it has moved since training. find_base: opens that base; `find_source` itself
    by default.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; expected a LLaVA checkpoint")
    if (path / "adapter_config.json").is_file():
        return lora_source(path, base_model, find_base or find_source)
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: no manifest.json (our adapter), no adapter_config.json (LoRA), no config.json (LLaVA)"
        )
    try:
        hf_layout = layouts.is_hf_layout(tensor_names(path))
        config = layouts.llava_config(read_settings(path / "config.json"), hf_layout)
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    log.info("%s: %s layout", path, "llava-hf" if hf_layout else "original LLaVA")
    return Source(path, hf_layout, config, manifest=dict(config.get("ham") or {}))


def lora_source(path: Path, base_model: str | Path | None, find_base: Callable[[Path], Source]) -> Source:
    """Read a LLaVA LoRA folder: peft's adapter, with the projector and styles in non_lora_trainables.bin beside it."""
    settings = read_settings(path / "adapter_config.json")
    source = find_base(base_folder(path, base_model, settings.get("base_model_name_or_path")))
    add_lora(source, path)
    others = path / "non_lora_trainables.bin"
    if others.is_file():
        source.replaced.update(
            {layouts.original_name(name): tensor for name, tensor in load_bin(others).items()}
        )
    else:
        log.warning("%s: no non_lora_trainables.bin; projector and style prompts are the base model's", path)
    if (path / "config.json").is_file():
        source.config = layouts.llava_config(read_settings(path / "config.json"), hf_layout=False)
        source.manifest = dict(source.config.get("ham") or {})
    return source


def base_folder(path: Path, given: str | Path | None, *recorded: str | None) -> Path:
    """Find the base model of an adapter: the user's, else the recorded path as it is or relative to the adapter."""
    if given is not None:
        return Path(given)
    places = [place for name in recorded if name for place in (Path(name), path / name)]
    for place in places:
        if place.is_dir():
            return place
    said = recorded[0] if recorded and recorded[0] else "not recorded"
    raise UsageError(
        f"{path}: its base model ({said}) is not a folder here; say where it lies with --base-model"
    )


def add_lora(source: Source, folder: Path) -> None:
    """Read peft's LoRA tensors and their scale. Raises UsageError for kinds of LoRA that are not plain."""
    settings = read_settings(folder / "adapter_config.json")
    odd = [
        key
        for key in (
            "use_dora",
            "fan_in_fan_out",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "lora_bias",
        )
        if settings.get(key)
    ]
    if settings.get("peft_type", "LORA") != "LORA" or odd or settings.get("bias", "none") != "none":
        raise UsageError(
            f"{folder}: adapter of type {settings.get('peft_type')} with {odd or settings.get('bias')}; only "
            "plain LoRA without biases is supported"
        )
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    plain, binary = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if not plain.is_file() and not binary.is_file():
        raise UsageError(
            f"{folder}: neither adapter_model.safetensors nor adapter_model.bin beside adapter_config.json"
        )
    tensors = load_file(str(plain)) if plain.is_file() else load_bin(binary)
    downs = {name: tensor for name, tensor in tensors.items() if ".lora_A." in name}
    if len(downs) * 2 != len(tensors) or not downs:
        raise UsageError(
            f"{folder}: {len(tensors)} tensors, {len(downs)} of them lora_A; expected pairs of lora_A and lora_B"
        )
    for name, down in downs.items():
        weight = layouts.original_name(name.replace(".lora_A.default.", ".").replace(".lora_A.", "."))
        up = tensors[name.replace(".lora_A.", ".lora_B.")]
        source.lora.setdefault(weight, []).append(LowRank(down, up, scale))
    log.info("%s: LoRA of rank %d on %d weights, merged at load", folder, rank, len(downs))


def check_aspect_ratio(source: Source, override: str | None) -> None:
    """Raise UsageError unless images are padded, not cropped: a centre crop cuts off heads and feet."""
    found = override or source.manifest.get("image_aspect_ratio") or source.config.get("image_aspect_ratio")
    if found != "pad":
        raise UsageError(
            f"{source.folder}: image_aspect_ratio in its config is {found!r}; the reference would crop people's "
            "heads and feet off. This captioner pads images: say --image-aspect-ratio pad to do so here"
        )


def fit_vocabulary(source: Source, tokenizer: Any) -> None:
    """Cut llava-hf's padded vocabulary (32064) to the tokenizer's own; a padding token beyond it becomes the unknown token."""
    rows = source.config["vocab_size"]
    if source.hf_layout:
        if tokenizer.vocab_size > rows:
            raise UsageError(
                f"{source.folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {rows} embeddings"
            )
        source.vocab_size = source.config["vocab_size"] = tokenizer.vocab_size
        if tokenizer.pad_token_id >= tokenizer.vocab_size:
            tokenizer.pad_token = tokenizer.unk_token
            log.info(
                "%s: the padding token lies beyond the vocabulary of %d; the unknown token is used",
                source.folder,
                tokenizer.vocab_size,
            )
    elif len(tokenizer) > rows:
        raise UsageError(
            f"{source.folder}: the tokenizer has {len(tokenizer)} ids, the model only {rows} embeddings"
        )
