"""What the client of a server needs of the export that the server holds: its config.json, and images as it takes them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham.generation.config import JobOptions
from ham.generation.server_client import Expected
from ham.generation.style_draws import checked_ids
from ham.images import ImageError
from ham.llava.preprocess import open_image, square_image
from ham.records import DEFAULT_PROMPT, check_int, check_kind, read_json
from ham.runtime import UsageError

EXPORT_COMMAND = "python -m ham.captioner.checkpoint merge --layout llava-hf --model-path CKPT --out DIR"


@dataclass(frozen=True)
class LoadPng:
    """Read an image file into a PNG; squared to `size_px` as the captioner's preprocessing does, or as it is (None)."""

    size_px: int | None

    def __call__(self, path: Path) -> np.ndarray:
        image = open_image(path)
        if self.size_px is not None:
            image = square_image(image, self.size_px)
        elif max(image.size) > 8192:
            raise ImageError(
                path, f"too large: {image.width} x {image.height} pixels; at most 8,192 a side are sent"
            )
        return np.frombuffer(png_of(image), dtype=np.uint8)


def png_of(image: Image.Image) -> bytes:
    """Return an image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------------- the export


def read_export(options: JobOptions) -> tuple[Expected, dict[str, Any]]:
    """Read from an export's config.json what its servers must hold, and the image size (absent: images are sent as they are).

    Raises UsageError when the folder is no export.
    """
    assert options.model_path
    folder = Path(options.model_path)
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(
            f"--model-path {folder}: no config.json; expected an export, made with: {EXPORT_COMMAND}"
        )
    config = check_kind(read_json(file), dict, str(file))
    if "ham" not in config:
        raise UsageError(
            f"--model-path {folder}: not an export of a captioner (no entry `ham` in config.json); make one with: "
            f"{EXPORT_COMMAND}"
        )
    mark = check_kind(config["ham"], dict, f"{file}: ham")
    num_styles = check_int(mark.get("num_styles"), f"{file}: ham: num_styles", 0, 10**7)
    style_tokens = check_int(mark.get("style_tokens") or 0, f"{file}: ham: style_tokens", 0, 10**4)
    recorded = mark.get("prompt")
    prompt = options.prompt if options.prompt is not None else recorded
    prompt = DEFAULT_PROMPT if prompt is None else check_kind(prompt, str, f"{file}: ham: prompt")
    if options.template is not None and options.template != mark.get("template"):
        raise UsageError(
            f"--template {options.template}: the export's chat template is {mark.get('template')}; export again with another"
        )
    size_px = None
    if mark.get("family", "llava") == "llava":
        vision = check_kind(config.get("vision_config"), dict, f"{file}: vision_config")
        size_px = check_int(vision.get("image_size"), f"{file}: vision_config: image_size", 1, 4096)
    probe = Image.linear_gradient("L").resize((size_px or 224, size_px or 224)).convert("RGB")
    expected = Expected(
        folder.resolve().name,
        options.server_model,
        num_styles,
        style_tokens,
        prompt,
        options.max_new_tokens,
        png_of(probe),
    )
    untrained = checked_ids(mark.get("untrained_styles"), f"{file}: ham: untrained_styles")
    facts = {
        "size_px": size_px,
        "template": mark.get("template"),
        "prompt": prompt,
        "untrained_styles": untrained,
    }
    return expected, facts
