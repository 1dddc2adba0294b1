"""What differs between versions of transformers: configurations, model classes, tokenizers.

Works with transformers 4.31.0, the paper's, and with 5.x. What 4.31.0 cannot do is refused with one clear line. The Trainer's
differences are in ham/captioner/trainer_compat.py.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from ham.llava.tokenizer_files import check_files, warn_of_other_ids
from ham.runtime import UsageError, log

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
IS_LEGACY = VERSION < (4, 36)  # before Cache objects and attention implementations
if IS_LEGACY:  # accelerate 0.21 would import it whatever is asked for: seconds, and a line on standard output
    sys.modules.setdefault("deepspeed", None)

from accelerate import init_empty_weights  # noqa: E402
from transformers import (  # noqa: E402
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

ATTENTIONS = ("sdpa", "flash_attention_2", "eager")
DEFAULT_ATTENTION = "eager" if IS_LEGACY else "sdpa"
LLM_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)
NEWER_LLM_KEYS = ("head_dim", "attention_bias", "mlp_bias")
TOWER_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "num_channels",
)


# --------------------------------------------------------------------------------------------------------------- models


def llm_config(config: dict[str, Any], attention: str = DEFAULT_ATTENTION) -> LlamaConfig:
    """Build the language model's configuration from a LLaVA config's keys; rotary settings in the old or the new spelling."""
    check_attention(attention)
    rope = {
        "rope_type": "default",
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }
    rope["rope_type"] = rope.pop("type", rope["rope_type"])
    rope["rope_theta"] = float(rope.get("rope_theta", config.get("rope_theta") or 10000.0))
    keys = {key: config[key] for key in LLM_KEYS if config.get(key) is not None}
    keys.setdefault("tie_word_embeddings", False)
    newer = {key: config[key] for key in NEWER_LLM_KEYS if config.get(key) is not None}
    theta = rope["rope_theta"]
    scaling = (
        None
        if rope["rope_type"] == "default"
        else {key: value for key, value in rope.items() if key != "rope_theta"}
    )
    if not IS_LEGACY:
        rotary = (
            {"rope_parameters": rope} if VERSION >= (5, 0) else {"rope_theta": theta, "rope_scaling": scaling}
        )
        made = LlamaConfig(**keys, **newer, **rotary)
        made._attn_implementation = attention
        return made
    plain_head = keys["hidden_size"] // keys["num_attention_heads"]
    if (
        theta != 10000.0
        or newer.get("attention_bias")
        or newer.get("mlp_bias")
        or (newer.get("head_dim", plain_head) != plain_head)
    ):
        raise too_old("cannot run this language model (rotary base, biases or head width)")
    if scaling is not None:
        if scaling["rope_type"] not in ("linear", "dynamic"):
            raise too_old(f"does not know rotary scaling '{scaling['rope_type']}'")
        scaling = {"type": scaling["rope_type"], "factor": float(scaling["factor"])}
    return LlamaConfig(**keys, rope_scaling=scaling)


def check_attention(attention: str) -> None:
    """Raise UsageError for an attention implementation that is not known or not installed."""
    if attention not in ATTENTIONS:
        raise UsageError(f"attention '{attention}' is not known; use one of {', '.join(ATTENTIONS)}")
    if IS_LEGACY and attention != "eager":
        raise too_old(f"has no attention '{attention}', only eager")
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise UsageError("attention 'flash_attention_2' needs the package flash-attn; install it or use sdpa")


def too_old(what: str) -> UsageError:
    """Return the error that refuses what the installed transformers cannot do."""
    return UsageError(f"transformers {transformers.__version__} {what}; install transformers 5")


def build_llm(config: LlamaConfig) -> LlamaForCausalLM:
    """Build the language model with parameters on the meta device (no memory) and real buffers."""
    with init_empty_weights(include_buffers=False):
        return LlamaForCausalLM(config)


def set_checkpointing(llm: LlamaForCausalLM, on: bool = True) -> None:
    """Switch gradient checkpointing of the language model's layers, whatever this transformers calls it."""
    if IS_LEGACY:  # its own way leaves torch's `use_reentrant` open, which torch announces to refuse
        for layer in llm.model.layers:
            layer.__dict__.pop("forward", None)
            if on:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        return
    word = "enable" if on else "disable"
    current = getattr(llm, f"activation_checkpointing_{word}", None)
    (current or getattr(llm, f"gradient_checkpointing_{word}"))()


