"""The comparison of a written export with our own engine: prompt ids and first-step logits.

Loads the export as a user of transformers does, with nothing of this package.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ham.captioner.checkpoint import OpenCheckpoint, load_captioner
from ham.llava.conversation import prompt_pieces
from ham.llava.preprocess import preprocess
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.records import DEFAULT_PROMPT
from ham.runtime import WorkError, log

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of the largest logit
FLOAT32_BYTES = 6 * 2**30  # larger models are compared in bfloat16


def check_export(opened: OpenCheckpoint, folder: Path, vocabulary: int) -> None:
    """Raise WorkError with the figures when the export makes other prompt ids or logits than our own engine.

    vocabulary: V, the ids before the added tokens.
    """
    styles = (
        [None, *sorted({0, opened.num_styles // 2, opened.num_styles - 1})] if opened.num_styles else [None]
    )
    size = sum(4 * math.prod(info.shape) for info in opened.source.index.values())
    dtype = torch.float32 if size <= FLOAT32_BYTES else torch.bfloat16
    expected = own_steps(opened, styles, dtype, vocabulary)
    found = stock_steps(folder, opened, styles, dtype)
    for style, (ids, logits), (new_ids, new_logits) in zip(styles, expected, found, strict=True):
        compare_ids(style, ids, new_ids)
        scale = logits.abs().max().item()
        apart = (logits - new_logits[:vocabulary]).abs().max().item() / max(scale, 1e-6)
        if not apart <= TOLERANCE[dtype]:
            raise WorkError(
                f"the export's first logits for style {style} are {apart:.3g} of the largest logit apart from our engine's; "
                f"expected at most {TOLERANCE[dtype]:g}"
            )
        added = new_logits[vocabulary:].max().item()
        if added > new_logits[:vocabulary].max().item():
            raise WorkError(
                f"the export would write an added token (logit {added:.3g}, the largest) for style {style}"
            )
        log.info("style %s: prompt ids equal, first logits within %.2g of the largest", style, apart)


def compare_ids(style: int | None, ids: list[int], new_ids: list[int]) -> None:
    """Raise WorkError naming the first place where two prompts differ."""
    if ids == new_ids:
        return
    place = next((at for at, (a, b) in enumerate(zip(ids, new_ids)) if a != b), min(len(ids), len(new_ids)))
    raise WorkError(
        f"the export's prompt for style {style} has other ids from position {place} on: {new_ids[place : place + 12]} ... "
        f"of {len(new_ids)}, expected {ids[place : place + 12]} ... of {len(ids)}"
    )


def probe_image(size_px: int) -> Image.Image:
    """Return a square image for the comparison, the same pixels for every engine."""
    return Image.linear_gradient("L").resize((size_px, size_px)).convert("RGB")


@torch.no_grad()
def own_steps(
    opened: OpenCheckpoint, styles: list[int | None], dtype: torch.dtype, vocabulary: int
) -> list[tuple[list[int], torch.Tensor]]:
    """Compute (ids as the export should have them, logits [V] of the first step) in each style with our own engine."""
    captioner = load_captioner(opened, dtype=dtype)
    pixels = preprocess(probe_image(opened.image_size_px), opened.image_size_px)[None]
    prompt = opened.source.manifest.get("prompt") or DEFAULT_PROMPT
    before, after = prompt_pieces(captioner.tokenizer, prompt, opened.template)
    steps = []
    for style in styles:
        ids = torch.tensor([[*before, IMAGE_TOKEN_INDEX, *after]])
        style_ids = None if style is None else torch.tensor([style])
        logits = captioner.model(ids, images=pixels, style_ids=style_ids).logits[0, -1, :vocabulary].float()
        tokens = opened.style_tokens
        added = [] if style is None else [vocabulary + 1 + style * tokens + k for k in range(tokens)]
        steps.append(([*before, *[vocabulary] * opened.num_image_tokens, *added, *after], logits))
    return steps


@torch.no_grad()
def stock_steps(
    folder: Path, opened: OpenCheckpoint, styles: list[int | None], dtype: torch.dtype
) -> list[tuple[list[int], torch.Tensor]]:
    """Compute (prompt ids, logits of the first step) in each style with transformers alone."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model, report = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
    )
    strange = {kind: sorted(report[kind])[:3] for kind in ("missing_keys", "unexpected_keys") if report[kind]}
    if strange:
        raise WorkError(f"the export's weights do not fill transformers' LLaVA: {strange}")
    image = probe_image(opened.image_size_px)
    pixels = preprocess(image, opened.image_size_px)[None].to(dtype)
    prompt = opened.source.manifest.get("prompt") or DEFAULT_PROMPT
    steps = []
    for style in styles:
        inputs = processor(
            text=prompt_text(processor, prompt, style),
            images=image,
            add_special_tokens=False,
            return_tensors="pt",
        )
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels
        ).logits
        steps.append((inputs["input_ids"][0].tolist(), logits[0, -1].float()))
    return steps


def prompt_text(processor: Any, prompt: str, style: int | None) -> str:
    """Render the chat template for one image."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    given = {} if style is None else {"style": style}
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, **given
    )
