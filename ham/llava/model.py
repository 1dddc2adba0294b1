"""Plain LLaVA: vision tower, projector and language model.

    image -> vision tower -> projector -> P image tokens
    text  -> embeddings   -> T text tokens

Knows nothing of files and nothing of styles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ham.llava.conversation import IGNORE_INDEX
from ham.llava.transformers_compat import tower_tokens


class LlavaModel(nn.Module):
    """The network.

    max_length: sequences, image tokens included, are cut at this many positions. padding_side: right (training) or left.
    """

    def __init__(
        self,
        llm: nn.Module,
        vision_tower: nn.Module,
        projector: nn.Module,
        max_length: int | None = None,
        padding_side: str = "right",
    ) -> None:
        super().__init__()
        self.llm = llm
        self.vision_tower = vision_tower
        self.projector = projector
        self.max_length = max_length
        self.padding_side = padding_side

    @property
    def config(self) -> Any:
        """The language model's configuration: Trainer and DeepSpeed look for the width here."""
        return self.llm.config

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed token ids [...] -> [..., D]."""
        return self.llm.get_input_embeddings()(ids)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels [B, 3, s, s] as image tokens [B, P, D] of the language model, in its dtype.

        The tower is frozen: no gradient goes through it. Source: HAM, llava/model/llava_arch.py, encode_images.
        """
        with torch.no_grad():
            features = tower_tokens(
                self.vision_tower, pixels.to(self.vision_tower.embeddings.class_embedding.dtype)
            )
        return self.projector(features.to(self.projector[0].weight.dtype)).to(self.llm.dtype)  # [B, P, D]

    def loss(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean next-token loss over learned positions, in float32.

        hidden: [B, L, D] of the last layer; labels: [B, L], -100 where nothing is learned.
        """
        targets = labels[:, 1:]
        learned = targets != IGNORE_INDEX
        logits = self.llm.lm_head(hidden[:, :-1][learned]).float()  # [n, V]
        return F.cross_entropy(logits, targets[learned], reduction="sum") / learned.sum().clamp(min=1)


def make_projector(vision_width: int, width: int) -> nn.Sequential:
    """Build LLaVA's two-layer projector. Source: HAM, llava/model/multimodal_projector/builder.py, mlp2x_gelu."""
    return nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))
