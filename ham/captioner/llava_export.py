"""Write a captioner as an ordinary llava-hf folder in which each style is K added tokens.

transformers, vLLM and SGLang run such a folder as it is; `style` is a variable of its chat template. Tensors are streamed, one
shard in memory at a time. Before the folder appears it is compared with our own engine (ham/captioner/export_check.py).

    ids      0 ... V-1    the base model's vocabulary
             V            <image>
             V+1 ...      <|style_0_0|> ... <|style_S-1_K-1|>
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ham.captioner.checkpoint import OpenCheckpoint, open_checkpoint
from ham.captioner.export_check import check_export
from ham.captioner.export_text import (
    CARD_NOTES,
    chat_template,
    image_processor,
    processor_config,
    tokenizer_config,
    tokenizer_json,
)
from ham.captioner.model_card import model_card
from ham.llava import layouts
from ham.llava.transformers_compat import IS_LEGACY, too_old
from ham.llava.vision_tower import INSIDE, tower_tensors
from ham.records import DEFAULT_PROMPT, atomic_write, style_token, write_json
from ham.runtime import UsageError, log
from ham.tensor_files import check_new_folder, new_folder, write_shards

TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
)
DTYPE_NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


def export_llava(
    model_path: str | Path,
    out: str | Path,
    base_model: str | Path | None = None,
    vision_tower: str | None = None,
    max_shard_gib: float = 4.0,
) -> None:
    """Export the checkpoint at `model_path`, whatever its layout, to the new folder `out`, which appears whole.

    vision_tower: as `load_captioner` takes it; the tower that the captioner runs is written into the folder.
    Raises UsageError for a checkpoint that cannot be read or an `out` that is not empty, and WorkError with the figures when
    what was written computes something else than our own engine.
    """
    if IS_LEGACY:
        raise too_old("cannot write the llava-hf layout")
    check_new_folder(out)
    opened = open_checkpoint(model_path, vision_tower, base_model=base_model)
    if opened.source.config.get("mm_vision_select_layer", -2) >= opened.tower_settings["num_hidden_layers"]:
        raise UsageError(f"{model_path}: its vision tower has no layers to export")
    with new_folder(out) as beside:
        write_files(opened, beside)
        write_shards(beside, export_tensors(opened), int(max_shard_gib * 2**30))
        check_export(opened, beside, vocabulary_of(opened))
    log.info("exported %d styles of %s to %s", opened.num_styles, model_path, out)


def vocabulary_of(opened: OpenCheckpoint) -> int:
    """Return V, the ids that the base model's tokenizer makes; rows of the model beyond them are left out."""
    rows = opened.source.config["vocab_size"]
    return rows if opened.source.hf_layout else min(rows, len(opened.tokenizer))


def mark_of(opened: OpenCheckpoint) -> dict[str, Any]:
    """Return the entry `ham` of config.json, by which servers and our own loader find the styles."""
    vocabulary = vocabulary_of(opened)
    mark = {
        "family": "llava",
        "num_styles": opened.num_styles,
        "vocab_size": vocabulary,
        "prompt": opened.source.manifest.get("prompt") or DEFAULT_PROMPT,
        "template": opened.template,
        "vision_tower": INSIDE,
    }
    if opened.num_styles:
        mark.update(style_tokens=opened.style_tokens, first_style_token=vocabulary + 1)
    for key in ("max_length", "untrained_styles"):
        if opened.source.manifest.get(key):
            mark[key] = opened.source.manifest[key]
    return mark


# ----------------------------------------------------------------------------------------------------------------- tensors


