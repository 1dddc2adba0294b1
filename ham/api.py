"""The Python API: caption images in chosen styles, and embed images and sentences in one space.

    import ham

    captioner = ham.load_captioner("checkpoints/ham")
    captions = ham.caption_images(captioner, ["person.jpg"], styles=[0, 1, 2])

    retrieval = ham.load_retrieval("runs/pretrain_ham_1m/last")
    scores = retrieval.encode_texts(["a man in a red jacket"]) @ retrieval.encode_images(["person.jpg"]).T

Everything that these functions do not offer is in the modules that they call: `ham.captioner.decode`, `ham.reid.encode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ham.runtime import UsageError, resolve_device, resolve_dtype

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ham.captioner.model import Captioner

ImageLike: TypeAlias = "str | Path | Image.Image"


def load_captioner(
    path: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    base_model: str | Path | None = None,
    vision_tower: str | None = None,
) -> Captioner:
    """Load a captioner from a local folder: our adapter, a HAM or LLaVA-1.5 / 1.6 checkpoint, or its llava-hf copy.

    Args:
        path: folder of the checkpoint; its format is detected from the files
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...
        dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16
        base_model: path of an adapter's base model, if it has moved since training
        vision_tower: by default the one that the checkpoint names; "checkpoint" for the one inside, or a path

    Returns the captioner; `captioner.num_styles` is its number of styles (0 for a plain LLaVA).
    Raises UsageError if a file or a weight is missing, unexpected or of another shape.
    """
    from ham.captioner import checkpoint

    chosen = resolve_device(device)
    return checkpoint.load_captioner(
        path, chosen, resolve_dtype(dtype, chosen), vision_tower, base_model=base_model
    )


def caption_images(
    captioner: Captioner,
    images: Sequence[ImageLike],
    styles: Sequence[int] | Sequence[Sequence[int]] | None = None,
    prompt: str | None = None,
    max_new_tokens: int = 120,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[str]]:
    """Caption images, each in one or more styles.

    Args:
        captioner: from `load_captioner`
        images: paths or PIL images
        styles: style ids from 0 to `captioner.num_styles` - 1, the same for every image, or one list for each image; None
            captions each image once without a style
        prompt: the instruction, without `<image>`; by default the checkpoint's
        max_new_tokens: longest caption, in tokens
        temperature: 0 is greedy decoding
        seed: of sampling, for temperatures above 0

    Returns one list of captions for each image, in the order of its styles.
    Raises ImageError for an unreadable image and UsageError for a style that does not exist.
    """
    from ham.captioner.decode import generate
    from ham.records import NO_STYLE

    opened = [_open(image) for image in images]
    style_ids: list[list[int]] = []
    for style in [NO_STYLE] if styles is None else styles:
        style_ids.append([int(style)] if isinstance(style, Integral) else list(style))
    if styles is None or all(isinstance(style, Integral) for style in styles):
        style_ids = [[own[0] for own in style_ids]] * len(opened)
    if len(style_ids) != len(opened):
        raise UsageError(
            f"{len(opened)} images but {len(style_ids)} lists of styles; give one list for each image"
        )
    unknown = sorted(
        {style for own in style_ids for style in own if not NO_STYLE <= style < captioner.num_styles}
    )
    if unknown:
        raise UsageError(
            f"style {unknown[0]} does not exist; the captioner has {captioner.num_styles} styles"
        )
    return generate(captioner, opened, style_ids, prompt, None, max_new_tokens, temperature, seed=seed)


@dataclass(frozen=True)
class Retrieval:
    """A retrieval model that embeds images and sentences in one space; made by `load_retrieval`.

    model: the module (CLIP, IRRA, RDE ...). Embeddings have length 1, so that their dot product is the cosine similarity; for
    RDE it is the mean of its two cosines.
    """

    model: Any

    def encode_images(self, images: Sequence[ImageLike], batch_size: int = 128) -> Tensor:
        """Encode paths or PIL images: float32 [N, D] on the CPU. Raises ImageError for an unreadable image."""
        import numpy as np
        import torch

        from ham.reid.batch import normalize
        from ham.reid.encode import EncodeSettings, evaluation_mode
        from ham.reid.images import resize
        from ham.reid.protocol import joined

        size = EncodeSettings().for_model(self.model).image_size_px
        device = next(self.model.parameters()).device
        rows = []
        with evaluation_mode(self.model):
            for start in range(0, len(images), batch_size):
                pixels = np.stack(
                    [resize(_open(image), size) for image in images[start : start + batch_size]]
                )
                batch = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device))  # [B, 3, H, W]
                rows.append(joined([branch.float() for branch in self.model.image_features(batch)]).cpu())
        return torch.cat(rows) if rows else torch.empty(0, 0)

    def encode_texts(self, sentences: Sequence[str], batch_size: int = 128) -> Tensor:
        """Encode English sentences: float32 [N, D] on the CPU. Text beyond 77 tokens is cut."""
        from ham.reid.encode import EncodeSettings, encode_texts

        if isinstance(sentences, str):
            raise UsageError("encode_texts expects a list of sentences; put the sentence in brackets")
        return encode_texts(self.model, list(sentences), EncodeSettings(batch_size=batch_size))


def load_retrieval(path: str | Path, device: str = "auto", method: str | None = None) -> Retrieval:
    """Load a retrieval model from a local file or folder.

    Args:
        path: our checkpoint (`runs/.../last`), an IRRA / RDE / HAM .pth, OpenAI's ViT-B-16.pt, an open_clip or
            Hugging Face CLIP folder; the format is detected from the files
        device: auto (a GPU if there is one), cpu, cuda, ...
        method: by default what the checkpoint holds

    Raises UsageError if a weight is missing or of another shape.
    """
    from ham.reid.weights import load_method

    model = load_method(path, method)
    model.to(resolve_device(device))
    return Retrieval(model)


def _open(image: ImageLike) -> Image.Image:
    from PIL import Image

    from ham.images import open_image

    return image.convert("RGB") if isinstance(image, Image.Image) else open_image(image)