def tower_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the vision tower's settings from a CLIP config of any kind (vision only, both towers, llava-hf)."""
    config = config.get("vision_config", config)
    defaults = CLIPVisionConfig()
    return {key: config.get(key, getattr(defaults, key)) for key in TOWER_KEYS}


def build_vision_tower(config: dict[str, Any], num_layers: int) -> nn.Module:
    """Build a CLIP vision tower, parameters on the meta device, that ends after `num_layers` layers.

    The names of its parameters are CLIP's without `vision_model.`: `embeddings...`, `pre_layrnorm...`, `encoder.layers.N...`.
    The layers and the last norm that LLaVA does not use are left out.
    """
    made = CLIPVisionConfig(**{**config, "num_hidden_layers": num_layers})
    if not IS_LEGACY:
        made._attn_implementation = "sdpa"
    with init_empty_weights(include_buffers=False):
        model = CLIPVisionModel(made)
    tower = getattr(model, "vision_model", model)
    tower.post_layernorm = nn.Identity()
    return tower


def tower_tokens(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Run the tower on pixels [B, 3, s, s]; returns the last hidden state without the class token [B, P, W]."""
    return tower(pixels).last_hidden_state[:, 1:]


def empty_cache() -> Any:
    """Return an empty cache of keys and values for `read_on`; transformers 4.31 has none."""
    return transformers.DynamicCache()


def read_on(
    llm: LlamaForCausalLM,
    cache: Any,
    embeddings: torch.Tensor,
    position_ids: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the layers on embeddings [B, L, D] behind what `cache` holds, and add them to it; returns hidden states [B, L, D].

    mask: bool [B, 1, L, cached + L], True where a position is seen; None is causal. Gradients reach what was cached.
    """
    name = "cache" if "cache" in inspect.signature(type(llm.model).forward).parameters else "past_key_values"
    return llm.model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        attention_mask=mask,
        use_cache=True,
        **{name: cache},
    )[0]


# ----------------------------------------------------------------------------------------------------------- tokenizers


def load_tokenizer(folder: str | Path, max_length: int = 2048) -> Any:
    """Load the tokenizer beside a checkpoint: legacy Llama sentencepiece, or any fast one that is not Llama's.

    AutoTokenizer is not used: under transformers 5 it picks a generic class for `model_type: llava` and gives wrong ids.
    A missing padding token becomes the unknown token, as in the reference, and the log names it.
    """
    folder = Path(folder)
    model = folder / "tokenizer.model"
    if IS_LEGACY and not model.is_file() and (folder / "tokenizer.json").is_file():
        raise too_old(
            f"needs tokenizer.model, but {folder} has only tokenizer.json: copy the base model's there"
        )
    settings = check_files(folder)
    is_llama = model.is_file() or str(settings.get("tokenizer_class", "Llama")).startswith("Llama")
    kind = LlamaTokenizer if is_llama else PreTrainedTokenizerFast
    # transformers 4.31 treats a slow tokenizer without a `legacy` setting as a legacy one; 5 does not.
    legacy = {"legacy": True} if model.is_file() and settings.get("legacy") is None else {}
    try:
        tokenizer = kind.from_pretrained(
            folder, model_max_length=max_length, padding_side="right", trust_remote_code=False, **legacy
        )
    except ImportError as error:
        raise UsageError(
            f"{folder}: the tokenizer cannot be loaded: {error}; a tokenizer.model needs the packages "
            "sentencepiece and protobuf"
        ) from None
    except Exception as error:  # the library's own errors on damaged files are of any type
        raise UsageError(
            f"{folder}: the tokenizer cannot be loaded ({type(error).__name__}: {error}); copy its files again"
        ) from None
    warn_of_other_ids(folder, tokenizer)
    if tokenizer.pad_token is None:
        if tokenizer.unk_token is None:
            raise UsageError(
                f"{folder}: the tokenizer has neither a padding nor an unknown token; name one in "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.unk_token
        log.info(
            "%s: the tokenizer has no padding token; its unknown token %s is used",
            folder,
            tokenizer.unk_token,
        )
    return tokenizer
