"""The transformer block of both CLIP towers: open_clip's parameters, fused attention, shortcuts for the one feature token.

The forward passes are plain tensor code, so that torch.compile compiles them without graph breaks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ham.runtime import UsageError


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), computed with the fused SiLU: one saved tensor and three kernels instead of five."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x * 1.702).mul(1 / 1.702)


def activation(quick_gelu: bool) -> type[nn.Module]:
    return QuickGELU if quick_gelu else nn.GELU


class Block(ResidualAttentionBlock):
    """open_clip's block with fused self-attention and two shortcuts for the one token that becomes the feature."""

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the normalized tokens: three of [B, heads, T, width / heads]."""
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
        """Map tokens as `forward`; also return the head-averaged attention row [B, T] of the token at `position` [B].

        The row carries no gradient: it only chooses tokens.
        """
        q, k, v = self.qkv(x)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        with (
            torch.no_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):  # the choice of tokens wants float32
            q_row = take(q.transpose(1, 2), position).unsqueeze(2)  # [B, heads, 1, D / heads]
            scores = (q_row.float() @ k.float().transpose(-1, -2)).squeeze(2) / q.shape[
                -1
            ] ** 0.5  # [B, heads, T]
            if causal:
                scores = scores.masked_fill(later_than(position, x.shape[1])[:, None], -torch.inf)
            row = scores.softmax(dim=-1).mean(dim=1)
        return self.finish(x, attended), row

    def forward_one(self, x: Tensor, position: Tensor, causal: bool = False) -> Tensor:
        """Map tokens [B, T, D] to the one output token [B, D] at `position` [B], without the others' queries and MLP."""
        batch, length, width = x.shape
        heads = self.attn.num_heads
        normalized = self.ln_1(x)
        w_q, w_kv = self.attn.in_proj_weight.split([width, 2 * width])
        b_q, b_kv = self.attn.in_proj_bias.split([width, 2 * width])
        q = F.linear(take(normalized, position), w_q, b_q).view(batch, heads, 1, width // heads)
        k, v = (
            F.linear(normalized, w_kv, b_kv)
            .view(batch, length, 2, heads, width // heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
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


class Transformer(nn.Module):
    """A stack of blocks: tokens [B, T, width] to tokens [B, T, width]."""

    def __init__(self, width: int, layers: int, heads: int | None = None, quick_gelu: bool = True) -> None:
        super().__init__()
        heads = heads or max(1, width // 64)
        if width % heads:
            raise UsageError(f"a width of {width} cannot be split over {heads} attention heads")
        self.width, self.layers, self.heads = width, layers, heads
        self.gradient_checkpointing = False
        self.resblocks = nn.ModuleList(
            Block(width, heads, act_layer=activation(quick_gelu)) for _ in range(layers)
        )
        self.initialize()

    def initialize(self) -> None:
        """Draw the weights as CLIP does: narrower the more blocks add to the stream."""
        projection_std = self.width**-0.5 * (2 * self.layers) ** -0.5
        for block in self.resblocks:
            for norm in (block.ln_1, block.ln_2):
                norm.reset_parameters()
            for bias in (
                block.attn.in_proj_bias,
                block.attn.out_proj.bias,
                block.mlp.c_fc.bias,
                block.mlp.c_proj.bias,
            ):
                nn.init.zeros_(bias)
            nn.init.normal_(block.attn.in_proj_weight, std=self.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=projection_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=projection_std)

    def run_blocks(self, x: Tensor, causal: bool, blocks: Sequence[Block]) -> Tensor:
        """Run some blocks; with gradient checkpointing their activations are computed again in the backward pass."""
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, causal, use_reentrant=False)
            else:
                x = block(x, causal)
        return x

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Map tokens [B, T, width] to tokens [B, T, width]."""
        return self.run_blocks(x, causal, self.resblocks)

    def forward_with_row(self, x: Tensor, position: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
        """Return the tokens and the last block's attention row [B, T] of one token; see `Block.forward_with_row`."""
        x = self.run_blocks(x, causal, self.resblocks[:-1])
        return self.resblocks[-1].forward_with_row(x, position, causal)

    def forward_one(self, x: Tensor, position: Tensor, causal: bool = False) -> Tensor:
        """Return one output token only, [B, width]; see `Block.forward_one`."""
        x = self.run_blocks(x, causal, self.resblocks[:-1])
        return self.resblocks[-1].forward_one(x, position, causal)
