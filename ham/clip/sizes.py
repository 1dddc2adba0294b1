"""The sizes of a CLIP: read from its tensors, from what its source records, and from the options for what neither says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ham.clip.layouts import Weights, check_facts, some
from ham.clip.positions import grid_of_patches, shown, size_of_grid
from ham.clip.tokenizer import VOCAB_SIZE
from ham.clip.towers import CLIPConfig, grid_of
from ham.runtime import UsageError, log

IMAGE_SIZE_PX = (384, 128)
NEEDED = {  # name: dimensions
    "visual.conv1.weight": 4,
    "visual.proj": 2,
    "visual.positional_embedding": 2,
    "ln_final.weight": 1,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "text_projection": 2,
}
# {width: heads} of the published CLIP vision transformers, S to bigG; heads are 64 wide but for H, g and bigG.
KNOWN_HEADS = {
    "vision": {384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    "text": {384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1280: 20},
}


def config_of(
    weights: Weights,
    tensors: Mapping[str, Tensor],
    image_size_px: Sequence[int] | None,
    stride_px: int | None,
    text_length: int | None = None,
    heads: tuple[int, int] | None = None,
) -> CLIPConfig:
    """Read the sizes from the tensors' shapes. Raises UsageError naming the tensors that a CLIP must have and these lack."""
    layers = check_parts(weights, tensors)
    facts = check_facts(weights)
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    text_width = len(tensors["ln_final.weight"])
    stride_px = stride_px or facts.get("stride_px") or patch
    if stride_px > patch:
        log.warning(
            "stride_px %d is larger than the patches of %d px in %s: some pixels are never seen",
            stride_px,
            patch,
            weights.path,
        )
    if image_size_px is None:
        image_size_px = facts.get("image_size_px") or own_size(weights, tensors, patch, stride_px)
    vision_heads, text_heads = heads_of(weights, width, text_width, heads)
    token_ids = tensors.get("token_embedding.token_ids")
    return CLIPConfig(
        image_size_px=tuple(image_size_px),
        patch_px=patch,
        stride_px=stride_px,
        embed_dim=tensors["visual.proj"].shape[1],
        vision_width=width,
        vision_layers=layers["visual.transformer"],
        vision_heads=vision_heads,
        text_width=text_width,
        text_layers=layers["transformer"],
        text_heads=text_heads,
        context_length=max(text_length or 0, len(tensors["positional_embedding"])),
        quick_gelu=facts.get("quick_gelu", True),
        vocab_size=len(tensors["token_embedding.weight"])
        if token_ids is None
        else facts.get("vocab_size", VOCAB_SIZE),
        token_ids=None if token_ids is None else tuple(token_ids.tolist()),
    )


def check_parts(weights: Weights, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the blocks of both towers. Raises UsageError when a tower is missing or is no vision transformer."""
    lacking = [name for name, dims in NEEDED.items() if name not in tensors or tensors[name].ndim != dims]
    layers = {side: count_blocks(tensors, side) for side in ("visual.transformer", "transformer")}
    lacking += [f"{side}.resblocks.*" for side, count in layers.items() if count == 0]
    if lacking:
        raise UsageError(
            f"{weights.path} ({weights.layout}): a CLIP tower is missing or is no vision transformer: no "
            f"{', '.join(lacking)}; found {some(tensors)}"
        )
    return layers


def heads_of(weights: Weights, width: int, text_width: int, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Return the attention heads of both towers: recorded, asked for, known from the width, or guessed with a warning.

    Raises UsageError when the source records other numbers than those asked for.
    """
    found = []
    for side, size, place in (("vision", width, 0), ("text", text_width, 1)):
        recorded = weights.facts.get(f"{side}_heads")
        wanted = None if asked is None else asked[place]
        if wanted is not None and recorded is not None and wanted != recorded:
            raise UsageError(
                f"{weights.path} records {recorded} {side} heads, --heads asks for {wanted}; leave --heads out"
            )
        known = recorded or wanted or KNOWN_HEADS[side].get(size)
        if known is None:
            known = max(1, size // 64)
            log.warning(
                "%s does not record its attention heads: %d is a guess for the %s tower of width %d; wrong heads give wrong "
                "features without any other sign. Give them with --heads, vision first",
                weights.path,
                known,
                side,
                size,
            )
        if size % known:
            raise UsageError(
                f"{weights.path}: a {side} tower of width {size} cannot be split over {known} attention heads; give "
                "the numbers of its training with --heads"
            )
        found.append(known)
    return found[0], found[1]


def own_size(
    weights: Weights, tensors: Mapping[str, Tensor], patch_px: int, stride_px: int
) -> tuple[int, int]:
    """Return the input size that positions were made for, where nothing records it: a person's checkpoint, else 384x128.

    Raises UsageError when no size can be concluded from the number of positions.
    """
    if not weights.person_sized:
        return IMAGE_SIZE_PX
    patches = len(tensors["visual.positional_embedding"]) - 1
    grid = grid_of_patches(patches)
    if grid is None:
        raise UsageError(
            f"{weights.path}: nothing records its input size, and {patches} patch positions at a stride of {stride_px} px fit "
            "no image that is 3, 2 or 1 times as high as wide; give the values of its training: --image-size-px "
            "'[384,128]' --stride-px 16"
        )
    size = size_of_grid(grid, patch_px, stride_px)
    if size != IMAGE_SIZE_PX:
        log.warning(
            "%s records no input size; its %d patch positions are those of %s images, which is used (--image-size-px sets "
            "another)",
            weights.path,
            patches,
            shown(size),
        )
    return size


def old_grid_of(weights: Weights, patches: int, config: CLIPConfig) -> tuple[int, int]:
    """Find the rows and columns that a position embedding of `patches` was made for.

    What the source records comes first. A checkpoint of persons that has as many patches as are asked for was made for them.
    Else the grid is a square (CLIP), or as asked for, or three or two times as high as wide. Raises UsageError.
    """
    facts, new = weights.facts, config.grid
    if "image_size_px" in facts:
        own = grid_of(facts["image_size_px"], config.patch_px, facts.get("stride_px", config.patch_px))
        if own[0] * own[1] == patches:
            return own
    asked = [new] if new[0] * new[1] == patches else []
    square = [grid for grid in (grid_of_patches(patches, (1,)),) if grid]
    upright = [grid for grid in (grid_of_patches(patches, (3, 2)),) if grid]
    candidates = [*asked, *square, *upright] if weights.person_sized else [*square, *asked, *upright]
    if candidates:
        return candidates[0]
    raise UsageError(
        f"{weights.path}: {patches} patch positions fit neither a square nor the {shown(new)} patches of "
        f"image_size_px {config.image_size_px}; give the values of its training: --image-size-px and --stride-px"
    )


def count_blocks(tensors: Mapping[str, Tensor], stem: str) -> int:
    prefix = f"{stem}.resblocks."
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
