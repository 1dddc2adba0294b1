"""config.json of LLaVA checkpoints, mapped to one form (the original LLaVA's keys) and checked before anything is built.

Knows JSON values, no files and no tensors.
"""

from __future__ import annotations

from typing import Any

from ham.runtime import UsageError

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
LLAMA_7B = {  # transformers' defaults, which llava-hf configs leave out
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
OPTIONAL_TEXT_KEYS = (
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "initializer_range",
    "attention_bias",
    "mlp_bias",
)
ROTARY_KINDS = ("default", "linear", "dynamic")
# key -> largest sensible value; a larger one is a damaged file, and building such a model would take the machine's memory
COUNTS = {
    "hidden_size": 65_536,
    "intermediate_size": 1_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
    "vocab_size": 10_000_000,
}
OPTIONAL_COUNTS = {
    "num_key_value_heads": 1_024,
    "head_dim": 4_096,
    "max_position_embeddings": 100_000_000,
    "mm_hidden_size": 65_536,
    "tokenizer_model_max_length": 10**30,  # some tokenizers write 1e30 for "no limit"
}
TOWER_COUNTS = {
    "hidden_size": 65_536,
    "intermediate_size": 1_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
    "image_size": 10_000,
    "patch_size": 10_000,
}
TOWER_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
HAM_KEYS = {
    "prompt": str,
    "template": str,
    "vision_tower": str,
    "style_tokens": int,
    "num_styles": int,
    "first_style_token": int,
    "vocab_size": int,
    "max_length": int,
}


def llava_config(config: dict[str, Any], hf_layout: bool) -> dict[str, Any]:
    """Return a config with the original LLaVA's keys, from either family.

    Raises UsageError for settings that this captioner cannot follow and for values that no model can have.
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
    for key, only, default in (
        ("mm_projector_type", "mlp2x_gelu", "linear"),
        ("mm_vision_select_feature", "patch", "patch"),
        ("hidden_act", "silu", "silu"),
    ):
        if config.get(key, default) != only:
            raise UsageError(
                f"the checkpoint's config has {key} '{config.get(key, default)}'; expected {only}"
            )
    check_language_model(config)
    check_multimodal(config)
    return config


def check_language_model(config: dict[str, Any]) -> None:
    """Raise UsageError for sizes and settings of the language model that no model can have."""
    for key, most in COUNTS.items():
        check_count(config, key, most)
    for key, most in OPTIONAL_COUNTS.items():
        if config.get(key) is not None:
            check_count(config, key, most)
    for key in ("rms_norm_eps", "rope_theta", "initializer_range"):
        value = config.get(key)
        if value is not None and not (is_number(value) and value > 0):
            raise wrong(key, value, "a number above 0")
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        if config.get(key) is not None and not isinstance(config[key], bool):
            raise wrong(key, config[key], "true or false")
    heads = config["num_attention_heads"]
    width = config["hidden_size"]
    if config.get("head_dim") is None and width % heads:
        raise UsageError(
            f"the checkpoint's config has hidden_size {width}, not divisible by its {heads} heads"
        )
    if (config.get("head_dim") or width // heads) % 2:
        raise UsageError(
            f"the checkpoint's config has heads {width // heads} wide; rotary positions need an even width"
        )
    groups = config.get("num_key_value_heads") or heads
    if heads % groups:
        raise UsageError(
            f"the checkpoint's config has {heads} attention heads, not divisible by its {groups} key-value heads"
        )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        check_token(key, config.get(key), config["vocab_size"])
    for key in ("rope_scaling", "rope_parameters"):
        check_rotary(key, config.get(key))


def check_token(key: str, value: Any, vocab_size: int) -> None:
    """Raise UsageError for a special token that is not in the vocabulary; -1 and null mean none."""
    for one in value if isinstance(value, list) and key == "eos_token_id" else [value]:
        if one is not None and not (is_whole(one) and -1 <= one < vocab_size):
            raise wrong(key, value, f"a token id below the vocab_size of {vocab_size}")


def check_rotary(key: str, value: Any) -> None:
    """Raise UsageError for rotary settings that are damaged or of an unknown kind."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise wrong(key, value, "an object with its type and factor")
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in ROTARY_KINDS:
        raise UsageError(
            f"the checkpoint's config has {key} of type {kind!r:.60}; expected one of {', '.join(ROTARY_KINDS)}"
        )
    factor = value.get("factor")
    if kind != "default" and not (is_number(factor) and factor >= 1):
        raise wrong(f"{key}.factor", factor, "a number of at least 1")
    theta = value.get("rope_theta")
    if theta is not None and not (is_number(theta) and theta > 0):
        raise wrong(f"{key}.rope_theta", theta, "a number above 0")


def check_multimodal(config: dict[str, Any]) -> None:
    """Raise UsageError for wrong kinds of values among the settings that LLaVA and this captioner add."""
    for key in ("mm_vision_tower", "image_aspect_ratio", "tokenizer_padding_side"):
        if config.get(key) is not None and not isinstance(config[key], str):
            raise wrong(key, config[key], "text")
    layer = config.get("mm_vision_select_layer", -2)
    if not is_whole(layer):
        raise wrong("mm_vision_select_layer", layer, "a whole number, such as -2")
    ham = config.get("ham")
    if ham is None:
        return
    if not isinstance(ham, dict):
        raise wrong("ham", ham, "an object")
    for key, kind in HAM_KEYS.items():
        value = ham.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise wrong(f"ham.{key}", value, "text" if kind is str else "a whole number")
        least = 0 if key == "num_styles" else 1
        if kind is int and value is not None and value < least:
            raise wrong(f"ham.{key}", value, f"a whole number of at least {least}")


def check_tower(config: dict[str, Any], where: str) -> None:
    """Raise UsageError for a vision tower's config that no CLIP can have. where: the file, for the message."""
    try:
        for key, most in TOWER_COUNTS.items():
            check_count(config, key, most)
        if config["hidden_size"] % config["num_attention_heads"]:
            raise UsageError(
                f"hidden_size {config['hidden_size']} is not divisible by its {config['num_attention_heads']} heads"
            )
        if config["image_size"] < config["patch_size"]:
            raise UsageError(f"image_size {config['image_size']} is below patch_size {config['patch_size']}")
        if config.get("num_channels", 3) != 3:
            raise wrong("num_channels", config["num_channels"], "3")
        epsilon = config.get("layer_norm_eps", 1e-5)
        if not (is_number(epsilon) and epsilon > 0):
            raise wrong("layer_norm_eps", epsilon, "a number above 0")
        if config.get("hidden_act", "quick_gelu") not in TOWER_ACTIVATIONS:
            raise wrong("hidden_act", config["hidden_act"], f"one of {', '.join(TOWER_ACTIVATIONS)}")
    except UsageError as error:
        raise UsageError(f"{where}: the vision tower's config: {error}") from None


def check_count(config: dict[str, Any], key: str, most: int) -> None:
    """Raise UsageError unless a setting is a whole number from 1 to `most`."""
    value = config.get(key)
    if value is None:
        raise UsageError(f"the checkpoint's config.json has no '{key}'; it is not a LLaVA-Llama config")
    if not is_whole(value) or not 1 <= value <= most:
        raise wrong(key, value, f"a whole number from 1 to {most:,}")


def is_whole(value: Any) -> bool:
    """Return whether a JSON value is a whole number (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def wrong(key: str, value: Any, expected: str) -> UsageError:
    """Return the error that names a setting, what was found and what was expected."""
    return UsageError(f"the checkpoint's config has '{key}': {value!r:.60}; expected {expected}")


# --------------------------------------------------------------------------------------------------------------- llava-hf


def is_clip_large(vision: dict[str, Any]) -> bool:
    """Return whether a vision config is of CLIP-ViT-L/14-336, LLaVA's."""
    return all(vision.get(key) == value for key, value in CLIP_LARGE_336.items())


def config_from_hf(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a llava-hf config (text_config, vision_config) into the original LLaVA's."""
    for key in ("text_config", "vision_config"):
        if not isinstance(config.get(key, {}), dict):
            raise wrong(key, config[key], "an object")
    text = config.get("text_config", {})
    if text.get("model_type", "llama") != "llama":
        raise UsageError(
            f"the checkpoint's language model is '{text['model_type']}'; only Llama ones (vicuna) are supported"
        )
    layer = config.get("vision_feature_layer", -2)
    if not is_whole(layer):
        raise wrong("vision_feature_layer", layer, "one whole number, such as -2")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise wrong("vision_feature_select_strategy", strategy, "default")
    kept = {key: text[key] for key in (*LLAMA_7B, *OPTIONAL_TEXT_KEYS) if text.get(key) is not None}
    vision = {**CLIP_LARGE_336, **config.get("vision_config", {})}
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **LLAMA_7B,
        **kept,
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch" if strategy == "default" else "full",
        "mm_vision_select_layer": layer,
        "mm_vision_tower": PLAIN_TOWER if is_clip_large(vision) else None,
        "use_mm_proj": True,
        "vision_config": vision,
        # llava-hf configs never record how images are made square; the reference's way is taken.
        "image_aspect_ratio": "pad",
        **({"ham": config["ham"]} if "ham" in config else {}),
    }
