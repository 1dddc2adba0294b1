"""Write a captioner of the `vlm` family as an ordinary folder of its base model's architecture, styles included.

The folder runs in any engine that runs the base model; `style` is a variable of its chat template. Before the folder
appears it is read back and compared with the captioner it was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ham.captioner.model_card import model_card
from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.captioner.vlm_model import VlmCaptioner
from ham.runtime import UsageError, WorkError, log
from ham.tensor_files import check_new_folder
from ham.vlm.export import extend_tables, save_folder
from ham.vlm.load import load_model
from ham.vlm.prompts import PromptWriter, chat_template_of

TOLERANCE = 1e-3  # of first-step logits in float32


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
    network = captioner.model.network
    processor = captioner.base.processor

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
    """Return the model card."""
    modules = ", ".join(captioner.manifest["projector_modules"])
    return model_card(
        base=captioner.base.folder.name,
        num_styles=mark["num_styles"],
        style_tokens=mark["style_tokens"],
        first_style_token=mark["first_style_token"],
        prompt=mark["prompt"],
        facts=f"Architecture: `{captioner.manifest['model_type']}`; the projector is {modules}.",
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
