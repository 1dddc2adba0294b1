"""What the bench measures ours against: the same computations written the obvious way.

Attention by an explicit softmax over all heads, every token through every layer, one optimizer group per parameter without
fusing, augmentation one image at a time.
"""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ham.clip import CLIP
from ham.reid.images import PIXEL_MEAN, PIXEL_STD
from ham.reid.losses import sdm_loss
from ham.reid.optim import parameter_settings


class PlainSDM(nn.Module):
    """CLIP with the SDM loss over the same weights as ours, so that losses can be held against each other."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.base_model = clip
        clip.logit_scale.requires_grad_(False)

    def forward(self, images: Tensor, ids: Tensor, person_ids: Tensor) -> Tensor:
        """Compute the loss of images [B, 3, H, W] and token ids [B, T]."""
        return sdm_loss(self.encode_image(images), self.encode_text(ids), person_ids, 50.0)

    def encode_image(self, images: Tensor) -> Tensor:
        visual = self.base_model.visual
        x = visual.embed(images)
        for block in visual.transformer.resblocks:
            x = plain_block(block, x, None)
        return (visual.ln_post(x) @ visual.proj)[:, 0].float()

    def encode_text(self, ids: Tensor) -> Tensor:
        clip, length = self.base_model, ids.shape[1]
        mask = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
        x = clip.embed_text(ids)
        for block in clip.transformer.resblocks:
            x = plain_block(block, x, mask)
        return (clip.ln_final(x) @ clip.text_projection)[torch.arange(len(ids)), ids.argmax(dim=1)].float()


def plain_block(block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Run one transformer block [B, T, D] with the attention matrix written out."""
    batch, length, width = x.shape
    heads = block.attn.num_heads
    packed = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = (
        part.view(batch, length, heads, width // heads).transpose(1, 2) for part in packed.chunk(3, dim=-1)
    )
    scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5  # [B, heads, T, T]
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    x = x + block.attn.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))
    hidden = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


def plain_optimizer(model: nn.Module, lr: float = 1e-5) -> torch.optim.Optimizer:
    """Build Adam with one group per parameter, as the reference does, without fused or batched kernels."""
    groups = [
        {"params": [parameter], "lr": rate, "weight_decay": decay}
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for rate, decay in [parameter_settings(name, lr)]
    ]
    return torch.optim.Adam(groups, lr=lr, eps=1e-3, foreach=False, fused=False)


def plain_sample(path: str, size_px: tuple[int, int], draw: random.Random) -> Tensor:
    """Read, resize and augment one image as a worker of the reference does: float32 [3, H, W]."""
    height, width = size_px
    with Image.open(path) as file:
        image = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    padded = Image.new("RGB", (width + 20, height + 20))
    padded.paste(image, (10, 10))
    left, top = draw.randrange(21), draw.randrange(21)
    values = (
        torch.from_numpy(np.array(padded.crop((left, top, left + width, top + height))))
        .permute(2, 0, 1)
        .float()
        / 255
    )
    values = (values - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    if draw.random() < 0.5:
        share, ratio = draw.uniform(0.02, 0.4), draw.uniform(0.3, 3.3)
        tall, wide = (
            int((share * height * width * ratio) ** 0.5),
            int((share * height * width / ratio) ** 0.5),
        )
        if tall < height and wide < width:
            top, left = draw.randrange(height - tall), draw.randrange(width - wide)
            values[:, top : top + tall, left : left + wide] = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    return values.contiguous()
