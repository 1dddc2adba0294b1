"""open_clip's open_clip_config.json: what it says about a CLIP, and writing one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ham.clip.hugging_face import section
from ham.runtime import UsageError

# Settings of open_clip that change the computation, with the values that a plain CLIP has.
PLAIN_VISION = {
    "ls_init_value": (None,),
    "attentional_pool": (False, None, ""),
    "global_average_pool": (False,),
    "pool_type": ("tok",),
    "final_ln_after_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "input_patchnorm": (False,),
    "timm_model_name": (None, ""),
}
PLAIN_TEXT = {
    "ls_init_value": (None,),
    "hf_model_name": (None, ""),
    "pool_type": ("argmax",),
    "no_causal_mask": (False,),
    "embed_cls": (False,),
    "proj_bias": (False,),
    "proj_type": ("linear",),
}


def facts_of_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return head counts and the activation. Raises UsageError for settings that a plain CLIP does not have."""
    model = section(config, "model_cfg", where)
    if not model:
        return {}
    vision = section(model, "vision_cfg", where)
    text = section(model, "text_cfg", where)
    for part, plain in ((vision, PLAIN_VISION), (text, PLAIN_TEXT)):
        for name, accepted in plain.items():
            if part.get(name, accepted[0]) not in accepted:
                raise UsageError(
                    f"{where}: {name} is {part[name]!r}; only plain CLIP vision transformers are supported "
                    f"({name} {accepted[0]!r})"
                )
    facts: dict[str, Any] = {"quick_gelu": bool(model.get("quick_gelu", False))}
    width = vision.get("width")
    head_width = vision.get("head_width", 64)
    if isinstance(width, int) and isinstance(head_width, int) and head_width > 0:
        facts["vision_heads"] = width // head_width
    if "heads" in text:
        facts["text_heads"] = text["heads"]
    return facts


def config_for_open_clip(
    config: Any, vision_heads: int, text_heads: int, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> dict[str, Any]:
    """Build the open_clip_config.json of a folder from a `CLIPConfig`."""
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": config.quick_gelu,
            "vision_cfg": {
                "image_size": list(config.image_size_px),
                "layers": config.vision_layers,
                "width": config.vision_width,
                "head_width": config.vision_width // vision_heads,
                "patch_size": config.patch_px,
            },
            "text_cfg": {
                "context_length": config.context_length,
                "vocab_size": config.vocab_size,
                "width": config.text_width,
                "heads": text_heads,
                "layers": config.text_layers,
            },
        },
        "preprocess_cfg": {"mean": list(mean), "std": list(deviation), "resize_mode": "squash"},
    }
