"""Captioners with random weights for the benchmarks: the work is the real one, the captions are noise of the longest length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank
from ham.llava.model import make_projector
from ham.llava.transformers_compat import build_llm, build_vision_tower, llm_config
from ham.runtime import seed_everything


@dataclass(frozen=True)
class Shape:
    """Sizes of a captioner and of the work. tower: width, inner width, layers run, heads."""

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    image_px: int
    patch_px: int
    tower: tuple[int, int, int, int]
    before: int = 35
    style_tokens: int = 10
    after: int = 56
    new_tokens: int = 64
    images: int = 32
    baseline_images: int = 4
    styles_per_image: int = 2

    @property
    def image_tokens(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    def llm_settings(self) -> dict[str, Any]:
        """Return the language model's part of a LLaVA config."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }

    def tower_settings(self) -> dict[str, Any]:
        """Return the vision tower's config, as far as its layers run."""
        width, inner, layers, heads = self.tower
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": self.image_px,
            "patch_size": self.patch_px,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "num_channels": 3,
        }


SHAPES = {
    "tiny": Shape(
        96, 256, 4, 4, 1300, 112, 16, (96, 384, 4, 4), after=14, new_tokens=32, images=192, baseline_images=24
    ),
    "micro": Shape(
        32, 48, 2, 2, 211, 28, 14, (32, 64, 2, 2), before=3, style_tokens=2, after=4, new_tokens=4
    ),
    "small": Shape(512, 1376, 8, 8, 32000, 336, 14, (256, 1024, 4, 4), images=24, baseline_images=3),
    "7b": Shape(4096, 11008, 32, 32, 32000, 336, 14, (1024, 4096, 23, 16), images=512, baseline_images=8),
}


class NoWords:
    """A tokenizer whose every token is one word, so that all captions pass the filter."""

    eos_token_id = 2

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(f"w{token}" for token in ids)


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> Captioner:
    """Build a captioner with random weights."""
    seed_everything(0)
    config = llm_config(shape.llm_settings())
    tower_settings = shape.tower_settings()
    tower = build_vision_tower(tower_settings, tower_settings["num_hidden_layers"])
    bank = StyleBank(16, shape.style_tokens, shape.width)
    model = CaptionerModel(
        build_llm(config), tower, make_projector(tower_settings["hidden_size"], shape.width), bank
    )
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    value = torch.empty(parameter.shape, dtype=dtype, device=device)
                    fill = (
                        value.normal_(0, 0.02)
                        if parameter.ndim > 1 or name == "class_embedding"
                        else value.fill_(float(name == "weight"))
                    )
                    module._parameters[name] = torch.nn.Parameter(fill, requires_grad=False)
        for name, buffer in model.named_buffers():
            owner = model.get_submodule(name.rpartition(".")[0])
            owner._buffers[name.rpartition(".")[2]] = buffer.to(device)
        model.llm.lm_head.weight[2] = 0  # </s> never wins: all captions have full length
        bank.prompts.normal_()
    return Captioner(model.eval(), NoWords(), shape.image_px, shape.image_tokens)


def prompt(shape: Shape) -> tuple[list[int], list[int]]:
    return [1, *range(10, 9 + shape.before)], [*range(60, 60 + shape.after)]
