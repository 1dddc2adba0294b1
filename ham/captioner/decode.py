"""Captions for any number of images: batches of a size that fits.

`decoder.py` knows how one batch is captioned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ham.captioner.engine import GROWTH, Decoder, DecodeSettings, Generated
from ham.captioner.model import Captioner
from ham.llava.preprocess import preprocess
from ham.runtime import UsageError, log


def generate(
    captioner: Captioner,
    images: Sequence[Image.Image],
    style_ids: Sequence[Sequence[int]],
    prompt: str | None = None,
    template: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[list[str]]:
    """Caption images in the styles asked for each; the result has the shape of `style_ids`.

    prompt: the instruction without `<image>`; None is the checkpoint's, else the reference's. template: v1 | llava_v1 |
    llava_v0; None is the checkpoint's. style -1 adds no style tokens. batch_size: images at a time; found when None.
    The captions do not depend on the batch (float32 on a CPU: exactly).
    """
    if len(images) != len(style_ids):
        raise UsageError(
            f"{len(images)} images but {len(style_ids)} lists of styles; give each image its list"
        )
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
    """Caption batches of a size that fits: chosen from the memory there is, halved when it runs out.

    rows: captions at a time; images: as many images as make that many rows.
    """

    def __init__(self, decoder: Decoder, images: int | None = None, styles_per_image: int = 1) -> None:
        if images is not None and images < 1:
            raise UsageError(f"batch size {images}: expected at least 1")
        self.decoder, self.styles_per_image = decoder, max(styles_per_image, 1)
        self.rows = self._fitting() if images is None else images * self.styles_per_image

    @property
    def images(self) -> int:
        return max(1, self.rows // self.styles_per_image)

    def _fitting(self) -> int:
        """Choose rows per batch: 64 on a CPU; on a GPU what fits into 70 % of its free memory, at most 256."""
        decoder = self.decoder
        if decoder.captioner.device.type != "cuda":
            return 64
        free, _ = torch.cuda.mem_get_info(decoder.captioner.device)
        positions = (
            decoder.before.shape[1]
            + decoder.captioner.num_image_tokens
            + decoder.captioner.style_tokens
            + decoder.after.shape[1]
            + 2 * GROWTH
        )
        # Twice: rows that leave make the others' cache be copied.
        return max(1, min(256, int(0.7 * free / (2 * positions * decoder.llama.bytes_per_position()))))

    def caption(
        self,
        pixels: torch.Tensor,
        style_ids: Sequence[Sequence[int]],
        keys: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], at most `rows` captions at a time; an image with more styles is done in parts."""
        captions: list[list[Generated]] = [[] for _ in style_ids]
        while parts := self._next_parts(captions, style_ids):
            images = [image for image, _ in parts]
            styles = [style_ids[image][part] for image, part in parts]
            names = None if keys is None else [keys[image][part] for image, part in parts]
            try:
                made = self.decoder.caption(pixels[images], styles, names)
            except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
                count = sum(map(len, styles))
                if count == 1 or not _is_out_of_memory(error):
                    raise
                self.rows = count // 2
                log.warning("out of memory: %d captions at a time from now on", self.rows)
                made = None
            if made is None:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # outside the except block, where the traceback still holds tensors
                continue
            for image, new in zip(images, made, strict=True):
                captions[image] += new
        return captions

    def _next_parts(
        self, captions: Sequence[Sequence[Generated]], style_ids: Sequence[Sequence[int]]
    ) -> list[tuple[int, slice]]:
        """Name the next captions to make: images, each with a range of its styles, `rows` in all."""
        parts, room = [], self.rows
        for image, (made, styles) in enumerate(zip(captions, style_ids, strict=True)):
            missing = min(len(styles) - len(made), room)
            if missing > 0:
                parts.append((image, slice(len(made), len(made) + missing)))
                room -= missing
        return parts


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        error
    )
