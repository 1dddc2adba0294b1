"""Build a CLIP from sizes or from weights: check every tensor, resize the position embedding, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham.clip.layouts import Weights, read_weights, some, write_tensors
from ham.clip.tokenizer import VOCAB_SIZE
from ham.clip.towers import CLIP, LOGIT_SCALE, CLIPConfig, grid_of
from ham.runtime import UsageError, log

IMAGE_SIZE_PX = (384, 128)
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
    source: str | Path, image_size_px: Sequence[int] | None = (384, 128), stride_px: int | None = 16
) -> CLIP:
    """Load CLIP weights of any known layout at an input size and stride, in float32 on the CPU.

    source: an OpenAI `.pt` archive, a bare state dict (.safetensors, .pt), an open_clip or Hugging Face folder, an IRRA / RDE /
    HAM `.pth`, or our own checkpoint. Sizes come from the weights; heads are width // 64 unless the source says otherwise.
    image_size_px, stride_px: None takes what the source says (our checkpoints), else what fits the positions of an IRRA / RDE /
    HAM checkpoint (192 patches: 384x128), else 384x128; the stride is then the patch.
    Raises UsageError when a tensor of either tower is missing or has another shape.
    """
    return clip_from_weights(read_weights(source), image_size_px, stride_px)


def clip_from_weights(
    weights: Weights, image_size_px: Sequence[int] | None = (384, 128), stride_px: int | None = 16
) -> CLIP:
    """Build the CLIP that tensors in OpenAI's names describe; see `load_clip`."""
    tensors = {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True).contiguous()
        for name, value in weights.clip.items()
    }
    config = config_of(weights, tensors, image_size_px, stride_px)
    positions = tensors["visual.positional_embedding"]
    old_grid, new_grid = old_grid_of(weights, len(positions) - 1, config), config.grid
    tensors["visual.positional_embedding"] = resize_positions(positions, old_grid, new_grid)
    clip = without_memory(config)
    missing, unexpected = clip.load_state_dict(
        check_shapes(clip, tensors, weights), strict=False, assign=True
    )
    lacking = sorted(set(missing) - {"logit_scale"})  # IRRA drops it: its temperature is fixed
    if lacking:
        raise UsageError(
            f"{weights.path} ({weights.layout}): {len(lacking)} tensors of the CLIP towers are missing: "
            f"{some(lacking)}; both towers must be loaded whole"
        )
    if missing:
        clip.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
    resized = (
        "" if old_grid == new_grid else f"; positions resized from {shown(old_grid)} to {shown(new_grid)}"
    )
    beside = f"; left for the heads: {some(weights.others)}" if weights.others else ""
    log.info(
        "CLIP from %s (%s, %s): %d tensors loaded; missing: %s; unexpected: %s%s%s",
        weights.path,
        weights.layout,
        "QuickGELU" if config.quick_gelu else "GELU",
        len(tensors) - len(unexpected),
        some(missing),
        some(unexpected),
        resized,
        beside,
    )
    return clip


def config_of(
    weights: Weights,
    tensors: Mapping[str, Tensor],
    image_size_px: Sequence[int] | None,
    stride_px: int | None,
) -> CLIPConfig:
    """Read the sizes from the tensors' shapes. Raises UsageError naming the tensors that a CLIP must have and these lack."""
    needed = (
        "visual.conv1.weight",
        "visual.proj",
        "visual.positional_embedding",
        "ln_final.weight",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    )
    lacking = [name for name in needed if name not in tensors]
    layers = {side: count_blocks(tensors, side) for side in ("visual.transformer", "transformer")}
    lacking += [f"{side}.resblocks.*" for side, count in layers.items() if count == 0]
    if lacking:
        raise UsageError(
            f"{weights.path} ({weights.layout}): a CLIP tower is missing or is no vision transformer: no "
            f"{', '.join(lacking)}; found {some(tensors)}"
        )
    facts = weights.facts
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    token_ids = tensors.get("token_embedding.token_ids")
    stride_px = stride_px or facts.get("stride_px") or patch
    if stride_px > patch:
        log.warning(
            "stride_px %d is larger than the patches of %d px in %s: some pixels are never seen",
            stride_px,
            patch,
            weights.path,
        )
    if image_size_px is None:
        patches = len(tensors["visual.positional_embedding"]) - 1
        image_size_px = facts.get("image_size_px") or guessed_size(weights, patches, patch, stride_px)
    return CLIPConfig(
        image_size_px=tuple(image_size_px),
        patch_px=patch,
        stride_px=stride_px,
        embed_dim=tensors["visual.proj"].shape[1],
        vision_width=width,
        vision_layers=layers["visual.transformer"],
        vision_heads=facts.get("vision_heads"),
        text_width=len(tensors["ln_final.weight"]),
        text_layers=layers["transformer"],
        text_heads=facts.get("text_heads"),
        context_length=len(tensors["positional_embedding"]),
        quick_gelu=facts.get("quick_gelu", True),
        vocab_size=len(tensors["token_embedding.weight"])
        if token_ids is None
        else facts.get("vocab_size", VOCAB_SIZE),
        token_ids=None if token_ids is None else tuple(token_ids.tolist()),
    )


