"""Where a LLaVA's weights come from: a whole checkpoint, or a LoRA on top of one.

The format is detected from the files, never from the folder's name. Tensors are streamed under their original LLaVA names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ham.llava import layouts
from ham.llava.config import llava_config
from ham.llava.lora import LowRank, read_lora
from ham.runtime import UsageError, log
from ham.tensor_files import TensorIndex, index, read_settings

MANIFEST = (
    "manifest.json"  # of our adapter; only named here, in the message about what a checkpoint folder holds
)


@dataclass
class Source:
    """A checkpoint on disk, before its weights are read.

    folder: the whole checkpoint at the bottom; tensors: its headers, read once. top: the adapter or LoRA folder on top, else
    `folder`. config: original LLaVA keys. manifest: what training recorded. replaced: tensors (original names) of adapters.
    lora: updates by original name. vocab_size: embeddings and head are cut to so many rows; None keeps them.
    """

    folder: Path
    hf_layout: bool
    config: dict[str, Any]
    index: TensorIndex
    manifest: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    lora: dict[str, list[LowRank]] = field(default_factory=dict)
    vocab_size: int | None = None
    top: Path = Path()
    stored: dict[str, str] = field(init=False)  # original name -> name in the files

    def __post_init__(self) -> None:
        self.top = self.top if self.top != Path() else self.folder
        self.stored = {}
        for name in self.index:
            original = layouts.original_name(name)
            if original in self.stored:
                raise UsageError(f"{self.folder}: '{original}' is in the weights twice")
            self.stored[original] = name

    def names(self) -> set[str]:
        """List the original names of all tensors."""
        return set(self.stored) | set(self.replaced)

    def shapes(self, start: str = "") -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors whose original names begin with `start`, from the headers."""
        found = {}
        for name in self.names():
            if name.startswith(start):
                replaced = self.replaced.get(name)
                stored = self.index[self.stored[name]].shape if replaced is None else replaced.shape
                found[name] = tuple(stored)
        return found

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor by its original name."""
        if name in self.replaced:
            return self.replaced[name].dtype
        return self.index[self.stored[name]].dtype

    def recorded_tower(self) -> str | None:
        """Return the vision tower that training used, where it is not the one that the base model's config names."""
        tower = self.manifest.get("vision_tower")
        return None if tower == self.config.get("mm_vision_tower") else tower

    def tensors(
        self, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (original name, tensor) of the wanted names, low-rank updates applied, in the folder's own dtypes."""
        kept = {
            stored: name for name, stored in self.stored.items() if name not in self.replaced and wanted(name)
        }
        for stored, tensor in self.index.stream(lambda stored: stored in kept):
            yield kept[stored], self._changed(kept[stored], tensor)
        for name, tensor in self.replaced.items():
            if wanted(name):
                yield name, self._changed(name, tensor)

    def _changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if self.vocab_size is not None and name in (layouts.EMBEDDINGS, layouts.HEAD):
            tensor = tensor[: self.vocab_size]
        for update in self.lora.get(name, ()):
            if (update.up.shape[0], update.down.shape[1]) != tuple(tensor.shape):
                raise UsageError(
                    f"LoRA for '{name}' is {update.up.shape[0]} x {update.down.shape[1]}, but the base model's "
                    f"weight is {tuple(tensor.shape)}; this is not the base model it was trained on"
                )
            change = update.scale * (update.up.float() @ update.down.float())
            tensor = (tensor.float() + change).to(tensor.dtype)
        return tensor


def find_source(
    path: str | Path,
    base_model: str | Path | None = None,
    find_base: Callable[[Path], Source] | None = None,
) -> Source:
    """Detect what kind of checkpoint a folder holds and read what changes its weights.

    base_model: path of a LoRA's base model, if it has moved since training. find_base: opens that base; `find_source` itself
    by default.
    """
    path = Path(path)
    check_folder(path)
    if (path / "adapter_config.json").is_file():
        return lora_source(path, base_model, find_base or find_source)
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: no {MANIFEST} (our adapter), no adapter_config.json (LoRA), no config.json (LLaVA)"
        )
    tensors = index(path)
    try:
        hf_layout = layouts.is_hf_layout(tensors)
        config = llava_config(read_settings(path / "config.json"), hf_layout)
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    log.info("%s: %s layout", path, "llava-hf" if hf_layout else "original LLaVA")
    source = Source(path, hf_layout, config, tensors, manifest=dict(config.get("ham") or {}))
    if hf_layout and "vocab_size" in source.manifest:
        split_vocabulary(source)
    return source


def split_vocabulary(source: Source) -> None:
    """Separate the style tokens of our own export (ham/captioner/llava_export.py) from the base model's vocabulary."""
    mark = source.manifest
    vocabulary = mark["vocab_size"]
    num_styles = mark.get("num_styles", 0)
    rows = source.shapes(layouts.EMBEDDINGS)[layouts.EMBEDDINGS][0]
    needed = vocabulary + 1
    if num_styles:
        first = mark.get("first_style_token", needed)
        count = num_styles * mark.get("style_tokens", 0)
        needed = first + count
    if rows < needed or source.config["vocab_size"] < needed:
        raise UsageError(
            f"{source.folder}: config.json records {num_styles} styles up to id {needed - 1}, but there are {rows} embeddings"
        )
    if num_styles:
        table = source.index.read(source.stored[layouts.EMBEDDINGS])
        source.replaced[layouts.STYLES] = table[first : first + count]
    source.config["vocab_size"] = source.vocab_size = vocabulary


