"""The native engine: our decoder in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ham.captioner.adapter import find_captioner
from ham.captioner.checkpoint import bank_size, load_captioner
from ham.captioner.decode import Batches
from ham.captioner.engine import Decoder, DecodeSettings, ImageJob
from ham.captioner.families import family_of
from ham.captioner.model import Captioner, weights_digest
from ham.captioner.quantize import FULL, check_weights, quantize
from ham.generation.config import JobOptions
from ham.generation.engines import Caption, Job, Result, Source
from ham.generation.loading import LoadSquare
from ham.generation.style_draws import Draw, checked_ids
from ham.llava.source import check_aspect_ratio
from ham.runtime import UsageError, resolve_device, resolve_dtype


def count_styles(options: JobOptions) -> int:
    """Return the number of styles of --model-path, read from its headers; also check --device and --dtype."""
    device = resolve_device(options.device)
    resolve_dtype(options.dtype, device)
    check_weights(options.weights, device)
    assert options.model_path
    if family_of(options.model_path) != "llava":
        raise UsageError(
            f"{options.model_path}: the native engine runs LLaVA only; use --engine transformers for a few images, or "
            "export the captioner (python -m ham.captioner.checkpoint merge) and use --engine server"
        )
    source = find_captioner(options.model_path, options.base_model)
    check_aspect_ratio(source, options.image_aspect_ratio)
    return bank_size(source, None)[0]


def untrained_styles(options: JobOptions) -> list[int]:
    """Return the styles that the checkpoint's manifest records as untrained."""
    assert options.model_path
    manifest = find_captioner(options.model_path, options.base_model).manifest
    return checked_ids(manifest.get("untrained_styles"), f"{options.model_path}: untrained_styles")


def open_engine(options: JobOptions, captions_per_image: int) -> CaptionerEngine:
    """Load the captioner."""
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    tower = None if options.vision_tower == "reference" else options.vision_tower
    assert options.model_path
    captioner = load_captioner(
        options.model_path,
        device,
        dtype,
        tower,
        base_model=options.base_model,
        image_aspect_ratio=options.image_aspect_ratio,
    )
    decoding = DecodeSettings(
        options.prompt,
        options.template,
        options.max_new_tokens,
        options.temperature,
        options.top_p,
        options.seed,
    )
    return CaptionerEngine(
        captioner, decoding, options.batch_size, captions_per_image, weights=options.weights
    )


class CaptionerEngine:
    """Caption with a Decoder, by default a new one. batch_images: images per batch; None finds it.

    weights: full, or int8 or fp8, in which the captioner's are then changed.
    """

    def __init__(
        self,
        captioner: Captioner,
        settings: DecodeSettings,
        batch_images: int | None = None,
        captions_per_image: int = 1,
        decoder: Decoder | None = None,
        weights: str = FULL,
    ) -> None:
        digest = weights_digest(captioner.model)  # of the weights before they are quantized
        quantize(captioner.model.llm, weights, captioner.device)
        self.load = LoadSquare(captioner.image_size_px)
        self.decoder = decoder or Decoder(captioner, settings)
        self._batches = Batches(self.decoder, batch_images, captions_per_image)
        self.settings: dict[str, Any] = {
            "engine": "native",
            "model": digest,
            "dtype": str(captioner.dtype).removeprefix("torch."),
            "weights": weights,
            "prompt": self.decoder.prompt,
            "template": self.decoder.template.name,
        }
        self.info: dict[str, Any] = {
            "vision_tower": captioner.manifest.get("vision_tower"),
            "num_styles": captioner.num_styles,
            "device": str(captioner.device),
        }

    @property
    def batch_images(self) -> int:
        return self._batches.images

    @property
    def seconds(self) -> dict[str, float]:
        return dict(self.decoder.seconds)

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job with its captions. A sampled caption's random numbers are its image's, style's and attempt's own."""

        def take() -> ImageJob | None:
            job = source()
            if job is None:
                return None
            sampling_keys = [f"{job.image}/{draw.style_id}/{draw.attempt}" for draw in job.draws]
            style_ids = [draw.style_id for draw in job.draws]
            return ImageJob(torch.from_numpy(job.pixels), style_ids, sampling_keys, job)

        for done, captions in self._batches.stream.run(take):
            yield done.tag, [Caption(one.text, len(one.ids), one.failure) for one in captions]

    def caption(
        self, images: Sequence[str], pixels: Sequence[np.ndarray], draws: Sequence[Sequence[Draw]]
    ) -> list[list[Caption]]:
        """Caption some images, each once per draw, and return the captions in their order."""
        jobs = [Job(*one) for one in zip(images, pixels, map(list, draws), strict=True)]
        waiting = deque(jobs)
        made = {
            id(job): captions for job, captions in self.run(lambda: waiting.popleft() if waiting else None)
        }
        return [made[id(job)] for job in jobs]

    def close(self) -> None:
        """Nothing to release: the model lives as long as the process."""