def export_tensors(opened: OpenCheckpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors under llava-hf's names: language model with the added rows, projector, the vision tower that runs."""
    source, vocabulary = opened.source, vocabulary_of(opened)
    styles = style_rows(opened)

    def in_llm(name: str) -> bool:
        return not (layouts.is_unused(name) or name.startswith(layouts.TOWER) or name == layouts.STYLES)

    has_head = layouts.HEAD in source.names()
    for name, tensor in source.tensors(in_llm):
        if name == layouts.EMBEDDINGS:
            yield layouts.hf_name(name), with_style_rows(tensor[:vocabulary], styles)
            if not has_head:  # tied: trained rows would win as output rows, so the head is written apart
                yield layouts.hf_name(layouts.HEAD), with_mean_rows(tensor[:vocabulary], len(styles))
        elif name == layouts.HEAD:
            yield layouts.hf_name(name), with_mean_rows(tensor[:vocabulary], len(styles))
        else:
            yield layouts.hf_name(name), tensor
    folder = opened.tower.folder
    tower = (
        source.tensors(lambda name: name.startswith(layouts.TOWER))
        if folder is None
        else tower_tensors(folder)
    )
    for name, tensor in tower:
        if not layouts.is_unused(name):
            yield layouts.hf_name(name), tensor


def style_rows(opened: OpenCheckpoint) -> torch.Tensor:
    """Return the style prompts as rows [S*K, D]; [0, D] for a plain LLaVA."""
    for _, tensor in opened.source.tensors(lambda name: name == layouts.STYLES):
        return tensor.flatten(0, -2)
    return torch.zeros(0, opened.source.config["hidden_size"])


def with_style_rows(table: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Append the row of `<image>` and the styles to the embeddings [V, D].

    The table takes the wider of both dtypes where the base model's would round the styles.
    """
    lossless = torch.equal(styles.to(table.dtype).to(styles.dtype), styles)
    dtype = table.dtype if lossless else torch.promote_types(table.dtype, styles.dtype)
    image = table.float().mean(0, keepdim=True)
    return torch.cat([table.to(dtype), image.to(dtype), styles.to(dtype)])


def with_mean_rows(head: torch.Tensor, styles: int) -> torch.Tensor:
    """Append the mean of all rows, once for `<image>` and each style token, to the head [V, D].

    The logit of a mean never exceeds the largest, so greedy decoding writes none of the added tokens in any engine.
    """
    mean = head.double().mean(0, keepdim=True).to(head.dtype)
    return torch.cat([head, mean.expand(1 + styles, -1)])


# ------------------------------------------------------------------------------------------------------------------- files


def write_files(opened: OpenCheckpoint, out: Path) -> None:
    """Write everything but the weights."""
    vocabulary = vocabulary_of(opened)
    tokenizer = opened.tokenizer
    names = [style_token(s, k) for s in range(opened.num_styles) for k in range(opened.style_tokens)]
    template = chat_template(opened.template, opened.num_styles, opened.style_tokens)
    mark, size_px = mark_of(opened), opened.image_size_px
    write_json(out / "config.json", model_config(opened, mark), indent=2)
    write_json(out / "generation_config.json", generation_config(opened), indent=2)
    write_json(out / "tokenizer.json", tokenizer_json(tokenizer, vocabulary, names), indent=None)
    write_json(out / "tokenizer_config.json", tokenizer_config(tokenizer, template), indent=2)
    write_json(out / "processor_config.json", processor_config(opened.tower_settings["patch_size"]), indent=2)
    write_json(out / "preprocessor_config.json", image_processor(size_px), indent=2)
    sentences = opened.source.folder / "tokenizer.model"
    if sentences.is_file():
        shutil.copyfile(sentences, out / "tokenizer.model")
    with atomic_write(out / "chat_template.jinja") as file:
        file.write(template)
    with atomic_write(out / "README.md") as file:
        file.write(
            model_card(
                base=opened.source.folder.resolve().name,
                num_styles=opened.num_styles,
                style_tokens=opened.style_tokens,
                first_style_token=vocabulary + 1,
                prompt=mark["prompt"],
                facts=f"Style tokens follow the image tokens. Vision tower: `{opened.tower.name}`, {size_px} px, images "
                "padded to a square.",
                notes=CARD_NOTES.format(size_px=size_px),
            )
        )


def model_config(opened: OpenCheckpoint, mark: dict[str, Any]) -> dict[str, Any]:
    """Return config.json. LlavaForConditionalGeneration also for LLaVA-1.6: HAM uses one square image, as LLaVA-1.5 does."""
    source = opened.source
    dtype = DTYPE_NAMES.get(source.dtype_of("model.layers.0.mlp.gate_proj.weight"), "float32")
    text = {key: source.config[key] for key in TEXT_KEYS if source.config.get(key) is not None}
    size = 1 + mark["vocab_size"] + opened.num_styles * opened.style_tokens
    common = {"dtype": dtype, "torch_dtype": dtype}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ham": mark,
        "image_token_index": mark["vocab_size"],
        "image_seq_length": opened.num_image_tokens,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        **common,
        "vision_feature_layer": source.config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "default",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **text,
            "vocab_size": size,
            "tie_word_embeddings": False,
            **common,
        },
        "vision_config": {"model_type": "clip_vision_model", **opened.tower_settings, **common},
    }


def generation_config(opened: OpenCheckpoint) -> dict[str, Any]:
    """Return generation_config.json: greedy, as HAM captions."""
    config = opened.source.config
    return {
        "bos_token_id": config.get("bos_token_id", opened.tokenizer.bos_token_id),
        "do_sample": False,
        "eos_token_id": config.get("eos_token_id") or opened.tokenizer.eos_token_id,
        "max_new_tokens": 512,
        "pad_token_id": opened.tokenizer.pad_token_id,
    }
