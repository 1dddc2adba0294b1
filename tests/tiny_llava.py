"""A LLaVA of a few thousand random weights, written to disk in every layout: for the tests of checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from ham.captioner.model import Captioner
from ham.llava import layouts
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX

TOKENIZER = Path(__file__).parent / "data" / "captioner" / "tokenizer"
V, D, INNER, LAYERS, HEADS, STYLES, TOKENS = 420, 32, 48, 2, 2, 4, 10
TOWER_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
CONFIG = {
    "model_type": "llava",
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "mm_vision_tower": "plain-clip",
    "mm_hidden_size": 64,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "tokenizer_model_max_length": 512,
    "tokenizer_padding_side": "right",
}
TEXT_CONFIG = {
    key: CONFIG[key]
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "rms_norm_eps",
        "max_position_embeddings",
    )
}
HF_CONFIG = {
    "model_type": "llava_next",
    "architectures": ["LlavaNextForConditionalGeneration"],
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "image_token_index": V,
    "text_config": {**TEXT_CONFIG, "model_type": "llama", "vocab_size": V + 64},
    "vision_config": TOWER_CONFIG,
}


def tower_shapes() -> dict[str, tuple[int, ...]]:
    W, I = TOWER_CONFIG["hidden_size"], TOWER_CONFIG["intermediate_size"]  # noqa: E741
    shapes = {
        "embeddings.class_embedding": (W,),
        "embeddings.patch_embedding.weight": (W, 3, 14, 14),
        "embeddings.position_embedding.weight": (5, W),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (W,), f"{norm}.bias": (W,)}
    for layer in range(TOWER_CONFIG["num_hidden_layers"]):
        start = f"encoder.layers.{layer}."
        for name, out, width in (
            *((f"self_attn.{one}_proj", W, W) for one in ("q", "k", "v", "out")),
            ("mlp.fc1", I, W),
            ("mlp.fc2", W, I),
        ):
            shapes |= {f"{start}{name}.weight": (out, width), f"{start}{name}.bias": (out,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{start}{norm}.weight": (W,), f"{start}{norm}.bias": (W,)}
    return shapes


def llm_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{one}_proj.weight": (D, D) for one in "qkvo"}
        shapes |= {f"{start}mlp.{one}_proj.weight": (INNER, D) for one in ("gate", "up")}
        shapes |= {
            f"{start}mlp.down_proj.weight": (D, INNER),
            f"{start}input_layernorm.weight": (D,),
            f"{start}post_attention_layernorm.weight": (D,),
        }
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 + ("norm" in name and name.endswith("weight"))
        for name, shape in shapes.items()
    }


def plain_tower() -> dict[str, torch.Tensor]:
    return random_tensors(tower_shapes(), seed=1)


def original_tensors() -> dict[str, torch.Tensor]:
    """A HAM checkpoint's tensors; the tower inside is not the plain one."""
    shapes = llm_shapes() | {
        "model.mm_projector.0.weight": (D, 64),
        "model.mm_projector.0.bias": (D,),
        "model.mm_projector.2.weight": (D, D),
        "model.mm_projector.2.bias": (D,),
        "model.style_prompt.style_prompts": (STYLES * TOKENS, D),
        "model.image_newline": (D,),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
    }
    inside = {layouts.TOWER + name: tensor for name, tensor in random_tensors(tower_shapes(), seed=2).items()}
    return random_tensors(shapes, seed=0) | inside


def write_folder(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: dict,
    *,
    tower: bool = True,
    form: str = "safetensors",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    if form == "safetensors":
        save_file(tensors, str(folder / "model.safetensors"))
    elif form == "safetensors shards":
        write_index(folder / "model.safetensors.index.json", write_halves(folder, halves, "model", save_file))
    elif form == "bin shards":
        write_index(
            folder / "pytorch_model.bin.index.json", write_halves(folder, halves, "pytorch_model", torch.save)
        )
    elif form == "shards without index":
        write_halves(folder, halves, "pytorch_model", torch.save)
    else:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "bin")
    if tower:
        write_tower(folder / "plain-clip")
    return folder


def write_halves(folder: Path, halves: list[dict], stem: str, save: Callable) -> dict[str, str]:
    """Write two shards; returns the file of each tensor."""
    suffix = "safetensors" if save is save_file else "bin"
    file_of = {}
    for number, half in enumerate(halves, start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        save(half, str(folder / file))
        file_of |= dict.fromkeys(half, file)
    return file_of


def write_index(path: Path, file_of: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": file_of}))


def write_tower(folder: Path, prefix: str = "vision_model.", **more: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TOWER_CONFIG))
    save_file(
        {prefix + name: tensor for name, tensor in plain_tower().items()} | more,
        str(folder / "model.safetensors"),
    )
    return folder


def hf_spelling(name: str, spelling: int) -> str | None:
    """The three ways in which transformers has written LLaVA-NeXT."""
    if name.endswith("inv_freq") or "style_prompt" in name:
        return None
    new = spelling == 2
    start = "" if spelling == 0 else "model."
    if name.startswith(layouts.TOWER):
        return f"{start}vision_tower.vision_model.{name[len(layouts.TOWER) :]}"
    if name.startswith(layouts.PROJECTOR):
        number, kind = name[len(layouts.PROJECTOR) :].split(".")
        return f"{start}multi_modal_projector.linear_{1 if number == '0' else 2}.{kind}"
    if name == "model.image_newline":
        return f"{start}image_newline"
    if name == "lm_head.weight":
        return name if new else f"{start}language_model.lm_head.weight"
    return f"model.language_model.{name.removeprefix('model.')}" if new else f"{start}language_model.{name}"


def hf_tensors(spelling: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in original_tensors().items():
        if name in (layouts.EMBEDDINGS, layouts.HEAD):
            tensor = torch.cat([tensor, torch.full((64, D), 9.0)])  # the padding that llava-hf adds
        if hf_spelling(name, spelling):
            tensors[hf_spelling(name, spelling)] = tensor
    return tensors


@torch.inference_mode()
def logits_of(captioner: Captioner, style: int | None = 1) -> torch.Tensor:
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([[1, 300, 301, IMAGE_TOKEN_INDEX, 302, 303]])
    return captioner.model(
        ids, images=pixels, style_ids=None if style is None else torch.tensor([style])
    ).logits
