"""The names and configurations under which LLaVA checkpoints lie on disk, brought to one form: the original LLaVA's.

Knows names and JSON, no files and no tensors' contents. Original names: `model.embed_tokens`, `model.layers.N...`,
`model.norm`, `lm_head`, `model.mm_projector.{0,2}`, `model.vision_tower.vision_tower.vision_model...`, HAM's
`model.style_prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ham.runtime import UsageError

PROJECTOR = "model.mm_projector."
TOWER = "model.vision_tower.vision_tower.vision_model."
STYLES = "model.style_prompt.style_prompts"
EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
MODEL_TYPES = ("llava", "llava_llama")
PLAIN_TOWER = "openai/clip-vit-large-patch14-336"
CLIP_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}

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
    """Give a tensor's name in the original LLaVA layout; a name that no layout knows comes back as it is."""
    name = PREFIXES.sub("", name)
    for pattern, form in PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            return form.format(*match.groups())
    return name


def is_unused(name: str) -> bool:
    """Tell whether a tensor plays no part in captioning: rotary tables, the separator of anyres rows, position ids."""
    return name.endswith(("rotary_emb.inv_freq", ".position_ids")) or name == "model.image_newline"


def module_name(name: str) -> str:
    """Give the parameter of CaptionerModel that a tensor of the original layout fills."""
    if name.startswith(PROJECTOR):
        return "projector." + name[len(PROJECTOR) :]
    if name.startswith(TOWER):
        return "vision_tower." + name[len(TOWER) :]
    if name == STYLES:
        return "style_bank.prompts"
    return "llm." + name


def tower_name(name: str) -> str | None:
    """Give the original name of a tensor of a CLIP folder of its own; None for text towers and projections."""
    match = re.fullmatch(r"(?:vision_model\.)?((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..*)", name)
    return TOWER + match.group(1) if match else None


def is_hf_layout(names: Iterable[str]) -> bool:
    """Tell llava-hf from the original LLaVA by its tensors. Raises UsageError when there is no projector of either kind."""
    plain = [PREFIXES.sub("", name) for name in names]
    if any("multi_modal_projector." in name for name in plain):
        return True
    if any("mm_projector." in name for name in plain):
        return False
    raise UsageError(
        "no projector among the weights (neither mm_projector nor multi_modal_projector): this is not a whole "
        "LLaVA checkpoint; a bare language model or a lone projector cannot be loaded"
    )


def llava_config(config: dict[str, Any], hf_layout: bool) -> dict[str, Any]:
    """Give a config with the original LLaVA's keys, from either family.

    Raises UsageError for settings that this captioner cannot follow.
    """
    if hf_layout:
        config = config_from_hf(config)
    if config.get("model_type", "llava") not in MODEL_TYPES:
        raise UsageError(
            f"the checkpoint's config has model_type '{config['model_type']}'; expected one of "
            f"{', '.join(MODEL_TYPES)} (a Llama or vicuna language model)"
        )
    if config.get("mm_use_im_start_end"):
        raise UsageError(
            "the checkpoint's config sets mm_use_im_start_end: tokens around the image are not supported"
        )
    kind = config.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        raise UsageError(f"the checkpoint's config has mm_projector_type '{kind}'; expected mlp2x_gelu")
    if config.get("mm_vision_select_feature", "patch") != "patch":
        raise UsageError(
            f"the checkpoint's config has mm_vision_select_feature '{config['mm_vision_select_feature']}'; "
            "expected patch"
        )
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if not isinstance(config.get(key), int):
            raise UsageError(f"the checkpoint's config.json has no '{key}'; it is not a LLaVA-Llama config")
    return config


def is_clip_large(vision: dict[str, Any]) -> bool:
    """Tell whether a vision config is of CLIP-ViT-L/14-336, LLaVA's."""
    return all(vision.get(key) == value for key, value in CLIP_LARGE_336.items())


def config_from_hf(config: dict[str, Any]) -> dict[str, Any]:
    """Turn a llava-hf config (text_config, vision_config) into the original LLaVA's.

    llava-hf leaves out what equals transformers' defaults, which are Llama-7B's and CLIP-L's.
    """
    text = config.get("text_config", {})
    if text.get("model_type", "llama") != "llama":
        raise UsageError(
            f"the checkpoint's language model is '{text['model_type']}'; only Llama ones (vicuna) are supported"
        )
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    kept = {
        key: text[key]
        for key in (
            *defaults,
            "num_key_value_heads",
            "head_dim",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "initializer_range",
            "attention_bias",
            "mlp_bias",
        )
        if text.get(key) is not None
    }
    select = config.get("vision_feature_layer", -2)
    vision = {**CLIP_LARGE_336, **config.get("vision_config", {})}
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **defaults,
        **kept,
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch"
        if config.get("vision_feature_select_strategy", "default") == "default"
        else "full",
        "mm_vision_select_layer": select,
        "mm_vision_tower": PLAIN_TOWER if is_clip_large(vision) else None,
        "use_mm_proj": True,
        "vision_config": vision,
        # llava-hf configs never say how images are made square; the reference's way is taken.
        "image_aspect_ratio": "pad",
    }
