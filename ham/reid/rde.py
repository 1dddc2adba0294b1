"""RDE: two embeddings of each side, one global and one from the most attended tokens, and losses weighted by clean labels.

BGE is CLIP's own feature; TSE (token selection) sees the tokens that the CLS / EOT token looks at in the last block.
Source: RDE (Noisy-Correspondence Learning for Text-to-Image Person Re-identification, CVPR 2024), model/build.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham.clip import CLIP, eot_positions, take
from ham.distributed import no_gather
from ham.reid.losses import PAIR_LOSSES, pair_losses, weigh_pairs
from ham.runtime import UsageError

HEADS = ("visul_emb_layer", "texual_emb_layer")  # the reference's spelling: its checkpoints carry these names
NEVER_USED = (
    "visul_emb_layer.linear.",
    "visul_emb_layer.mlp.bns.1.",
    "texual_emb_layer.mlp.bns.1.",
)  # nor by the reference


@dataclass(frozen=True)
class RDEOptions:
    """tse_dim None: twice CLIP's embedding (1024 for ViT-B/16). temperature: of InfoNCE and SDM, fixed."""

    loss: str = "TAL"
    tau: float = 0.015
    margin: float = 0.1
    select_ratio: float = 0.3
    tse_dim: int | None = None
    temperature: float = 0.02


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
    """Pick the `count` most attended tokens, most attended first, at unit length: [B, count, D], float32."""
    chosen = attention.topk(count, dim=1).indices
    picked = tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))
    return F.normalize(picked.float(), dim=2, eps=1e-8)


class RDE(nn.Module):
    """The CLIP towers and the token selection layers. Parameters have the reference's names."""

    kind = "rde"

    def __init__(self, clip: CLIP, options: RDEOptions | None = None) -> None:
        super().__init__()
        self.options = options = options or RDEOptions()
        if options.loss not in PAIR_LOSSES:
            raise UsageError(f"RDE's loss '{options.loss}' is not known; use one of {', '.join(PAIR_LOSSES)}")
        self.gather: Callable[[Tensor], Tensor] = no_gather
        self.base_model = clip
        clip.logit_scale.requires_grad_(
            False
        )  # the temperature is fixed; an unused parameter would trouble DDP
        width, out = clip.embed_dim, options.tse_dim or 2 * clip.embed_dim
        self.visul_emb_layer = VisualTokens(width, out, options.select_ratio)
        self.texual_emb_layer = TextTokens(width, out, options.select_ratio, clip.config.context_length)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """Give BGE [B, D] and TSE [B, E]; the score is the mean of both cosines with `text_features`."""
        tokens, attention = self.base_model.encode_image_with_attention(images)
        return [tokens[:, 0].float(), self.visul_emb_layer(tokens, attention)]

    def text_features(self, ids: Tensor) -> list[Tensor]:
        """Give BGE [B, D] and TSE [B, E]; the score is the mean of both cosines with `image_features`."""
        tokens, attention = self.base_model.encode_text_with_attention(ids)
        return [take(tokens, eot_positions(ids)).float(), self.texual_emb_layer(tokens, ids, attention)]

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to BGE features [B, D], not normalized."""
        return self.base_model.encode_image(images).float()

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids [B, T] to BGE features [B, D], not normalized."""
        return self.base_model.encode_text(ids).float()

    def encode_image_tse(self, images: Tensor) -> Tensor:
        """Encode images to TSE features [B, E], not normalized."""
        return self.image_features(images)[1]

    def encode_text_tse(self, ids: Tensor) -> Tensor:
        """Encode token ids to TSE features [B, E], not normalized."""
        return self.text_features(ids)[1]

    def per_pair(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the loss of every pair of a batch [B], for BGE and for TSE: what CCD divides the training set by."""
        person_ids, options = self.gather(batch["person_ids"]), self.options
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
