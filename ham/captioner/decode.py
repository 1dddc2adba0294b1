"""Captions for any number of images: batches of a size that fits.

`engine.py` holds the prompt, `stream.py` keeps a batch full.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ham.captioner.engine import GROWTH, Decoder, DecodeSettings, Generated, ImageJob
from ham.captioner.model import Captioner
from ham.captioner.stream import CaptionStream, mean_count
from ham.llava.preprocess import preprocess
from ham.runtime import UsageError


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
    batches = Batches(decoder, batch_size, mean_count(style_ids))
    jobs = (
        ImageJob(preprocess(image, captioner.image_size_px), styles, None, number)
        for number, (image, styles) in enumerate(zip(images, style_ids, strict=True))
    )
    captions: list[list[str]] = [[] for _ in images]
    for job, made in batches.stream.run(lambda: next(jobs, None), len(images)):
        captions[job.tag] = [one.text for one in made]
    return captions


class Batches:
    """Caption batches of a size that fits: chosen from the memory there is, halved when it runs out.

    images: how many images to caption at a time, each with `styles_per_image` captions; None chooses.
    """

    def __init__(self, decoder: Decoder, images: int | None = None, styles_per_image: int = 1) -> None:
        if images is not None and images < 1:
            raise UsageError(f"batch size {images}: expected at least 1")
        group = max(styles_per_image, 1)
        self.stream = CaptionStream(
            decoder, _rows_that_fit(decoder, group) if images is None else images * group, group
        )

    @property
    def images(self) -> int:
        """How many images are in work at a time."""
        return self.stream.max_slots

    def caption(
        self,
        pixels: torch.Tensor,
        style_ids: Sequence[Sequence[int]],
        sampling_keys: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], each in its own list of styles."""
        return self.stream.caption(pixels, style_ids, sampling_keys)


def _rows_that_fit(decoder: Decoder, group: int) -> int:
    """Choose captions at a time: 64 on a CPU; on a GPU what fits into its free memory, at most 256."""
    if decoder.captioner.device.type != "cuda":
        return 64
    free, _ = torch.cuda.mem_get_info(decoder.captioner.device)
    own = decoder.suffix_length(with_style=True) + min(decoder.settings.max_new_tokens, 2 * GROWTH)
    slot = (decoder.prefix_length + group * own) * decoder.llama.bytes_per_position()
    return max(1, min(256, group * int(0.8 * free / slot)))
