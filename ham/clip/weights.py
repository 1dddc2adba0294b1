"""Build a CLIP from sizes or from weights: check every tensor, resize the position embedding, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ham.clip.layouts import Weights, read_weights, refuse_unknown, some, write_tensors
from ham.clip.positions import resize_positions, resize_text_positions, shown
from ham.clip.sizes import config_of, old_grid_of
from ham.clip.towers import CLIP, LOGIT_SCALE, CLIPConfig
from ham.runtime import UsageError, log

FACTS = ("image_size_px", "stride_px", "vision_heads", "text_heads", "vocab_size", "quick_gelu")


def build_clip(config: CLIPConfig, seed: int = 0) -> CLIP:
    """Build a CLIP with random weights; the same seed gives the same weights. The global generator is left alone."""
    clip = without_memory(config)
    clip.load_state_dict(
        {
            name: torch.empty_like(value, device="cpu") if value.is_meta else value
            for name, value in clip.state_dict().items()
        },
        assign=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip.initialize()
    return clip


def without_memory(config: CLIPConfig) -> CLIP:
    """Build a CLIP whose weights have shapes only: drawing 150 M numbers to overwrite them takes seconds."""
    with torch.device("meta"):
        return CLIP(config)


def load_clip(
    source: str | Path,
    image_size_px: Sequence[int] | None = (384, 128),
    stride_px: int | None = 16,
    text_length: int | None = None,
    heads: tuple[int, int] | None = None,
    ignore_tensors: Sequence[str] = (),
) -> CLIP:
    """Load CLIP weights of any known layout at an input size and stride, in float32 on the CPU.

    source: an OpenAI `.pt` archive, a bare state dict (.safetensors, .pt), an open_clip or Hugging Face folder, Long-CLIP, an
    IRRA / RDE / HAM `.pth`, or our own checkpoint.
    image_size_px, stride_px: None takes what the source records (our checkpoints), else the size that the positions of an IRRA
    / RDE / HAM checkpoint were made for (192 patches: 384x128, 128: 256x128), else 384x128; the stride is then the patch.
    text_length: at least so many text positions, resized where the source has fewer. heads: attention heads of the vision and
    the text tower, for sources that do not record them; else they are known from the width, or width // 64 with a warning.
    ignore_tensors: names, or beginnings of names, of tensors that may be left out.
    Raises UsageError when a tensor of either tower is missing, has another shape, or is not part of a CLIP.
    """
    return clip_from_weights(
        read_weights(source, ignore_tensors), image_size_px, stride_px, text_length, heads
    )


def clip_from_weights(
    weights: Weights,
    image_size_px: Sequence[int] | None = (384, 128),
    stride_px: int | None = 16,
    text_length: int | None = None,
    heads: tuple[int, int] | None = None,
) -> CLIP:
    """Build the CLIP that tensors in OpenAI's names describe; see `load_clip`."""
    tensors = {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True).contiguous()
        for name, value in weights.clip.items()
    }
    config = config_of(weights, tensors, image_size_px, stride_px, text_length, heads)
    changes = resize_all_positions(weights, tensors, config)
    clip = without_memory(config)
    check_names_and_shapes(clip, tensors, weights)
    missing, _ = clip.load_state_dict(tensors, strict=False, assign=True)
    if missing:  # the temperature alone: IRRA drops it because its own is fixed
        clip.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
    log.info(
        "CLIP from %s (%s, %s): %d tensors loaded; missing: %s%s%s",
        weights.path,
        weights.layout,
        "QuickGELU" if config.quick_gelu else "GELU",
        len(tensors),
        some(missing),
        "".join(f"; {change}" for change in changes),
        f"; left for the heads: {some(weights.others)}" if weights.others else "",
    )
    return clip


def resize_all_positions(weights: Weights, tensors: dict[str, Tensor], config: CLIPConfig) -> list[str]:
    """Resize image and text positions in place where the model's sizes differ. Returns what was done, for the log."""
    changes = []
    positions = tensors["visual.positional_embedding"]
    old_grid = old_grid_of(weights, len(positions) - 1, config)
    new_grid = config.grid
    if old_grid != new_grid:
        tensors["visual.positional_embedding"] = resize_positions(positions, old_grid, new_grid)
        changes.append(f"positions resized from {shown(old_grid)} to {shown(new_grid)}")
        if weights.person_sized:
            log.warning(
                "%s was trained with %s patches and is used with %s (image_size_px %s): its positions are resized",
                weights.path,
                shown(old_grid),
                shown(new_grid),
                shown(config.image_size_px),
            )
    words = tensors["positional_embedding"]
    if config.context_length > len(words):
        tensors["positional_embedding"] = resize_text_positions(words, config.context_length)
        changes.append(f"text positions resized from {len(words)} to {config.context_length}")
    return changes


def check_names_and_shapes(clip: CLIP, tensors: Mapping[str, Tensor], weights: Weights) -> None:
    """Raise UsageError for tensors of the towers that are missing, unknown, or of another shape."""
    expected = clip.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)} in place of {tuple(expected[name].shape)}"
        for name, value in tensors.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if wrong:
        raise UsageError(f"{weights.path} ({weights.layout}): tensors of the wrong shape: {some(wrong, 3)}")
    lacking = sorted(expected.keys() - tensors.keys() - {"logit_scale"})
    if lacking:
        raise UsageError(
            f"{weights.path} ({weights.layout}): {len(lacking)} tensors of the CLIP towers are missing: "
            f"{some(lacking)}; both towers must be loaded whole"
        )
    unknown = [name for name in tensors if name not in expected]
    if unknown:
        refuse_unknown(weights.path, weights.layout, unknown)


def facts_of(clip: CLIP) -> dict[str, Any]:
    """Return what tensors' shapes do not say about a CLIP; checkpoints carry it."""
    config = replace(
        clip.config, vision_heads=clip.visual.transformer.heads, text_heads=clip.transformer.heads
    )
    return {name: value for name, value in asdict(config).items() if name in FACTS}


def save_clip(clip: CLIP, path: str | Path) -> Path:
    """Write a CLIP in OpenAI's names to a `.safetensors` file, or to `model.safetensors` in a folder. Returns the file."""
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / "model.safetensors"
    write_tensors(file, clip.state_dict(), facts_of(clip))
    return file
