"""Style prompts inside any image-text-to-text model: each style is K added tokens whose rows alone are trained.

    prompt = [image tokens | K style tokens | instruction], through the model's own processor and chat template

The network stays frozen and unpatched; only its input embedding is wrapped (ham/vlm/vocabulary.py). The projector ("merger"
in Qwen) trains too, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ham.captioner.style_bank import StyleBank, check_style_ids
from ham.records import style_token
from ham.runtime import UsageError
from ham.vlm.load import VisionLanguageModel, image_token_of, projector_names
from ham.vlm.prompts import IGNORE_INDEX, PromptWriter, chat_template_of, with_style
from ham.vlm.vocabulary import add_tokens, extend_embedding


class VlmCaptionerModel(nn.Module):
    """Frozen network, style bank and projector under the names that the trainer and the adapter use.

    `style_bank.prompts` [S, K, D] and `projector.<module>.<parameter>` are the trained parameters; `network` holds the rest.
    """

    def __init__(
        self, network: nn.Module, style_bank: StyleBank, projectors: list[str], first_style_token: int
    ) -> None:
        super().__init__()
        self.style_bank = style_bank
        self.projector = nn.ModuleDict(
            {name.replace(".", "-"): network.get_submodule(name) for name in projectors}
        )
        self.network = network
        self.first_style_token = first_style_token
        self.image_token = image_token_of(network.config)
        count = style_bank.num_styles * style_bank.style_tokens
        extend_embedding(network, self.style_rows, first_style_token, count)

    @property
    def config(self) -> Any:
        """The language model's configuration: Trainer and DeepSpeed look for the width here."""
        return self.network.config.get_text_config()

    @property
    def vocab_size(self) -> int:
        """Rows of the output layer."""
        return len(self.network.get_output_embeddings().weight)

    def style_rows(self) -> torch.Tensor:
        """Return the rows of all style tokens [S * K, D]."""
        return self.style_bank.prompts.flatten(0, 1)

    def forward(self, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the network on a processor's tensors; input_ids [B, T], labels [B, T] with -100 where nothing is learned.

        Returns {"loss"}: the mean next-token loss over learned positions in float32, from the logits of those positions
        alone; without labels {"logits"} [B, T, V].
        """
        hidden = self.network.model(**inputs, use_cache=False)[0]  # [B, T, D]
        head = self.network.get_output_embeddings()
        if labels is None:
            return {"logits": head(hidden)}
        targets = labels[:, 1:]
        learned = targets != IGNORE_INDEX
        logits = head(hidden[:, :-1][learned]).float()  # [n, V]
        # No caption holds the image placeholder, and the original LLaVA has no row for it.
        logits = logits.index_fill(1, torch.tensor([self.image_token], device=logits.device), -torch.inf)
        loss = F.cross_entropy(logits, targets[learned], reduction="sum") / learned.sum().clamp(min=1)
        return {"loss": loss}


@dataclass
class VlmCaptioner:
    """A loaded captioner of the `vlm` family: model, processor, and what its checkpoint says about them."""

    model: VlmCaptionerModel
    base: VisionLanguageModel
    writer: PromptWriter
    prompt: str
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def num_styles(self) -> int:
        return self.model.style_bank.num_styles

    @property
    def style_tokens(self) -> int:
        return self.model.style_bank.style_tokens

    @property
    def device(self) -> torch.device:
        return self.model.style_bank.prompts.device

    @torch.no_grad()
    def caption(
        self, image: Any, style: int | None, max_new_tokens: int, prompt: str | None = None, **sampling: Any
    ) -> str:
        """Caption one image with the network's own `generate`, batch size 1; greedy unless `sampling` says otherwise.

        Returns the text without special tokens. Raises FloatingPointError where logits are not finite.
        """
        ids = self.caption_ids(image, style, max_new_tokens, prompt, **sampling)
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def caption_ids(
        self, image: Any, style: int | None, max_new_tokens: int, prompt: str | None = None, **sampling: Any
    ) -> list[int]:
        """Generate the ids of one caption, without the prompt's; no style token and no image placeholder is written.

        Vocabularies are padded (Qwen), so the output layer may have rows at the style tokens' ids.
        """
        if style is not None:
            check_style_ids(torch.tensor([style]), self.num_styles)
        inputs = self.writer.encode(image, prompt or self.prompt, style)
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        first = self.model.first_style_token
        style_ids = range(first, min(first + self.num_styles * self.style_tokens, self.model.vocab_size))
        options = {"do_sample": False, "suppress_tokens": [self.model.image_token, *style_ids]} | sampling
        written = self.model.network.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.base.end_ids),
            logits_processor=[refuse_non_finite],
            **options,
        )
        return written[0, inputs["input_ids"].shape[1] :].tolist()


def refuse_non_finite(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return logits [B, V] unchanged. Raises FloatingPointError for NaN or +inf: greedy decoding would write garbage."""
    if bool(torch.isnan(logits).any()) or bool((logits == torch.inf).any()):
        raise FloatingPointError("the model's logits are not finite")
    return logits


def build_captioner(
    base: VisionLanguageModel,
    num_styles: int,
    style_tokens: int,
    prompt: str,
    trainable_dtype: torch.dtype,
    projector_modules: str | None = None,
) -> VlmCaptioner:
    """Add an empty style bank and its tokens to a loaded model and check that prompts carry them.

    Raises UsageError for a tokenizer that splits a style token, a template that drops it, or an embedding that cannot be
    extended.
    """
    names = [style_token(style, k) for style in range(num_styles) for k in range(style_tokens)]
    if names[0] in base.tokenizer.get_vocab():
        raise UsageError(
            f"{base.folder} is an export with styles of its own; use the adapter it was made from, or the base model"
        )
    first = add_tokens(base.tokenizer, names)
    bank = StyleBank(num_styles, style_tokens, base.width, dtype=trainable_dtype)
    projectors = projector_names(base.network, projector_modules)
    model = VlmCaptionerModel(base.network, bank, projectors, first)
    model.projector.to(trainable_dtype)
    writer = PromptWriter(
        base.processor, with_style(chat_template_of(base.processor), num_styles, style_tokens), base.end_ids
    )
    writer.check(num_styles, style_tokens)
    manifest = {
        "family": "vlm",
        "base_model": str(base.folder),
        "model_type": base.network.config.model_type,
        "width": base.width,
        "num_styles": num_styles,
        "style_tokens": style_tokens,
        "first_style_token": first,
        "projector_modules": projectors,
        "prompt": prompt,
    }
    return VlmCaptioner(model, base, writer, prompt, manifest)
