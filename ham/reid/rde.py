"""RDE: two embeddings of each side, one global and one of the most attended tokens, and losses weighted by clean labels.

BGE is CLIP's own feature; TSE (token selection) embeds the tokens that the CLS / EOT token attends to in the last block.
Source: RDE (Noisy-Correspondence Learning for Text-to-Image Person Re-identification, CVPR 2024), model/build.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham.clip import CLIP, eot_positions, take
from ham.reid.losses import PAIR_LOSSES, pair_losses, weigh_pairs
from ham.reid.protocol import RetrievalMethod
from ham.reid.ranges import check_range
from ham.reid.rde_division import divide_pairs
from ham.runtime import UsageError

if TYPE_CHECKING:
    from ham.reid.run import Run

HEADS = ("visul_emb_layer", "texual_emb_layer")  # the reference's spelling: its checkpoints carry these names
NEVER_USED = ("visul_emb_layer.linear.", "visul_emb_layer.mlp.bns.1.", "texual_emb_layer.mlp.bns.1.")


@dataclass(frozen=True)
class RDEOptions:
    """Options of RDE.

    Attributes:
        loss: TAL, TRL, InfoNCE or SDM
        tau: temperature of TAL and TRL
        margin: margin of TAL and TRL
        select_ratio: share of tokens that token selection takes
        tse_dim: width of the token selection embedding; null: twice CLIP's (1024 for ViT-B/16)
        temperature: temperature of InfoNCE and SDM, fixed
        token_selection_lr: learning rate of the token selection layers; the base learning rate does not change it
        ccd: divide the pairs into clean and noisy before every epoch (CCD); false: all count as clean
        augment_division: the division sees augmented images and scrambled captions, as in the reference; false: plain ones
        noise_rate: assumed share of mismatched pairs; above 0.4 the mixture of the division is fitted with more iterations
    """

    loss: str = "TAL"
    tau: float = 0.015
    margin: float = 0.1
    select_ratio: float = 0.3
    tse_dim: int | None = None
    temperature: float = 0.02
    token_selection_lr: float = 1e-3
    ccd: bool = True
    augment_division: bool = True
    noise_rate: float = 0.0

    def check(self) -> None:
        """Raise UsageError for values out of range."""
        if self.loss not in PAIR_LOSSES:
            raise UsageError(f"RDE's loss '{self.loss}' is not known; use one of {', '.join(PAIR_LOSSES)}")
        check_range("--rde.tau", self.tau, above=0)
        check_range("--rde.margin", self.margin, at_least=0)
        check_range("--rde.select_ratio", self.select_ratio, above=0, at_most=1)
        check_range("--rde.tse_dim", self.tse_dim, at_least=2)
        check_range("--rde.temperature", self.temperature, above=0)
        check_range("--rde.token_selection_lr", self.token_selection_lr, at_least=0)
        check_range("--rde.noise_rate", self.noise_rate, at_least=0, at_most=1)


class MLP(nn.Module):
    """Linear, batch norm, ReLU, linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, out)])
        self.bns = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(out)])
        self.bns[1].requires_grad_(False)  # never used, kept for its name in checkpoints

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, K, D] to [B, K, out]; the batch norm's statistics are over all B * K rows."""
        rows = self.bns[0](self.layers[0](x.flatten(0, 1)))
        return self.layers[1](F.relu(rows)).unflatten(0, x.shape[:2])


