"""CLIP's image and text towers over open_clip's blocks: token outputs, rectangular images, overlapping patches.

Names of parameters are OpenAI's. Attention is fused (`scaled_dot_product_attention`); the forward passes are plain tensor code,
so that torch.compile takes them whole. Knows nothing of files: see `ham.clip.weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerNorm, ResidualAttentionBlock
from torch import Tensor, nn

from ham.clip.tokenizer import EOT_ID, MASK_ID, PAD_ID, SOT_ID, VOCAB_SIZE
from ham.runtime import UsageError


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
    """Give rows and columns of patches. Raises UsageError when the image is smaller than a patch."""
    if stride_px < 1 or min(image_size_px) < patch_px:
        raise UsageError(f"image_size_px {tuple(image_size_px)}, stride_px {stride_px}: needs at least one patch of "
                         f"{patch_px} px each way and a stride of 1 or more")
    rows, columns = ((side - patch_px) // stride_px + 1 for side in image_size_px)
    return rows, columns


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), written over the fused SiLU: one saved tensor and three kernels in place of five."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x * 1.702).mul(1 / 1.702)


def activation(quick_gelu: bool) -> type[nn.Module]:
    return QuickGELU if quick_gelu else nn.GELU


class Block(ResidualAttentionBlock):
    """open_clip's block with fused self-attention and two short cuts for the one token that becomes the feature."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normalised tokens: three of [B, heads, T, width / heads]."""
        batch, length, width = x.shape
        packed = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        heads = self.attn.num_heads
        return packed.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Map tokens [B, T, D] to tokens [B, T, D]."""
        q, k, v = self.qkv(x)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # [B, heads, T, D / heads]
        return self.finish(x, attended)

    def forward_with_row(self, x: Tensor, position: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
        """Map tokens as `forward`; also give the head-averaged attention row [B, T] of the token at `position` [B].

        The row carries no gradient: it only chooses tokens.
        """
        q, k, v = self.qkv(x)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        with torch.no_grad():
            q_row = take(q.transpose(1, 2), position).unsqueeze(2)  # [B, heads, 1, D / heads]
            scores = (q_row.float() @ k.float().transpose(-1, -2)).squeeze(2) / q.shape[-1] ** 0.5  # [B, heads, T]
            if causal:
                scores = scores.masked_fill(later_than(position, x.shape[1])[:, None], -torch.inf)
            row = scores.softmax(dim=-1).mean(dim=1)
        return self.finish(x, attended), row

    def forward_one(self, x: Tensor, position: Tensor, causal: bool = False) -> Tensor:
        """Map tokens [B, T, D] to the one output token [B, D] at `position` [B], the others' queries and MLP left out."""
        batch, length, width = x.shape
        heads = self.attn.num_heads
        normalised = self.ln_1(x)
        w_q, w_kv = self.attn.in_proj_weight.split([width, 2 * width])
        b_q, b_kv = self.attn.in_proj_bias.split([width, 2 * width])
        q = F.linear(take(normalised, position), w_q, b_q).view(batch, heads, 1, width // heads)
        k, v = F.linear(normalised, w_kv, b_kv).view(batch, length, 2, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
        mask = ~later_than(position, length)[:, None, None] if causal else None  # [B, 1, 1, T]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.finish(take(x, position)[:, None], attended)[:, 0]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attn.out_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


def take(x: Tensor, position: Tensor) -> Tensor:
    """Pick one token of each row: [B, T, ...] at `position` [B] gives [B, ...]."""
    return x[torch.arange(x.shape[0], device=x.device), position]


def later_than(position: Tensor, length: int) -> Tensor:
    """Mark the tokens that a causal query at `position` [B] does not see: bool [B, length]."""
    return torch.arange(length, device=position.device) > position[:, None]


def eot_positions(ids: Tensor) -> Tensor:
    """Give the place of the end token, which has the highest id: [B, T] to [B].

    deviation: the last such place; the reference takes the first, so that a literal "<|endoftext|>" in a caption moves it.
    """
    return ids.shape[1] - 1 - ids.flip(1).argmax(dim=1)


class Transformer(nn.Module):
    """A stack of blocks: tokens [B, T, width] to tokens [B, T, width]."""

    def __init__(self, width: int, layers: int, heads: int | None = None, quick_gelu: bool = True) -> None:
        super().__init__()
        heads = heads or max(1, width // 64)
        if width % heads:
            raise UsageError(f"a width of {width} cannot be split over {heads} attention heads")
        self.width, self.layers, self.heads = width, layers, heads
        self.resblocks = nn.ModuleList(Block(width, heads, act_layer=activation(quick_gelu)) for _ in range(layers))
        attention_std, projection_std = width**-0.5, width**-0.5 * (2 * layers) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=attention_std)
            nn.init.normal_(block.attn.out_proj.weight, std=projection_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=projection_std)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        for block in self.resblocks:
            x = block(x, causal)
        return x

    def forward_with_row(self, x: Tensor, position: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
        """Also give the last block's attention row [B, T] of one token; see `Block.forward_with_row`."""
        for block in self.resblocks[:-1]:
            x = block(x, causal)
        return self.resblocks[-1].forward_with_row(x, position, causal)

    def forward_one(self, x: Tensor, position: Tensor, causal: bool = False) -> Tensor:
        """Give one output token only, [B, width]; see `Block.forward_one`."""
        for block in self.resblocks[:-1]:
            x = block(x, causal)
        return self.resblocks[-1].forward_one(x, position, causal)


class VisionTower(nn.Module):
    """CLIP's vision transformer for images of any height and width that its position embedding was sized for."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width, (rows, columns) = config.vision_width, config.grid
        self.image_size_px = tuple(config.image_size_px)
        self.conv1 = nn.Conv2d(3, width, config.patch_px, config.stride_px, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + rows * columns, width) * width**-0.5)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads, config.quick_gelu)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)

    def embed(self, images: Tensor) -> Tensor:
        """Cut images [B, 3, H, W] into patch tokens with CLS in front and add positions: [B, 1 + P, width]."""
        if tuple(images.shape[1:]) != (3, *self.image_size_px):
            raise UsageError(f"images of shape {tuple(images.shape)} for a vision tower of image_size_px {self.image_size_px}; "
                             "expected [B, 3, height, width]: resize them, or load the weights at another image_size_px")
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # [B, P, width]
        cls = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([cls, patches], dim=1)  # [B, 1 + P, width]
        return self.ln_pre(x + self.positional_embedding.to(x.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.ln_post(x) @ self.proj


class CompactEmbedding(nn.Module):
    """An embedding that keeps rows for some of the vocabulary's ids only; all other ids share the last row.

    Callers go on using the standard ids, so that one tokenizer serves every model: the mapping happens here. It makes the
    world's models small enough to be committed: the whole table would be 49,408 rows. Padding and the special ids always have
    a row, and padding's is row 0.
    """

    def __init__(self, token_ids: Sequence[int], vocab_size: int, width: int) -> None:
        super().__init__()
        special = {i for i in (PAD_ID, MASK_ID, SOT_ID, EOT_ID) if i < vocab_size}
        ids = torch.tensor(sorted(set(token_ids) | special), dtype=torch.long)
        if ids[0] < 0 or ids[-1] >= vocab_size:
            raise UsageError(f"token ids from {ids[0]} to {ids[-1]} kept out of a vocabulary of {vocab_size}; expected 0 to "
                             f"{vocab_size - 1}")
        table = torch.full((vocab_size,), len(ids), dtype=torch.long)
        table[ids] = torch.arange(len(ids))
        self.weight = nn.Parameter(torch.randn(len(ids) + 1, width) * 0.02)
        self.register_buffer("token_ids", ids)
        self.register_buffer("table", table, persistent=False)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Map standard ids to rows of `weight`, any shape."""
        return self.table[ids]

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(self.rows_of(ids), self.weight)


class CLIP(nn.Module):
    """Both towers. Features are not normalised. Source: IRRA, model/clip_model.py, CLIP."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.visual = VisionTower(config)
        self.transformer = Transformer(width, config.text_layers, config.text_heads, config.quick_gelu)
        if config.token_ids is None:
            self.token_embedding = nn.Embedding(config.vocab_size, width)
            nn.init.normal_(self.token_embedding.weight, std=0.02)
        else:
            self.token_embedding = CompactEmbedding(config.token_ids, config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(config.context_length, width) * 0.01)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    @property
    def vocab_rows(self) -> int:
        """Rows of the token embedding: the vocabulary's size, or what a compact one keeps."""
        return len(self.token_embedding.weight)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Map standard token ids to the rows of the token embedding (the identity for a whole vocabulary)."""
        return self.token_embedding.rows_of(ids) if isinstance(self.token_embedding, CompactEmbedding) else ids

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embed token ids [B, T] with their positions: [B, T, width]."""
        length, most = ids.shape[1], len(self.positional_embedding)
        if length > most:
            raise UsageError(f"captions of {length} tokens for a text tower of {most}: tokenise with text_length={most}")
        return self.token_embedding(ids) + self.positional_embedding[:length]

    def encode_image_tokens(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to all projected tokens [B, 1 + P, D], CLS first."""
        return self.visual.project(self.visual.transformer(self.visual.embed(images)))

    def encode_text_tokens(self, ids: Tensor) -> Tensor:
        """Encode token ids [B, T] to all projected tokens [B, T, D]; attention is causal, padding is not masked."""
        return self.ln_final(self.transformer(self.embed_text(ids), causal=True)) @ self.text_projection

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images to their CLS features [B, D]: token 0 of `encode_image_tokens`, without computing the others' end."""
        x = self.visual.embed(images)
        return self.visual.project(self.visual.transformer.forward_one(x, first_positions(x)))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids to their EOT features [B, D]."""
        x = self.transformer.forward_one(self.embed_text(ids), eot_positions(ids), causal=True)
        return self.ln_final(x) @ self.text_projection

    def encode_image_with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give all projected tokens [B, 1 + P, D] and the last block's head-averaged attention row of CLS [B, 1 + P]."""
        x = self.visual.embed(images)
        x, row = self.visual.transformer.forward_with_row(x, first_positions(x))
        return self.visual.project(x), row

    def encode_text_with_attention(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Give all projected tokens [B, T, D] and the last block's head-averaged attention row of EOT [B, T]."""
        x, row = self.transformer.forward_with_row(self.embed_text(ids), eot_positions(ids), causal=True)
        return self.ln_final(x) @ self.text_projection, row


def first_positions(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
