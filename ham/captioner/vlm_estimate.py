"""What style tuning of a `vlm` model will need: parameters counted on the meta device, image tokens from its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ham.captioner.estimate import Settings, as_table, estimate_from
from ham.runtime import UsageError
from ham.vlm.load import image_token_of, limit_pixels, projector_names, whole_weights

PEDESTRIAN_PX = (128, 384)  # width, height of the image that the number of image tokens is taken from
VISION = ("visual", "vision_tower", "vision_model")


def estimate_vlm(
    folder: str | Path, settings: Settings, max_pixels: int | None, projector_modules: str | None
) -> str:
    """Format the estimate of one model folder; reads its configuration and processor, loads no weights."""
    network, processor = empty_network(folder)
    if max_pixels is not None:
        limit_pixels(processor, max_pixels, folder)
    counts = count_parts(network, projector_modules, settings)
    llm = network.config.get_text_config().to_dict()
    tokens = image_tokens(network, processor)
    width, height = PEDESTRIAN_PX
    note = f"\n  {tokens} tokens for an image of {width}x{height} pixels; larger ones take more up to --max_pixels"
    return as_table(estimate_from(counts, llm, tokens, settings), settings) + note


def empty_network(folder: str | Path) -> tuple[Any, Any]:
    """Build a model without weights (meta device) and its processor. Raises UsageError naming the folder."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        processor = AutoProcessor.from_pretrained(folder, **options)
        with whole_weights(), torch.device("meta"):
            network = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UsageError(
            f"{folder}: transformers cannot read it: {' '.join(str(error).split())[:300]}"
        ) from None
    return network, processor


def count_parts(
    network: torch.nn.Module, projector_modules: str | None, settings: Settings
) -> dict[str, int]:
    """Count the parameters of each part, shared ones once."""
    projectors = projector_names(network, projector_modules)
    counts = {"language model": 0, "vision tower": 0, "projector": 0}
    for name, parameter in network.named_parameters():
        if any(name.startswith(f"{projector}.") for projector in projectors):
            part = "projector"
        elif set(VISION) & set(name.split(".")):
            part = "vision tower"
        else:
            part = "language model"
        counts[part] += parameter.numel()
    width = network.get_input_embeddings().embedding_dim
    return counts | {"style prompts": settings.num_styles * settings.style_tokens * width}


def image_tokens(network: torch.nn.Module, processor: Any) -> int:
    """Count the tokens of one pedestrian image."""
    text = getattr(processor, "image_token", None) or processor.tokenizer.convert_ids_to_tokens(
        image_token_of(network.config)
    )
    ids = processor(text=[text], images=[Image.new("RGB", PEDESTRIAN_PX)], return_tensors="pt")["input_ids"]
    return int((ids == image_token_of(network.config)).sum())