def old_grid_of(weights: Weights, patches: int, config: CLIPConfig) -> tuple[int, int]:
    """Find the rows and columns that a position embedding of `patches` was made for.

    What the source says about itself comes first. A checkpoint of persons that has as many patches as are asked for was made
    for them. Else the grid is a square (CLIP), or as asked for, or three or two times as high as wide. Raises UsageError.
    """
    facts, new = weights.facts, config.grid
    if "image_size_px" in facts:
        own = grid_of(facts["image_size_px"], config.patch_px, facts.get("stride_px", config.patch_px))
        if own[0] * own[1] == patches:
            return own
    if weights.person_sized and new[0] * new[1] == patches:
        return new
    for grid in (upright_grid(patches, 1), new, upright_grid(patches, 3), upright_grid(patches, 2)):
        if grid[0] * grid[1] == patches:
            return grid
    raise UsageError(
        f"{weights.path}: {patches} patch positions fit neither a square nor the {shown(new)} patches of "
        f"image_size_px {config.image_size_px}; give the image_size_px and stride_px of the weights' training"
    )


def resize_positions(positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding [1 + P, D] between grids: bilinear, corners not aligned, no antialias; CLS stays.

    deviation: the reference resizes only when the number of patches differs, so that 4x4 positions serve 8x2 patches unchanged;
    here the shape of the grid decides. Source: IRRA, model/clip_model.py, resize_pos_embed.
    """
    if old_grid == new_grid:
        return positions
    cls, patches = positions[:1], positions[1:]
    patches = patches.reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    patches = F.interpolate(patches, size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([cls, patches[0].flatten(1).t()]).contiguous()


def check_shapes(clip: CLIP, tensors: dict[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return the tensors. Raises UsageError naming those whose shape is not the model's."""
    expected = clip.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)} in place of {tuple(expected[name].shape)}"
        for name, value in tensors.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if wrong:
        raise UsageError(f"{weights.path} ({weights.layout}): tensors of the wrong shape: {some(wrong, 3)}")
    return tensors


def facts_of(clip: CLIP) -> dict[str, Any]:
    """Give what tensors' shapes do not say about a CLIP; checkpoints carry it."""
    config = replace(
        clip.config, vision_heads=clip.visual.transformer.heads, text_heads=clip.transformer.heads
    )
    return {name: value for name, value in asdict(config).items() if name in FACTS}


def save_clip(clip: CLIP, path: str | Path) -> Path:
    """Write a CLIP in OpenAI's names to a `.safetensors` file, or to `model.safetensors` in a folder; give the file's path."""
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / "model.safetensors"
    write_tensors(file, clip.state_dict(), facts_of(clip))
    return file


def count_blocks(tensors: Mapping[str, Tensor], stem: str) -> int:
    prefix = f"{stem}.resblocks."
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def upright_grid(patches: int, ratio: int) -> tuple[int, int]:
    """Give the grid nearest to `patches` that is `ratio` times as high as wide."""
    columns = round((patches / ratio) ** 0.5)
    return ratio * columns, columns


def guessed_size(weights: Weights, patches: int, patch_px: int, stride_px: int) -> tuple[int, int]:
    """Guess the input size of weights that do not say it; see `load_clip`."""
    for rows, columns in (upright_grid(patches, 3), upright_grid(patches, 2)):
        if weights.person_sized and rows * columns == patches:
            return patch_px + (rows - 1) * stride_px, patch_px + (columns - 1) * stride_px
    return IMAGE_SIZE_PX


def shown(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
