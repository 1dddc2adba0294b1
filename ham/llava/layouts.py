"""The names under which LLaVA checkpoints store their tensors, mapped to one form: the original LLaVA's.

Knows names, no files and no tensors' contents. Original names: `model.embed_tokens`, `model.layers.N...`,
`model.norm`, `lm_head`, `model.mm_projector.{0,2}`, `model.vision_tower.vision_tower.vision_model...`, HAM's
`model.style_prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ham.runtime import UsageError

PROJECTOR = "model.mm_projector."
TOWER = "model.vision_tower.vision_tower.vision_model."
STYLES = "model.style_prompt.style_prompts"
EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

PREFIXES = re.compile(r"^(?:module\.|base_model\.model\.)+")
# The first pattern that matches names the tensor; {0}, {1} are the pattern's groups.
PATTERNS = [
    (re.compile(pattern), name)
    for pattern, name in (
        (
            r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..*)",
            TOWER + "{0}",
        ),
        (r"(?:model\.)?multi_modal_projector\.linear_1\.(weight|bias)", PROJECTOR + "0.{0}"),
        (r"(?:model\.)?multi_modal_projector\.linear_2\.(weight|bias)", PROJECTOR + "2.{0}"),
        (r"(?:model\.)?mm_projector\.(.*)", PROJECTOR + "{0}"),
        (r"(?:model\.)?image_newline", "model.image_newline"),
        (r"(?:model\.)?style_prompt\.style_prompts", STYLES),
        (r"(?:model\.)?language_model\.(?:model\.)?((?:embed_tokens|layers|norm)\..*)", "model.{0}"),
        (r"(?:model\.)?(?:language_model\.)?lm_head\.weight", HEAD),
    )
]


def original_name(name: str) -> str:
    """Return a tensor's name in the original LLaVA layout; a name that no layout knows comes back as it is."""
    name = PREFIXES.sub("", name)
    for pattern, form in PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            return form.format(*match.groups())
    return name


def hf_name(name: str) -> str:
    """Return the llava-hf name of a tensor of the original layout, in the spelling that all engines read."""
    if name.startswith(PROJECTOR):
        number, kind = name[len(PROJECTOR) :].split(".")
        return f"multi_modal_projector.linear_{1 if number == '0' else 2}.{kind}"
    if name.startswith(TOWER):
        return "vision_tower.vision_model." + name[len(TOWER) :]
    return "language_model." + name


def is_unused(name: str) -> bool:
    """Return whether a tensor plays no part in captioning: rotary tables, the separator of anyres rows, position ids."""
    return name.endswith(("rotary_emb.inv_freq", ".position_ids")) or name == "model.image_newline"


def module_name(name: str) -> str:
    """Return the parameter of the network that a tensor of the original layout fills."""
    if name.startswith(PROJECTOR):
        return "projector." + name[len(PROJECTOR) :]
    if name.startswith(TOWER):
        return "vision_tower." + name[len(TOWER) :]
    if name == STYLES:
        return "style_bank.prompts"
    return "llm." + name


def tower_name(name: str) -> str | None:
    """Return the original name of a tensor of a separate CLIP folder; None for text towers and projections."""
    match = re.fullmatch(r"(?:vision_model\.)?((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..*)", name)
    return TOWER + match.group(1) if match else None


def is_hf_layout(names: Iterable[str]) -> bool:
    """Return whether tensors have llava-hf's names. Raises UsageError when there is no projector of either layout."""
    plain = [PREFIXES.sub("", name) for name in names]
    if any("multi_modal_projector." in name for name in plain):
        return True
    if any("mm_projector." in name for name in plain):
        return False
    raise UsageError(
        "no projector among the weights (neither mm_projector nor multi_modal_projector): this is not a whole "
        "LLaVA checkpoint; a bare language model or a lone projector cannot be loaded"
    )