def check_folder(path: Path) -> None:
    """Raise UsageError when a checkpoint is not a folder; a Hugging Face name gets the command that downloads it."""
    if path.is_dir():
        return
    if path.is_file():
        raise UsageError(f"{path}: is a file; expected the folder of a LLaVA checkpoint")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise UsageError(
            f"{path}: no such folder. If it is a model of the Hugging Face Hub, download it first and give the folder: "
            f"hf download {path} --local-dir models/{path.name}"
        )
    raise UsageError(f"{path}: no such folder; expected a LLaVA checkpoint")


# ------------------------------------------------------------------------------------------------------------------ LoRA


def lora_source(path: Path, base_model: str | Path | None, find_base: Callable[[Path], Source]) -> Source:
    """Read a LLaVA LoRA folder: peft's adapter, with the projector and styles in non_lora_trainables.bin beside it.

    Its base may be a bare language model (vicuna): then the projector must be beside the LoRA, and config.json too.
    """
    settings = read_settings(path / "adapter_config.json")
    base = base_folder(path, base_model, settings.get("base_model_name_or_path"))
    others = path / "non_lora_trainables.bin"
    beside = dict(index(others).stream()) if others.is_file() else {}
    beside = {layouts.original_name(name): tensor for name, tensor in beside.items()}
    has_projector = any(name.startswith(layouts.PROJECTOR) for name in beside)
    source = bare_source(base, path) if has_projector and is_bare(base) else find_base(base)
    source.replaced.update(beside)
    if not beside:
        log.warning("%s: no non_lora_trainables.bin; projector and style prompts are the base model's", path)
    if (path / "config.json").is_file():
        source.config = llava_config(read_settings(path / "config.json"), hf_layout=False)
        source.manifest = dict(source.config.get("ham") or {})
    source.top = path
    apply_lora(source, path)
    return source


def is_bare(folder: Path) -> bool:
    """Return whether a folder holds a language model alone, without any projector."""
    if not (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return False
    return not any("projector." in name for name in index(folder))


def bare_source(base: Path, lora: Path) -> Source:
    """Open a bare language model under a LoRA folder that brings the projector and LLaVA's config."""
    config = lora / "config.json"
    if not config.is_file():
        raise UsageError(
            f"{lora}: its base {base} is a bare language model, and there is no config.json here that describes the "
            "LLaVA; copy it from where the LoRA was trained"
        )
    log.info("%s: a bare language model; the projector is that of %s", base, lora)
    return Source(base, False, llava_config(read_settings(config), hf_layout=False), index(base))


def base_folder(path: Path, given: str | Path | None, *recorded: Any) -> Path:
    """Find the base model of an adapter: the user's, else the recorded path as it is or relative to the adapter."""
    if given is not None:
        check_folder(Path(given))
        found = Path(given)
    else:
        names = [name for name in recorded if isinstance(name, str) and name]
        places = [place for name in names for place in (Path(name), path / name)]
        found = next((place for place in places if place.is_dir()), Path())
        if found == Path():
            recorded_name = names[0] if names else "not recorded"
            raise UsageError(
                f"{path}: its base model ({recorded_name}) is not a folder here; give its path with --base-model"
            )
    if found.resolve() == path.resolve():
        raise UsageError(f"{path}: names itself as its base model; give the base with --base-model")
    return found


def apply_lora(source: Source, folder: Path) -> None:
    """Read a LoRA folder onto a source. Raises UsageError for matrices that fit no weight of the base model."""
    updates = read_lora(folder)
    unknown = sorted(set(updates) - source.names())
    if unknown:
        raise UsageError(
            f"{folder}: its LoRA changes {len(unknown)} weights that the base model {source.folder} does not have, e.g. "
            f"'{unknown[0]}'; this is not the base model it was trained on"
        )
    for name, update in updates.items():
        source.lora.setdefault(name, []).append(update)
    log.info("%s: LoRA on %d weights, merged at load", folder, len(updates))


def check_lora_on_tower(source: Source, from_inside: bool) -> None:
    """Raise UsageError when a LoRA changes the vision tower inside the checkpoint but another tower is loaded."""
    changed = [name for name in source.lora if name.startswith(layouts.TOWER)]
    if changed and not from_inside:
        raise UsageError(
            f"{source.top}: its LoRA changes {len(changed)} weights of the vision tower inside {source.folder}, but another "
            "vision tower would be loaded; set the vision tower to 'checkpoint'"
        )


# ----------------------------------------------------------------------------------------------------------------- checks


def check_aspect_ratio(source: Source, override: str | None) -> None:
    """Raise UsageError unless images are padded, not cropped: a centre crop cuts off heads and feet."""
    found = override or source.manifest.get("image_aspect_ratio") or source.config.get("image_aspect_ratio")
    if found != "pad":
        raise UsageError(
            f"{source.folder}: image_aspect_ratio in its config is {found!r}; the reference would crop people's "
            "heads and feet off. This captioner pads images: use --image-aspect-ratio pad"
        )


def fit_vocabulary(source: Source, tokenizer: Any) -> None:
    """Cut llava-hf's padded vocabulary (32064) to the tokenizer's own; a padding token beyond it becomes the unknown token."""
    rows = source.config["vocab_size"]
    if source.vocab_size is not None:  # our own export, which records it
        return
    if source.hf_layout:
        if tokenizer.vocab_size > rows:
            raise UsageError(
                f"{source.folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {rows} embeddings"
            )
        source.vocab_size = source.config["vocab_size"] = tokenizer.vocab_size
        if tokenizer.pad_token_id >= tokenizer.vocab_size:
            tokenizer.pad_token = tokenizer.unk_token
            log.info(
                "%s: the padding token is beyond the vocabulary of %d; the unknown token is used",
                source.folder,
                tokenizer.vocab_size,
            )
    elif len(tokenizer) > rows:
        raise UsageError(
            f"{source.folder}: the tokenizer has {len(tokenizer)} ids, the model only {rows} embeddings"
        )
