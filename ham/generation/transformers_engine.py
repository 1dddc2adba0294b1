"""The transformers engine: a captioner of the `vlm` family through its network's own `generate`, one caption at a time.

Slow and exact: every caption is a batch of its own, so in float32 it depends on its image, style and attempt only. For many
images export the captioner and use a server (ham/generation/README.md).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ham.captioner.families import family_of
from ham.captioner.model import weights_digest
from ham.captioner.vlm_adapter import load_vlm_captioner, read_manifest
from ham.captioner.vlm_model import VlmCaptioner
from ham.generation.config import JobOptions
from ham.generation.engines import Caption, Job, Result, Source
from ham.images import open_image
from ham.runtime import UsageError, derive_seed, resolve_device, resolve_dtype


def count_styles(options: JobOptions) -> int:
    """Return the number of styles of --model-path, read from its manifest; also check --device and --dtype."""
    resolve_dtype(options.dtype, resolve_device(options.device))
    assert options.model_path
    folder = Path(options.model_path)
    if not folder.is_dir():
        raise UsageError(f"--model-path {folder}: no such folder")
    if family_of(folder) != "vlm":
        raise UsageError(
            f"{folder}: not a captioner of the family 'vlm'; for a LLaVA use --engine native, which captions many images at "
            "once. The transformers engine is for adapters of other vision-language models"
        )
    return int(read_manifest(folder)["num_styles"])


def open_engine(options: JobOptions, captions_per_image: int) -> TransformersEngine:
    """Load the captioner. Raises UsageError for LLaVA's options, which other models do not have."""
    for name, given in (
        ("--template", options.template),
        ("--image-aspect-ratio", options.image_aspect_ratio),
    ):
        if given:
            raise UsageError(f"{name} belongs to LLaVA; the model brings its own. Leave it out")
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    assert options.model_path
    captioner = load_vlm_captioner(options.model_path, device, dtype, options.base_model)
    return TransformersEngine(captioner, options)


def load_pixels(path: Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3]; the model's processor resizes it."""
    return np.asarray(open_image(path))


class TransformersEngine:
    """Caption one image in one style at a time."""

    def __init__(self, captioner: VlmCaptioner, options: JobOptions) -> None:
        self.load = load_pixels
        self.captioner, self.options = captioner, options
        self.prompt = options.prompt or captioner.prompt
        self.generating_s = 0.0
        self.settings: dict[str, Any] = {
            "engine": "transformers",
            "model": weights_digest(captioner.model),
            "dtype": str(captioner.model.network.dtype).removeprefix("torch."),
            "prompt": self.prompt,
            "template": hashlib.sha256(captioner.writer.template.encode()).hexdigest()[:16],
        }
        self.info: dict[str, Any] = {
            "model_type": captioner.manifest["model_type"],
            "base_model": captioner.manifest["base_model"],
            "num_styles": captioner.num_styles,
            "device": str(captioner.device),
        }

    @property
    def batch_images(self) -> int:
        return 1

    @property
    def seconds(self) -> dict[str, float]:
        return {"generate": self.generating_s}

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job of the source with a caption per draw."""
        while (job := source()) is not None:
            start = time.perf_counter()
            image = Image.fromarray(job.pixels)
            captions = [self.caption(job, image, draw) for draw in job.draws]
            self.generating_s += time.perf_counter() - start
            yield job, captions

    def caption(self, job: Job, image: Image.Image, draw: Any) -> Caption:
        """Caption one image in one style; logits that are not finite make the caption a failure."""
        options: dict[str, Any] = {}
        if not self.options.is_greedy:
            name = f"{job.image}/{draw.style_id}/{draw.attempt}"
            torch.manual_seed(derive_seed(self.options.seed, "caption", name))
            options = {
                "do_sample": True,
                "temperature": self.options.temperature,
                "top_p": self.options.top_p,
                "top_k": 0,
            }
        try:
            ids = self.captioner.caption_ids(
                image, draw.style_id, self.options.max_new_tokens, self.prompt, **options
            )
        except FloatingPointError as error:
            return Caption("", 0, str(error))
        text = self.captioner.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Caption(text, len(ids))

    def close(self) -> None:
        """Nothing to release: the model lives as long as the process."""
