"""Write a captioner of the `vlm` family as an ordinary folder of its base model's architecture, styles included.

The folder runs in any engine that runs the base model; `style` is a variable of its chat template. Before the folder
appears it is read back and compared with the captioner it was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.captioner.vlm_model import VlmCaptioner
from ham.runtime import UsageError, WorkError, log
from ham.tensor_files import check_new_folder
from ham.vlm.export import extend_tables, save_folder
from ham.vlm.load import load_model
from ham.vlm.prompts import PromptWriter, chat_template_of

TOLERANCE = 1e-3  # of first-step logits in float32

CARD = """---
base_model: {base}
pipeline_tag: image-text-to-text
tags: [person-retrieval, image-captioning]
---

# HAM captioner: {num_styles} styles in {model_type}

Describes pedestrians in {num_styles} styles of human annotators. Each style is {style_tokens} tokens added to the vocabulary of
`{base}`; only their embeddings and the projector ({projector}) were trained, everything else is the base model's. The
base model's license applies.

Ask for a style through the chat template's variable `style` (0 to {last}); without it the base model answers. The instruction
of training:

> {prompt}

```bash
vllm serve DIR --limit-mm-per-prompt '{{"image": 1}}'
python -m sglang.launch_server --model-path DIR --host 0.0.0.0 --port 8000
```

```json
{{"model": "DIR", "temperature": 0, "chat_template_kwargs": {{"style": {last}}}, "messages": [{{"role": "user", "content": [
  {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,..."}}}},
  {{"type": "text", "text": "{prompt}"}}]}}]}}
```

Greedy decoding never writes a style token: their output rows are the mean of all others. Sampling can; mask the ids
{first} to {end} (`suppress_tokens` in transformers, `allowed_token_ids` in vLLM).
"""


def export_vlm(
    model_path: str | Path,
    out: str | Path,
    base_model: str | Path | None = None,
    max_shard_gib: float = 4.0,
) -> None:
    """Export the adapter at `model_path` to the new folder `out`.

    Raises UsageError for an adapter that cannot be read or an `out` that is not empty, and WorkError with the figures when
    what was written computes something else than the captioner.
    """
    check_new_folder(out)
    captioner = load_vlm_captioner(model_path, base_model=base_model)
    styles = sorted({0, captioner.num_styles - 1})
    expected = first_steps(captioner.model.network, captioner.writer, captioner.prompt, [None, *styles])
    mark = mark_of(captioner)
    rows = captioner.model.style_rows().detach()
    extend_tables(captioner.model.network, rows, captioner.model.first_style_token)
    network, processor = captioner.model.network, captioner.base.processor

    def check(folder: Path) -> None:
        exported = load_model(folder)
        writer = PromptWriter(exported.processor, chat_template_of(exported.processor), exported.end_ids)
        found = first_steps(exported.network, writer, captioner.prompt, [None, *styles])
        compare(expected, found, captioner.model.first_style_token, len(rows))

    card = card_of(captioner, mark)
    largest = max(1, int(max_shard_gib * 2**30))
    save_folder(out, network, processor, captioner.writer.template, mark, card, check, largest)
    log.info("exported %d styles on %s to %s", captioner.num_styles, captioner.base.folder, out)


def mark_of(captioner: VlmCaptioner) -> dict[str, Any]:
    """Build the entry `ham` of config.json, by which servers and loaders find the styles."""
    return {
        "num_styles": captioner.num_styles,
        "style_tokens": captioner.style_tokens,
        "first_style_token": captioner.model.first_style_token,
        "prompt": captioner.prompt,
        "template": None,
        "family": "vlm",
    }


def card_of(captioner: VlmCaptioner, mark: dict[str, Any]) -> str:
    """Write the model card."""
    first = mark["first_style_token"]
    return CARD.format(
        base=captioner.base.folder.name,
        model_type=captioner.manifest["model_type"],
        projector=", ".join(captioner.manifest["projector_modules"]),
        last=captioner.num_styles - 1,
        first=first,
        end=first + captioner.num_styles * captioner.style_tokens - 1,
        **{name: mark[name] for name in ("num_styles", "style_tokens", "prompt")},
    )


@torch.no_grad()
def first_steps(
    network: torch.nn.Module, writer: PromptWriter, prompt: str, styles: list[int | None]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Compute (prompt ids [T], next-token logits [V]) of one test image in each style."""
    image = Image.linear_gradient("L").resize((96, 224)).convert("RGB")
    found = []
    for style in styles:
        inputs = writer.encode(image, prompt, style)
        found.append((inputs["input_ids"][0], network(**inputs).logits[0, -1].float()))
    return found


def compare(
    expected: list[tuple[torch.Tensor, torch.Tensor]],
    found: list[tuple[torch.Tensor, torch.Tensor]],
    first: int,
    count: int,
) -> None:
    """Raise WorkError where prompt ids differ or logits of the old vocabulary are further apart than TOLERANCE.

    first, count: ids of the style tokens, whose logits must stay below the largest.
    """
    for (ids, logits), (new_ids, new_logits) in zip(expected, found, strict=True):
        if not torch.equal(ids, new_ids):
            raise WorkError(
                f"the export tokenizes its prompt otherwise: {new_ids[:24].tolist()} ..., expected {ids[:24].tolist()} ..."
            )
        apart = (logits[:first] - new_logits[:first]).abs().max().item()
        if not apart <= TOLERANCE:
            raise WorkError(
                f"the export's first logits are {apart:.3g} apart from the captioner's; expected {TOLERANCE:g}"
            )
        if new_logits[first : first + count].max() > new_logits[:first].max():
            raise UsageError("the export would write style tokens")
