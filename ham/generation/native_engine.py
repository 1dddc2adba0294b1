"""The captioner as the run sees it: pixels in, captions out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from ham.captioner.decode import Batches
from ham.captioner.engine import Decoder, DecodeSettings
from ham.captioner.model import Captioner
from ham.generation.images import LoadSquare
from ham.generation.run import Caption
from ham.generation.style_draws import Draw

WHOLE = 1 << 20  # bytes up to which a tensor is hashed whole
SAMPLES = 4096  # elements that are hashed of a larger one, beside its sum


class CaptionerEngine:
    """Caption with a Decoder, by default a new one. batch_images: images per batch; None finds it."""

    def __init__(
        self,
        captioner: Captioner,
        settings: DecodeSettings,
        batch_images: int | None = None,
        captions_per_image: int = 1,
        decoder: Decoder | None = None,
    ) -> None:
        self.load = LoadSquare(captioner.image_size_px)
        self.decoder = decoder or Decoder(captioner, settings)
        self._batches = Batches(self.decoder, batch_images, captions_per_image)

    @property
    def batch_images(self) -> int:
        return self._batches.images

    def caption(
        self, images: Sequence[str], pixels: Sequence[np.ndarray], draws: Sequence[Sequence[Draw]]
    ) -> list[list[Caption]]:
        """Caption each image once per draw. A sampled caption's random numbers are its image's, style's and attempt's own."""
        keys = [
            [f"{image}/{draw.style_id}/{draw.attempt}" for draw in own]
            for image, own in zip(images, draws, strict=True)
        ]
        style_ids = [[draw.style_id for draw in own] for own in draws]
        captions = self._batches.caption(torch.from_numpy(np.stack(pixels)), style_ids, keys)
        return [[Caption(one.text, len(one.ids)) for one in own] for own in captions]


def fingerprint(captioner: Captioner) -> str:
    """Give a digest of a captioner's weights as loaded, whatever files they came from.

    Large tensors count by their shape, the sum of their bit patterns and evenly spaced elements: 14 GB take seconds.
    """
    digest = hashlib.sha256()
    for parameter in captioner.model.parameters():
        data = parameter.detach().contiguous().flatten()
        bits = data.view({2: torch.int16, 4: torch.int32}[data.element_size()])
        if len(bits) * bits.element_size() > WHOLE:
            digest.update(str(int(bits.sum(dtype=torch.int64))).encode())
            bits = bits[:: len(bits) // SAMPLES]
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype}".encode() + bits.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
