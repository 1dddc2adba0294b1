"""What style tuning will need, before a GPU is rented: parameters, and bytes per GPU for each part, from shapes alone.

Nothing is loaded; a checkpoint's `config.json` is enough. Parameters are counted exactly (a test compares them with built
models); activations are a model of the dominant terms, stated at `activation_bytes`, and good to some tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
# The tower that LLaVA names in `mm_vision_tower`: CLIP-ViT-L/14 at 336 pixels.
CLIP_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "image_size": 336,
}


@dataclass(frozen=True)
class Settings:
    """The choices that memory depends on. dtype_bytes: of frozen weights and of activations (2 for bf16)."""

    num_styles: int
    style_tokens: int = 10
    batch_size: int = 20
    text_tokens: int = 160
    gpus: int = 4
    zero_stage: int = 3
    offload: bool = False
    gradient_checkpointing: bool = True
    dtype_bytes: int = 2


def count_parameters(
    llm: dict[str, Any], vision: dict[str, Any], num_styles: int, style_tokens: int
) -> dict[str, int]:
    """Count the parameters of each part from the Llama config and the CLIP vision config (dictionaries as in config.json)."""
    width = llm["hidden_size"]
    inner = llm["intermediate_size"]
    vocab = llm["vocab_size"]
    head = llm.get("head_dim") or width // llm["num_attention_heads"]
    keys = head * llm.get("num_key_value_heads", llm["num_attention_heads"])
    queries = head * llm["num_attention_heads"]
    layer = 2 * width * queries + 2 * width * keys + 3 * width * inner + 2 * width
    tables = vocab * width * (1 if llm.get("tie_word_embeddings") else 2)
    v_width = vision["hidden_size"]
    v_inner = vision["intermediate_size"]
    patch = vision["patch_size"]
    channels = vision.get("num_channels", 3)
    positions = (vision["image_size"] // patch) ** 2 + 1
    v_layer = 4 * (v_width**2 + v_width) + 2 * v_width * v_inner + v_inner + v_width + 4 * v_width
    v_ends = (
        channels * patch**2 * v_width + v_width + positions * v_width + 4 * v_width
    )  # patches, CLS, positions, two norms
    return {
        "language model": llm["num_hidden_layers"] * layer + tables + width,
        "vision tower": vision["num_hidden_layers"] * v_layer + v_ends,
        "projector": v_width * width + width + width * width + width,
        "style prompts": num_styles * style_tokens * width,
    }


def activation_bytes(llm: dict[str, Any], image_tokens: int, settings: Settings) -> int:
    """Estimate the peak of activations on one GPU.

    With checkpointing each layer keeps its input, B*L*D, and one layer at a time is recomputed whole: about
    B*L*(6 D + 2 keys/values + 3 inner) with fused attention. Without, every layer keeps that. Logits are held in the working
    dtype and once more in float32 with their gradient: B*L*V*(dtype + 8).
    """
    tokens = settings.batch_size * (image_tokens + settings.style_tokens + settings.text_tokens)
    width, inner = llm["hidden_size"], llm["intermediate_size"]
    whole_layer = tokens * (8 * width + 3 * inner) * settings.dtype_bytes
    layers = llm["num_hidden_layers"]
    inputs = layers * tokens * width * settings.dtype_bytes
    kept = inputs + whole_layer if settings.gradient_checkpointing else layers * whole_layer
    return kept + tokens * llm["vocab_size"] * (settings.dtype_bytes + 8)


def estimate(llm: dict[str, Any], vision: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Compute parameters per part, GiB per GPU for weights, gradients, optimizer and activations, and GiB of the host."""
    counts = count_parameters(llm, vision, settings.num_styles, settings.style_tokens)
    return estimate_from(counts, llm, (vision["image_size"] // vision["patch_size"]) ** 2, settings)


def estimate_from(
    counts: dict[str, int], llm: dict[str, Any], image_tokens: int, settings: Settings
) -> dict[str, Any]:
    """Compute the estimate from parameters per part, the language model's config and tokens per image."""
    trained = counts["projector"] + counts["style prompts"]
    total = sum(counts.values())
    shards = settings.gpus
    weights = total * settings.dtype_bytes / (shards if settings.zero_stage == 3 else 1)
    gradients = trained * settings.dtype_bytes / (shards if settings.zero_stage >= 2 else 1)
    # AdamW in float32: master weight and two moments.
    optimizer = trained * 12 / (shards if settings.zero_stage >= 1 else 1)
    host = (weights + optimizer) if settings.offload else 0.0
    layer_now = (
        counts["language model"] / llm["num_hidden_layers"] * settings.dtype_bytes
    )  # gathered while it computes
    on_gpu = {
        "weights_gib": (
            2 * layer_now if settings.offload else weights + (layer_now if settings.zero_stage == 3 else 0)
        )
        / GIB,
        "gradients_gib": gradients / GIB,
        "optimizer_gib": 0.0 if settings.offload else optimizer / GIB,
        "activations_gib": activation_bytes(llm, image_tokens, settings) / GIB,
    }
    return {
        "parameters": counts,
        "trained_parameters": trained,
        "trained_pct": 100 * trained / total,
        **on_gpu,
        "gpu_total_gib": sum(on_gpu.values()),
        "host_per_gpu_gib": host / GIB,
        "adapter_on_disk_gib": trained * 4 / GIB,
    }


def as_table(result: dict[str, Any], settings: Settings) -> str:
    """Format an estimate for a terminal."""
    lines = [f"{name:<18}{count / 1e6:>12,.1f} M parameters" for name, count in result["parameters"].items()]
    lines.append(
        f"{'trained':<18}{result['trained_parameters'] / 1e6:>12,.1f} M parameters ({result['trained_pct']:.2f} %)"
    )
    how = f"ZeRO-{settings.zero_stage}" if settings.zero_stage else "no DeepSpeed"
    how += " with offload" if settings.offload else ""
    checkpointing = "on" if settings.gradient_checkpointing else "off"
    lines.append(
        f"\nper GPU, {settings.gpus} GPU(s), {how}, batch {settings.batch_size}, "
        f"gradient checkpointing {checkpointing}:"
    )
    lines += [
        f"  {name.removesuffix('_gib').replace('_', ' '):<22}{result[name]:>8.2f} GiB"
        for name in (
            "weights_gib",
            "gradients_gib",
            "optimizer_gib",
            "activations_gib",
            "gpu_total_gib",
            "host_per_gpu_gib",
            "adapter_on_disk_gib",
        )
    ]
    return "\n".join(lines)
