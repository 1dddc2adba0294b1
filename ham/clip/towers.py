"""CLIP's image and text towers over open_clip's blocks: token outputs, rectangular images, overlapping patches.

Names of parameters are OpenAI's. Weights are loaded in `ham.clip.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerNorm
from torch import Tensor, nn

from ham.clip.blocks import Transformer
from ham.clip.tokenizer import EOT_ID, MASK_ID, PAD_ID, SOT_ID, VOCAB_SIZE
from ham.runtime import UsageError

LOGIT_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class CLIPConfig:
    """The sizes of a CLIP; the defaults are ViT-B/16 at 384x128.

    heads None: width // 64, at least 1. token_ids: the vocabulary ids that have a row of their own (see `CompactEmbedding`);
    None: all `vocab_size`. quick_gelu: OpenAI's activation; False: plain GELU, as open_clip's own training uses.
    """

    image_size_px: tuple[int, int] = (384, 128)
    patch_px: int = 16
    stride_px: int = 16
    embed_dim: int = 512
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int | None = None
    text_width: int = 512
    text_layers: int = 12
    text_heads: int | None = None
    context_length: int = 77
    vocab_size: int = VOCAB_SIZE
    token_ids: tuple[int, ...] | None = None
    quick_gelu: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return grid_of(self.image_size_px, self.patch_px, self.stride_px)


def grid_of(image_size_px: Sequence[int], patch_px: int, stride_px: int) -> tuple[int, int]:
    """Return rows and columns of patches. Raises UsageError when the image is smaller than a patch."""
    if stride_px < 1 or min(image_size_px) < patch_px:
        raise UsageError(
            f"image_size_px {tuple(image_size_px)}, stride_px {stride_px}: needs at least one patch of "
            f"{patch_px} px each way and a stride of 1 or more"
        )
    rows, columns = ((side - patch_px) // stride_px + 1 for side in image_size_px)
    return rows, columns


def eot_positions(ids: Tensor) -> Tensor:
    """Return the position of the end token, which has the highest id: [B, T] to [B].

    deviation: the last such position; the reference takes the first, so that a literal "<|endoftext|>" in a caption moves it.
    """
    return ids.shape[1] - 1 - ids.flip(1).argmax(dim=1)


class VisionTower(nn.Module):
    """CLIP's vision transformer for images of any height and width that its position embedding was sized for."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width, (rows, columns) = config.vision_width, config.grid
        self.image_size_px = tuple(config.image_size_px)
        self.conv1 = nn.Conv2d(3, width, config.patch_px, config.stride_px, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + rows * columns, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads, config.quick_gelu)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def initialize(self) -> None:
        width = len(self.class_embedding)
        for values in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(values, std=width**-0.5)
        for part in (self.conv1, self.ln_pre, self.ln_post):
            part.reset_parameters()
        self.transformer.initialize()

    def embed(self, images: Tensor) -> Tensor:
        """Cut images [B, 3, H, W] into patch tokens with CLS in front and add positions: [B, 1 + P, width]."""
        if tuple(images.shape[1:]) != (3, *self.image_size_px):
            raise UsageError(
                f"images of shape {tuple(images.shape)} for a vision tower of image_size_px {self.image_size_px}; "
                "expected [B, 3, height, width]: resize them, or load the weights at another image_size_px"
            )
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # [B, P, width]
        cls = self.class_embedding.to(patches.dtype).expand(
            patches.shape[0], 1, -1
        )  # len() would be a constant in ONNX
        x = torch.cat([cls, patches], dim=1)  # [B, 1 + P, width]
        return self.ln_pre(x + self.positional_embedding.to(x.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.ln_post(x) @ self.proj


class CompactEmbedding(nn.Module):
    """An embedding that keeps rows for some of the vocabulary's ids only; all other ids share the last row.

    Callers use the standard ids, so that one tokenizer serves every model: the mapping happens here. It makes the synthetic
    dataset's models small enough to be committed: the whole table would be 49,408 rows. Padding and the special ids always have
    a row, and padding's is row 0.
    """

    def __init__(self, token_ids: Sequence[int], vocab_size: int, width: int) -> None:
        super().__init__()
        special = {i for i in (PAD_ID, MASK_ID, SOT_ID, EOT_ID) if i < vocab_size}
        ids = torch.tensor(
            sorted(set(token_ids) | special), device="cpu"
        )  # named: the towers may be built on `meta`
        if ids[0] < 0 or ids[-1] >= vocab_size:
            raise UsageError(
                f"token ids from {ids[0]} to {ids[-1]} kept out of a vocabulary of {vocab_size}; expected 0 to "
                f"{vocab_size - 1}"
            )
        table = torch.full((vocab_size,), len(ids), device="cpu")
        table[ids] = torch.arange(len(ids), device="cpu")
        self.weight = nn.Parameter(torch.empty(len(ids) + 1, width))
        self.register_buffer("token_ids", ids)
        self.register_buffer("table", table, persistent=False)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Map standard ids to rows of `weight`, any shape."""
        return self.table[ids]

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(self.rows_of(ids), self.weight)


class CLIP(nn.Module):
    """Both towers. Features are not normalized; weights are not set: see `build_clip` and `load_clip`.

    Source: IRRA, model/clip_model.py, CLIP.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.visual = VisionTower(config)
        self.transformer = Transformer(width, config.text_layers, config.text_heads, config.quick_gelu)
        if config.token_ids is None:
            self.token_embedding = nn.Embedding(config.vocab_size, width)
        else:
            self.token_embedding = CompactEmbedding(config.token_ids, config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def initialize(self) -> None:
        """Draw all weights as CLIP does, from torch's global generator."""
        self.visual.initialize()
        self.transformer.initialize()
        self.ln_final.reset_parameters()
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.config.text_width**-0.5)
        nn.init.constant_(self.logit_scale, LOGIT_SCALE)

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    @property
    def image_size_px(self) -> tuple[int, int]:
        """Height and width of the images that the vision tower expects."""
        return self.visual.image_size_px

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Compute both towers' activations again in the backward pass instead of keeping them: less memory, more time."""
        self.visual.transformer.gradient_checkpointing = enabled
        self.transformer.gradient_checkpointing = enabled

    @property
    def vocab_rows(self) -> int:
        """Number of rows of the token embedding: the vocabulary's size, or what a compact one keeps."""
        return len(self.token_embedding.weight)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Map standard token ids to the rows of the token embedding (the identity for a whole vocabulary)."""
        return (
            self.token_embedding.rows_of(ids) if isinstance(self.token_embedding, CompactEmbedding) else ids
        )

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embed token ids [B, T] with their positions: [B, T, width]."""
        length, most = ids.shape[1], len(self.positional_embedding)
        if length > most:
            raise UsageError(
                f"captions of {length} tokens for a text tower of {most}: tokenize with text_length={most}"
            )
        return self.token_embedding(ids) + self.positional_embedding[:length]

    def encode_image_tokens(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to all projected tokens [B, 1 + P, D], CLS first."""
        return self.visual.project(self.visual.transformer(self.visual.embed(images)))

    def encode_text_tokens(self, ids: Tensor) -> Tensor:
        """Encode token ids [B, T] to all projected tokens [B, T, D]; attention is causal, padding is not masked."""
        return self.ln_final(self.transformer(self.embed_text(ids), causal=True)) @ self.text_projection

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images to their CLS features [B, D]: token 0 of `encode_image_tokens`, without the others' last steps."""
        x = self.visual.embed(images)
        return self.visual.project(self.visual.transformer.forward_one(x, first_positions(x)))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids to their EOT features [B, D]."""
        x = self.transformer.forward_one(self.embed_text(ids), eot_positions(ids), causal=True)
        return self.ln_final(x) @ self.text_projection

    def encode_image_with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return all projected tokens [B, 1 + P, D] and the last block's head-averaged attention row of CLS [B, 1 + P]."""
        x = self.visual.embed(images)
        x, row = self.visual.transformer.forward_with_row(x, first_positions(x))
        return self.visual.project(x), row

    def encode_text_with_attention(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return all projected tokens [B, T, D] and the last block's head-averaged attention row of EOT [B, T]."""
        x, row = self.transformer.forward_with_row(self.embed_text(ids), eot_positions(ids), causal=True)
        return self.ln_final(x) @ self.text_projection, row


def first_positions(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
