"""Find and load an image-text-to-text model of transformers: by content, frozen, without running code from the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ham.records import read_json
from ham.runtime import UsageError
from ham.vlm.prompts import chat_template_of

# Modules between vision tower and language model, by their names in transformers; the paper trains this part.
PROJECTORS = ("visual.merger", "multi_modal_projector", "connector", "vision_projection", "mlp1")


@dataclass
class VisionLanguageModel:
    """A loaded model: network (frozen, eval), its processor, the ids that end an answer, and the folder it came from."""

    network: nn.Module
    processor: Any
    end_ids: tuple[int, ...]
    folder: Path

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def width(self) -> int:
        """Width D of the language model's embeddings."""
        return self.network.get_input_embeddings().embedding_dim


def is_vision_language_model(folder: str | Path) -> bool:
    """Return whether a folder's config.json names a model that transformers maps to image-text-to-text."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN
    except ImportError:
        return False  # transformers 4.31 has no such models

    config = Path(folder) / "config.json"
    if not config.is_file():
        return False
    settings = read_json(config)
    return isinstance(settings, dict) and settings.get("model_type") in KNOWN


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    max_pixels: int | None = None,
    attention: str | None = None,
) -> VisionLanguageModel:
    """Load network and processor from a folder.

    max_pixels: the largest number of pixels an image is resized to, for processors with variable resolution (Qwen); None
    keeps the processor's own. attention: transformers' attn_implementation; None is its default. Raises UsageError naming
    what the folder lacks.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(folder)
    settings = read_json(folder / "config.json")
    if "auto_map" in settings:
        raise UsageError(
            f"{folder}: its config asks for Python code of its own (auto_map), which is never run here"
        )
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, **options)
        with whole_weights():
            network = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, attn_implementation=attention, **options
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UsageError(
            f"{folder}: transformers cannot load it: {' '.join(str(error).split())[:300]}"
        ) from None
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{folder}: holds a {type(processor).__name__}, expected a processor with tokenizer and images"
        )
    image_token_of(network.config, folder)
    chat_template_of(processor, folder)
    if max_pixels is not None:
        limit_pixels(processor, max_pixels, folder)
    network.requires_grad_(False)
    network.eval().to(device)
    return VisionLanguageModel(network, processor, end_ids_of(network, processor), folder)


@contextmanager
def whole_weights() -> Iterator[None]:
    """Build whole models inside the block also under ZeRO-3, where transformers would shard them from the start.

    Styles, checks and digests need the whole model; DeepSpeed shards it afterwards, when the trainer hands it over.
    """
    from transformers.integrations import deepspeed

    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def image_token_of(config: Any, folder: Any = "the model") -> int:
    """Return the id that stands for image features. Raises UsageError for a model without one."""
    for name in ("image_token_id", "image_token_index"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise UsageError(
        f"{folder}: its config has neither image_token_id nor image_token_index; expected a model that takes images as "
        "tokens of the prompt"
    )


def end_ids_of(network: nn.Module, processor: Any) -> tuple[int, ...]:
    """Collect the ids that end an answer: the generation config's, else the tokenizer's."""
    found = getattr(network.generation_config, "eos_token_id", None)
    ids = list(found) if isinstance(found, list | tuple) else [] if found is None else [found]
    own = processor.tokenizer.eos_token_id
    if own is not None and own not in ids:
        ids.append(own)
    if not ids:
        raise UsageError(
            "neither generation_config.json nor the tokenizer names an end token; captions would never stop"
        )
    return tuple(int(one) for one in ids)


def limit_pixels(processor: Any, max_pixels: int, folder: Any) -> None:
    """Set the pixel budget of a processor with variable resolution."""
    images = processor.image_processor
    size = getattr(images, "size", None) or {}
    if "longest_edge" not in size or "shortest_edge" not in size:
        raise UsageError(
            f"{folder}: --max_pixels {max_pixels}, but its processor resizes to a fixed size ({dict(size)}); leave the "
            "option out"
        )
    smallest = int(size["shortest_edge"])
    if max_pixels < smallest:
        raise UsageError(
            f"--max_pixels {max_pixels} is below the processor's smallest image of {smallest} pixels"
        )
    images.size = {"shortest_edge": smallest, "longest_edge": max_pixels}


def projector_names(network: nn.Module, wanted: str | None = None) -> list[str]:
    """Return the full names of the modules that train beside the styles.

    wanted: comma-separated ends of module names; None looks for the usual ones. Raises UsageError listing the candidates.
    """
    ends = [name.strip() for name in wanted.split(",")] if wanted else list(PROJECTORS)
    names = [name for name, _ in network.named_modules()]
    found = [name for name in names if any(name == end or name.endswith("." + end) for end in ends)]
    if not found:
        outer = sorted({".".join(name.split(".")[:3]) for name in names if name.count(".") >= 1})[:20]
        raise UsageError(
            f"no module ends with {', '.join(ends)}; name the projector of {type(network).__name__} with "
            f"--projector_modules. Modules: {', '.join(outer)}"
        )
    return found
