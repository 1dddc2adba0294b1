"""IRRA: CLIP trained by distribution matching, masked language modeling over both towers, and identity classification.

Source: IRRA (Cross-Modal Implicit Relation Reasoning and Aligning, CVPR 2023), model/build.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham.clip import CLIP, QuickGELU, Transformer, eot_positions, take
from ham.reid.losses import cmpm_loss, id_loss, itc_loss, mlm_loss, sdm_loss
from ham.reid.mlm import mask_batch
from ham.reid.protocol import GlobalBatch, RetrievalMethod
from ham.reid.ranges import check_range
from ham.runtime import UsageError

LOSSES = ("itc", "sdm", "cmpm", "id", "mlm")
LOSSES_OF_NAME = {"irra": "sdm+mlm+id"}


@dataclass(frozen=True)
class IRRAOptions:
    """Options of IRRA's losses.

    Attributes:
        temperature: temperature of SDM and ITC, fixed
        id_weight: weight of the ID loss
        mlm_weight: weight of the MLM loss
        cross_layers: transformer layers between the cross-attention and the MLM head
        soften_other_images: SDM weighs positives of another image of the person by 0.3
        mask_all_losses: masked captions go to all losses, as in the reference; false: to the MLM loss only
    """

    temperature: float = 0.02
    id_weight: float = 1.0
    mlm_weight: float = 1.0
    cross_layers: int = 4
    soften_other_images: bool = False
    mask_all_losses: bool = True

    def check(self) -> None:
        """Raise UsageError for values out of range."""
        check_range("--irra.temperature", self.temperature, above=0)
        check_range("--irra.id_weight", self.id_weight, at_least=0)
        check_range("--irra.mlm_weight", self.mlm_weight, at_least=0)
        check_range("--irra.cross_layers", self.cross_layers, at_least=1)


def parse_losses(text: str) -> tuple[str, ...]:
    """Parse a loss list such as 'sdm+mlm+id'. Raises UsageError naming what is not a loss, and the valid losses.

    deviation: names must match whole; the reference looks for substrings, so that any word with 'id' in it turns ID on.
    """
    names = [name.strip() for name in text.split("+")]
    unknown = [name for name in names if name not in LOSSES]
    if unknown or len(set(names)) < len(names):
        problem = f"does not know '{unknown[0]}'" if unknown else "names a loss twice"
        raise UsageError(
            f"the loss list '{text}' {problem}; join some of {', '.join(LOSSES)} with '+', for example sdm+mlm+id"
        )
    return tuple(name for name in LOSSES if name in names)


class IRRA(RetrievalMethod):
    """The CLIP towers and the heads that the losses need. Parameters have the reference's names."""

    options_type: ClassVar[type] = IRRAOptions
    options_key = "irra"
    moved_options = ("mask_all_losses",)

    def __init__(
        self, clip: CLIP, losses: tuple[str, ...], num_classes: int = 0, options: IRRAOptions | None = None
    ) -> None:
        super().__init__(clip, "+".join(losses))
        self.losses, self.num_classes = losses, num_classes
        self.options = options or IRRAOptions()
        width = clip.embed_dim
        if "id" in losses:
            if num_classes < 1:
                raise UsageError(
                    "the loss 'id' needs the number of persons of the training set: num_classes is "
                    f"{num_classes}; give it, or leave 'id' out of the losses"
                )
            self.classifier = nn.Linear(width, num_classes)
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)
        if "mlm" in losses:
            self._add_cross_modal_heads(width, clip.vocab_rows)

    def _add_cross_modal_heads(self, width: int, vocab_rows: int) -> None:
        layers = self.options.cross_layers
        self.cross_attn = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.cross_modal_transformer = Transformer(width, layers)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = (nn.LayerNorm(width) for _ in range(3))
        self.mlm_head = nn.Sequential(
            OrderedDict(
                [
                    ("dense", nn.Linear(width, width)),
                    ("gelu", QuickGELU()),
                    ("ln", nn.LayerNorm(width)),
                    ("fc", nn.Linear(width, vocab_rows)),
                ]
            )
        )
        projection_std = width**-0.5 * (2 * layers) ** -0.5
        nn.init.normal_(self.cross_attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.cross_attn.out_proj.weight, std=projection_std)
        nn.init.normal_(self.mlm_head.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlm_head.fc.weight, std=projection_std)

    @classmethod
    def build(cls, name: str, clip: CLIP, num_classes: int, options: IRRAOptions) -> IRRA:
        """Build IRRA with the losses of `irra`, or of a loss list. Raises UsageError for an unknown loss."""
        return cls(clip, parse_losses(LOSSES_OF_NAME.get(name, name)), num_classes, options)

    @classmethod
    def build_for_evaluation(cls, clip: CLIP, tensors: Mapping[str, Tensor]) -> IRRA:
        """Build the towers alone: no head of IRRA is used outside training."""
        return cls(clip, ("sdm",))

    def prepare_text(self, batch: GlobalBatch) -> dict[str, np.ndarray]:
        """Mask words for the MLM loss: caption_ids, mlm_ids and mlm_labels [B, T], mlm_factor [1].

        MLM is a mean over masked words, of which processes have unequal numbers. mlm_factor makes the mean over the compared
        processes the mean over all words.
        """
        if "mlm" not in self.losses:
            return super().prepare_text(batch)
        masked, labels = mask_batch(batch.ids, batch.generator("masked words"))
        mine = masked[batch.rows]
        in_rows = np.count_nonzero(labels[batch.rows])
        in_part = np.count_nonzero(labels[batch.part])
        factor = in_rows * batch.compared / max(1, in_part) if batch.compared > 1 else 1.0
        return {
            "caption_ids": mine if self.options.mask_all_losses else batch.ids[batch.rows],
            "mlm_ids": mine,
            "mlm_labels": labels[batch.rows],
            "mlm_factor": np.array([factor], np.float32),
        }

    def cross_former(self, text_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Run cross-attention from text tokens [B, T, D] to image tokens [B, 1 + P, D], then the transformer: [B, T, D]."""
        text = self.ln_pre_t(text_tokens)
        image = self.ln_pre_i(image_tokens)
        attention = self.cross_attn
        width, heads = text.shape[-1], attention.num_heads
        w_q, w_kv = attention.in_proj_weight.split([width, 2 * width])
        b_q, b_kv = attention.in_proj_bias.split([width, 2 * width])
        q = F.linear(text, w_q, b_q).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, T, D / heads]
        k, v = F.linear(image, w_kv, b_kv).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.ln_post(self.cross_modal_transformer(attention.out_proj(attended)))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses (keys ending `_loss`, weighted) and the accuracies of a training batch.

        batch: images [B, 3, H, W], caption_ids [B, T], person_ids [B] (contiguous for 'id'); image_ids [B] if other images are
        softened; mlm_ids and mlm_labels [B, T] for 'mlm' (0 = nothing to predict), mlm_factor [1] if MLM's figures are
        scaled. When mlm_ids and caption_ids are one tensor (in the reference every loss sees the masked captions) it is
        encoded once.
        """
        image_tokens, masked_tokens = self._tokens(batch) if "mlm" in self.losses else (None, None)
        image = self.encode_image(batch["images"]) if image_tokens is None else image_tokens[:, 0].float()
        if (
            masked_tokens is not None and batch["mlm_ids"] is batch["caption_ids"]
        ):  # masked captions for all losses
            text = take(masked_tokens, eot_positions(batch["caption_ids"])).float()
        else:
            text = self.encode_text(batch["caption_ids"])
        result = self._matching(image, text, batch)
        if "id" in self.losses:
            image_logits = self.classifier(image).float()
            text_logits = self.classifier(text).float()
            person_ids = batch["person_ids"]
            result["id_loss"] = id_loss(image_logits, text_logits, person_ids) * self.options.id_weight
            result["img_acc"], result["txt_acc"] = (
                accuracy(image_logits, person_ids),
                accuracy(text_logits, person_ids),
            )
        if image_tokens is not None:
            chosen = batch["mlm_labels"] != 0
            words = self.base_model.rows_of(batch["mlm_labels"][chosen])
            logits = self.mlm_head(
                self.cross_former(masked_tokens, image_tokens)[chosen]
            ).float()  # no others are needed
            factor = batch["mlm_factor"].squeeze() if "mlm_factor" in batch else 1.0
            loss = mlm_loss(logits, words) * self.options.mlm_weight if len(words) else logits.sum()
            result["mlm_loss"] = loss * factor
            result["mlm_acc"] = accuracy(logits, words) * factor
        return result

    def _tokens(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Encode all tokens of images [B, 1 + P, D] and of masked captions [B, T, D]."""
        return self.base_model.encode_image_tokens(batch["images"]), self.base_model.encode_text_tokens(
            batch["mlm_ids"]
        )

    def _matching(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses that compare pairs, over all ranks where `gather` says so."""
        scale = 1 / self.options.temperature
        image = self.gather(image)
        text = self.gather(text)
        person_ids = self.gather(batch["person_ids"])
        image_ids = self.gather(batch["image_ids"]) if self.options.soften_other_images else None
        compute = {
            "itc": lambda: itc_loss(image, text, scale),
            "sdm": lambda: sdm_loss(image, text, person_ids, scale, image_ids),
            "cmpm": lambda: cmpm_loss(image, text, person_ids),
        }
        return {f"{name}_loss": compute[name]() for name in self.losses if name in compute}


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the share of rows whose highest logit is the label; 0 for no rows."""
    return (logits.argmax(dim=1) == labels).sum() / max(1, len(labels))