class VisualTokens(nn.Module):
    """Embed an image's most attended patches. Source: RDE, model/CrossEmbeddingLayer_tse.py, VisualEmbeddingLayer."""

    def __init__(self, width: int, out: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.linear = nn.Linear(width, out).requires_grad_(
            False
        )  # never used, kept for its name in checkpoints
        self.fc = nn.Linear(width, out)
        self.mlp = MLP(width, out // 2, out)

    def forward(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """Map tokens [B, 1 + P, D] and the CLS token's attention row [B, 1 + P] to [B, out]."""
        count = max(1, int((tokens.shape[1] - 1) * self.ratio))
        selected = select(tokens[:, 1:], attention[:, 1:], count)  # [B, K, D]
        return (self.mlp(selected) + self.fc(selected)).float().max(dim=1).values


class TextTokens(nn.Module):
    """Embed a caption's most attended words. Source: RDE, model/CrossEmbeddingLayer_tse.py, TexualEmbeddingLayer."""

    def __init__(self, width: int, out: int, ratio: float, context_length: int) -> None:
        super().__init__()
        self.count = max(1, int((context_length - 2) * ratio))
        self.linear = nn.Linear(width, out)
        self.mlp = MLP(width, out // 2, out)

    def forward(self, tokens: Tensor, ids: Tensor, attention: Tensor) -> Tensor:
        """Map tokens [B, T, D], ids [B, T] and the EOT token's attention row [B, T] to [B, out].

        deviation: a caption without words gives zeros, a cosine of 0 with everything; the reference makes this row and all
        later rows of the batch NaN.
        """
        words = (ids != 0).sum(dim=1) - 2  # without start and end
        places = torch.arange(ids.shape[1], device=ids.device)
        special = (places == 0) | (places == eot_positions(ids)[:, None])
        attention = attention.masked_fill(special, -1.0) * (ids != 0)
        count = min(self.count, ids.shape[1])
        selected = select(tokens, attention, count)  # [B, K, D], words before padding before start and end
        embedded = (self.mlp(selected) + self.linear(selected)).float()  # [B, K, out]
        absent = torch.arange(count, device=ids.device) >= words[:, None]  # [B, K]
        pooled = embedded.masked_fill(absent[:, :, None], -torch.inf).max(dim=1).values
        return torch.where(words[:, None] > 0, pooled, torch.zeros_like(pooled))


def select(tokens: Tensor, attention: Tensor, count: int) -> Tensor:
    """Select the `count` most attended tokens, most attended first, L2-normalized: [B, count, D], float32."""
    chosen = attention.topk(count, dim=1).indices
    picked = tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))
    return F.normalize(picked.float(), dim=2, eps=1e-8)


class RDE(RetrievalMethod):
    """The CLIP towers and the token selection layers. Parameters have the reference's names."""

    options_type: ClassVar[type] = RDEOptions
    options_key = "rde"
    heads = HEADS
    unused_tensors = NEVER_USED
    scrambles_words = True
    towers_alone = "RDE's global features; its score also needs its token selection layers"
    moved_options = ("ccd", "noise_rate", "token_selection_lr")
    options_before: ClassVar[dict[str, object]] = {"augment_division": False}

    def __init__(self, clip: CLIP, options: RDEOptions | None = None) -> None:
        super().__init__(clip, "rde")
        self.options = options = options or RDEOptions()
        options.check()
        width = clip.embed_dim
        out = 2 * width if options.tse_dim is None else options.tse_dim
        self.visul_emb_layer = VisualTokens(width, out, options.select_ratio)
        self.texual_emb_layer = TextTokens(width, out, options.select_ratio, clip.config.context_length)
        self.clean: np.ndarray | None = None  # float32 [N pairs], 1 where a pair counts

    @classmethod
    def build(cls, name: str, clip: CLIP, num_classes: int, options: RDEOptions) -> RDE:
        """Build RDE with new token selection layers."""
        return cls(clip, options)

    @classmethod
    def build_for_evaluation(cls, clip: CLIP, tensors: Mapping[str, Tensor]) -> RDE:
        """Build RDE with token selection layers of a checkpoint's width."""
        fc = tensors.get("visul_emb_layer.fc.weight")
        return cls(clip, RDEOptions() if fc is None else replace(RDEOptions(), tse_dim=len(fc)))

    # ------------------------------------------------------------------------------------------------ hooks of training

    def lr_rules(self) -> dict[str, float]:
        """Return the token selection layers' own learning rate. Source: RDE, solver/build.py."""
        return dict.fromkeys(HEADS, self.options.token_selection_lr)

    def before_epoch(self, run: Run, epoch: int) -> None:
        """Divide the training pairs into clean and noisy ones."""
        if self.options.ccd:
            self.clean = divide_pairs(run, self, epoch)

    def pair_values(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return `label_hat` [B]: 1 clean, 0 noisy; nothing without a division."""
        return {} if self.clean is None else {"label_hat": self.clean[index]}

    def training_state(self) -> dict[str, np.ndarray]:
        """Return the clean labels of the current epoch."""
        return {} if self.clean is None else {"clean": self.clean}

    def load_training_state(self, arrays: Mapping[str, np.ndarray], num_pairs: int) -> None:
        """Load the clean labels. Raises UsageError unless there is one of 0 or 1 for each training pair."""
        clean = arrays.get("clean")
        if clean is None:
            return
        if clean.shape != (num_pairs,) or not np.isin(clean, (0.0, 1.0)).all():
            raise UsageError(
                f"clean.npy holds an array of shape {clean.shape}; expected {num_pairs} labels of 0 or 1, one per "
                "training pair"
            )
        self.clean = clean.astype(np.float32)

    # --------------------------------------------------------------------------------------------- features and losses

    def image_features(self, images: Tensor) -> list[Tensor]:
        """Return BGE [B, D] and TSE [B, E]; the score is the mean of both cosines with `text_features`."""
        tokens, attention = self.base_model.encode_image_with_attention(images)
        return [tokens[:, 0].float(), self.visul_emb_layer(tokens, attention)]

    def text_features(self, ids: Tensor) -> list[Tensor]:
        """Return BGE [B, D] and TSE [B, E]; the score is the mean of both cosines with `image_features`."""
        tokens, attention = self.base_model.encode_text_with_attention(ids)
        return [take(tokens, eot_positions(ids)).float(), self.texual_emb_layer(tokens, ids, attention)]

    def encode_image_tse(self, images: Tensor) -> Tensor:
        """Encode images to TSE features [B, E], not normalized."""
        return self.image_features(images)[1]

    def encode_text_tse(self, ids: Tensor) -> Tensor:
        """Encode token ids to TSE features [B, E], not normalized."""
        return self.text_features(ids)[1]

    def per_pair(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the loss of every pair of a batch [B], for BGE and for TSE; CCD divides the training set by them."""
        person_ids = self.gather(batch["person_ids"])
        options = self.options
        images = [self.gather(feats) for feats in self.image_features(batch["images"])]
        texts = [self.gather(feats) for feats in self.text_features(batch["caption_ids"])]
        bge, tse = (
            pair_losses(
                options.loss, image, text, person_ids, options.tau, options.margin, 1 / options.temperature
            )
            for image, text in zip(images, texts)
        )
        return bge, tse

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute `bge_loss` and `tse_loss` of a training batch, every pair weighted by its clean label.

        batch: images [B, 3, H, W], caption_ids [B, T], person_ids [B]; label_hat [B] (1 clean, 0 noisy; absent: all clean).
        TAL and TRL are summed over the batch, InfoNCE and SDM averaged over the clean pairs.
        """
        clean = batch.get("label_hat")
        clean = torch.ones_like(batch["person_ids"], dtype=torch.float32) if clean is None else clean.float()
        clean = self.gather(clean)
        bge, tse = self.per_pair(batch)
        return {
            "bge_loss": weigh_pairs(self.options.loss, bge, clean),
            "tse_loss": weigh_pairs(self.options.loss, tse, clean),
        }
