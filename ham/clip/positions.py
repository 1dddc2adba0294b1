"""Position embeddings: which grid or length they were made for, and resizing them to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PERSON_RATIOS = (3, 2, 1)  # height / width of 384x128, 256x128 and square images


def upright_grid(patches: int, ratio: int) -> tuple[int, int]:
    """Return the grid (rows, columns) nearest to `patches` that is `ratio` times as high as wide."""
    columns = round((patches / ratio) ** 0.5)
    return ratio * columns, columns


def grid_of_patches(patches: int, ratios: Sequence[int] = PERSON_RATIOS) -> tuple[int, int] | None:
    """Return the grid with exactly `patches` patches in one of the ratios; no number fits two of 3, 2 and 1.

    None where no ratio fits, as with overlapping patches.
    """
    grids = [upright_grid(patches, ratio) for ratio in ratios]
    return next((grid for grid in grids if patches > 0 and grid[0] * grid[1] == patches), None)


def size_of_grid(grid: tuple[int, int], patch_px: int, stride_px: int) -> tuple[int, int]:
    """Return the smallest image (height, width) that has this grid of patches."""
    return patch_px + (grid[0] - 1) * stride_px, patch_px + (grid[1] - 1) * stride_px


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


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Resize a text position embedding [T, D] to [length, D]: linear along the tokens, ends not aligned.

    Shorter lengths keep the first positions, which is what a shorter text uses anyway. Source: as open_clip's model.py,
    resize_text_pos_embed (ICL, which uses 168 tokens, has not published its own).
    """
    if length <= len(positions):
        return positions[:length].contiguous()
    columns = positions.t()[None]  # [1, D, T]
    return F.interpolate(columns, size=length, mode="linear", align_corners=False)[0].t().contiguous()


def merge_long_clip_positions(kept: Tensor, stretched: Tensor) -> Tensor:
    """Merge the two position tables of Long-CLIP [248, D] into the one that its text tower adds up.

    The first 20 rows are those of CLIP (`positional_embedding`), all others the trained stretched ones
    (`positional_embedding_res`). Source: Long-CLIP, model/model_longclip.py, the masks of encode_text.
    """
    return torch.cat([kept[:LONG_CLIP_KEPT], stretched[LONG_CLIP_KEPT:]]).contiguous()


LONG_CLIP_KEPT = 20


def shown(grid: tuple[int, int]) -> str:
    """Return a grid or size as rows x columns."""
    return f"{grid[0]}x{grid[1]}"
