"""A captioner of a few thousand weights whose vision tower is a mean: what decoding needs, and nothing to load."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank
from ham.llava.model import make_projector

V, S, K = 211, 5, 3


class LetterTokenizer:
    """Ids as text, one word per id; enough of a tokenizer for decoding."""

    eos_token_id, bos_token_id = 2, 1

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(f"w{token}" for token in ids if token > 2)


def make_llm(seed: int = 0, kv_heads: int = 4, vocabulary: int = V, **options: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        eos_token_id=2,
        **options,
    )
    llm = LlamaForCausalLM(config).eval()
    for parameter in llm.parameters():  # wider than the default, so that tokens have margins
        parameter.data.mul_(5 if parameter.ndim == 2 else 1)
    return llm


class PatchTower(torch.nn.Module):
    """A stand-in vision tower: four tokens of an image are the means of its quarters' colours."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))


class TinyModel(CaptionerModel):
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        quarters = (
            torch.nn.functional.adaptive_avg_pool2d(pixels.to(self.llm.dtype), 2).flatten(2).transpose(1, 2)
        )
        return self.projector(quarters * self.vision_tower.scale)


def tiny_captioner() -> Captioner:
    llm = make_llm()
    torch.manual_seed(1)
    bank, projector = StyleBank(S, K, 32), make_projector(3, 32)
    bank.prompts.data.normal_()
    return Captioner(
        TinyModel(llm, PatchTower(), projector, bank).eval().requires_grad_(False), LetterTokenizer(), 8, 4
    )
