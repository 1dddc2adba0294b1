"""Which vision tower a checkpoint gets, and where its configuration and weights come from.

LLaVA-1.6 checkpoints carry a finetuned CLIP, but the reference loads the plain one that the config names, in training and in
captioning. So the plain one is the default, and which one is used is always logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ham.images import clip_processor
from ham.llava.config import check_tower
from ham.llava.layouts import TOWER, tower_name
from ham.llava.transformers_compat import tower_config
from ham.runtime import UsageError, log
from ham.tensor_files import index, read_settings

INSIDE = "checkpoint"


@dataclass(frozen=True)
class TowerSource:
    """name: what the manifest records. folder: a CLIP folder, or None for the tower inside the checkpoint."""

    name: str
    folder: Path | None


def find_tower(
    choice: str | None, checkpoint: Path, named: str | None, has_inside: bool, top: Path | None = None
) -> TowerSource:
    """Find the tower that the user chose, or the plain one that the checkpoint names.

    choice: None, "checkpoint", a folder, or a Hugging Face name (which may be downloaded, because the user asks for it).
    named: the config's mm_vision_tower: looked for relative to the checkpoint and to the adapter or LoRA `top`, as a path, in
    `vision_tower/` beside the weights, and in the local Hugging Face cache, never downloaded.
    Raises UsageError naming the places when it is nowhere.
    """
    if choice == INSIDE:
        if not has_inside:
            raise UsageError(
                f"{checkpoint}: vision tower 'checkpoint' was requested, but there is none among its weights; give "
                "the folder of a CLIP vision tower"
            )
        return TowerSource(INSIDE, None)
    if choice is not None:
        if (Path(choice) / "config.json").is_file():
            choice = str(Path(choice).resolve())
        folder = (
            Path(choice)
            if (Path(choice) / "config.json").is_file()
            else cached_folder(choice, may_download=True)
        )
        if folder is None:
            raise UsageError(
                f"vision tower '{choice}': no folder with a config.json, and no Hugging Face model that can be downloaded"
            )
        return TowerSource(choice, folder)
    if (
        named is None and has_inside
    ):  # llava-hf with a tower that is not CLIP-L: there is no plain one to take
        log.warning("%s names no vision tower; the one inside the checkpoint is used", checkpoint)
        return TowerSource(INSIDE, None)
    folders = [checkpoint] if top is None or top == checkpoint else [checkpoint, top]
    places = [folder / named for folder in folders] + [Path(named)] if named else []
    places = list(dict.fromkeys([*places, *(folder / "vision_tower" for folder in folders)]))
    for place in places:
        if (place / "config.json").is_file():
            return TowerSource(named or str(place), place)
    folder = cached_folder(named, may_download=False) if named else None
    if folder is None:
        inside = "'checkpoint' for the (finetuned) one inside it, or " if has_inside else ""
        raise UsageError(
            f"{checkpoint}: its vision tower '{named}' is neither a folder (looked for {', '.join(map(str, places))}) "
            f"nor in the local Hugging Face cache; set the vision tower to {inside}the folder of the plain CLIP tower"
        )
    return TowerSource(named, folder)


def plain_tower_folder(checkpoint: Path, named: str | None) -> Path | None:
    """Find the folder of the plain tower that a checkpoint names; None when it is not here."""
    try:
        return find_tower(None, checkpoint, named, has_inside=False).folder
    except UsageError:
        return None


def cached_folder(name: str, may_download: bool) -> Path | None:
    """Find a Hugging Face model in the local cache, or download it when that is asked for; None when it cannot be had."""
    try:
        return Path(
            snapshot_download(
                name,
                local_files_only=not may_download,
                allow_patterns=["config.json", "preprocessor_config.json", "*.safetensors", "*.bin"],
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None


def tower_settings(
    source: TowerSource,
    config: dict[str, Any],
    shapes: Callable[[], dict[str, tuple[int, ...]]],
    named_folder: Path | None,
) -> dict[str, Any]:
    """Return the tower's CLIP configuration, checked: its folder's, the llava-hf config's, or one inferred from shapes.

    named_folder: the plain tower of the checkpoint, if it is there; the tower inside has the same shape.
    """
    if source.folder is not None:
        return checked_settings(read_settings(source.folder / "config.json"), source.folder)
    if config.get("vision_config"):
        return checked_settings(config["vision_config"], "config.json")
    if named_folder is not None:
        return checked_settings(read_settings(named_folder / "config.json"), named_folder)
    return inferred_settings(shapes())


def checked_settings(config: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """Return the vision tower's settings of a CLIP config of any kind. Raises UsageError for impossible values."""
    vision = config.get("vision_config", config)
    if not isinstance(vision, dict):
        raise UsageError(f"{where}: vision_config is {vision!r:.60}; expected an object")
    settings = tower_config(config)
    check_tower(settings, str(where))
    return settings


def inferred_settings(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Infer a CLIP tower's configuration from its tensors' shapes; heads are 64 wide, as in every OpenAI CLIP."""
    width = shapes[TOWER + "embeddings.class_embedding"][0]
    patch = shapes[TOWER + "embeddings.patch_embedding.weight"][-1]
    side = round((shapes[TOWER + "embeddings.position_embedding.weight"][0] - 1) ** 0.5)
    layers = {
        name.split(".encoder.layers.")[1].split(".")[0] for name in shapes if ".encoder.layers." in name
    }
    if width % 64:
        raise UsageError(
            f"the vision tower inside the checkpoint is {width} wide, and nothing records how many heads it has; put "
            "its config.json into vision_tower/ beside the weights"
        )
    log.info(
        "the vision tower's configuration is inferred from its tensors: width %d, %d layers, %d px",
        width,
        len(layers),
        side * patch,
    )
    return tower_config(
        {
            "hidden_size": width,
            "num_attention_heads": width // 64,
            "num_hidden_layers": len(layers),
            "patch_size": patch,
            "image_size": side * patch,
            "intermediate_size": shapes[TOWER + "encoder.layers.0.mlp.fc1.weight"][0],
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        }
    )


def image_processor_config(size_px: int) -> dict[str, Any]:
    """Return the preprocessor_config.json of a CLIP vision tower, which the reference's loader needs beside it."""
    return clip_processor(
        crop_size={"height": size_px, "width": size_px},
        do_center_crop=True,
        feature_extractor_type="CLIPFeatureExtractor",
        image_processor_type="CLIPImageProcessor",
        resample=3,
        size={"shortest_edge": size_px},
    )


def tower_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the vision tower's tensors of a CLIP folder under their names in the original LLaVA layout."""
    for name, tensor in index(folder).stream(lambda name: tower_name(name) is not None):
        yield tower_name(name), tensor
