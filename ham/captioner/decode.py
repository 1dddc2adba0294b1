"""Captions for any number of images: batches of a size that fits.

`decoder.py` knows how one batch is captioned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ham.captioner.decoder import GROWTH, Decoder, DecodeSettings, Generated
from ham.captioner.images import preprocess
from ham.captioner.model import Captioner
from ham.runtime import UsageError, log


def generate(captioner: Captioner, images: Sequence[Image.Image], style_ids: Sequence[Sequence[int]], prompt: str | None = None,
             template: str | None = None, max_new_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0,
             seed: int = 0, batch_size: int | None = None) -> list[list[str]]:
    """Caption images in the styles asked for each; the result has the shape of `style_ids`.

    prompt: the instruction without `<image>`; None is the reference's. template: v1 | llava_v1 | llava_v0; None is the
    checkpoint's. style -1 adds no style tokens. batch_size: images at a time; found automatically when None.
    The captions do not depend on the batch (float32 on a CPU: exactly).
    """
    if len(images) != len(style_ids):
        raise UsageError(f"{len(images)} images but {len(style_ids)} lists of styles; give each image its list")
    decoder = Decoder(captioner, DecodeSettings(prompt, template, max_new_tokens, temperature, top_p, seed))
    batches = Batches(decoder, batch_size, max((len(styles) for styles in style_ids), default=1))
    captions: list[list[str]] = []
    start = 0
    while start < len(images):
        end = start + batches.images
        pixels = torch.stack([preprocess(image, captioner.image_size_px) for image in images[start:end]])
        captions += [[one.text for one in image] for image in batches.caption(pixels, style_ids[start:end])]
        start = end
    return captions


class Batches:
    """Caption batches of a size that fits: chosen from the memory there is, halved when it runs out."""

    def __init__(self, decoder: Decoder, images: int | None = None, styles_per_image: int = 1) -> None:
        self.decoder = decoder
        self.images = images or self._fitting(max(styles_per_image, 1))
        if self.images < 1:
            raise UsageError(f"batch size {self.images}: expected at least 1")

    def _fitting(self, styles_per_image: int) -> int:
        """Choose images per batch: 64 rows on a CPU; on a GPU what fits into 70 % of its free memory, 256 rows at most."""
        decoder = self.decoder
        if decoder.captioner.device.type != "cuda":
            return max(1, 64 // styles_per_image)
        free, _ = torch.cuda.mem_get_info(decoder.captioner.device)
        positions = (decoder.before.shape[1] + decoder.captioner.num_image_tokens + decoder.captioner.style_tokens
                     + decoder.after.shape[1] + 2 * GROWTH)
        # Twice: leaving rows copies the cache.
        row = 2 * positions * decoder.llama.bytes_per_position()
        return max(1, min(256, int(0.7 * free / row)) // styles_per_image)

    def caption(self, pixels: torch.Tensor, style_ids: Sequence[Sequence[int]],
                keys: Sequence[Sequence[str]] | None = None) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], at most `images` at a time."""
        captions: list[list[Generated]] = []
        while len(captions) < len(pixels):
            part = slice(len(captions), len(captions) + self.images)
            try:
                captions += self.decoder.caption(pixels[part], style_ids[part], None if keys is None else keys[part])
            except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if self.images == 1 or not _is_out_of_memory(error):
                    raise
                self.images = max(1, min(self.images, len(pixels)) // 2)
                log.warning("out of memory: %d images at a time from now on", self.images)
            if torch.cuda.is_available() and len(captions) < len(pixels):
                torch.cuda.empty_cache()
        return captions


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
