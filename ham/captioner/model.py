"""The captioner: a LLaVA with a style bank, and how their tokens are spliced.

    image  -> vision tower -> projector -> P image tokens ─┐
    style  -> style bank  -> K style tokens ───────────────┤
    text   -> embeddings  -> [text | image | style | text] ─┴-> language model -> next-token logits

Knows nothing of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from ham.captioner.shared_prefix import splice_shared
from ham.captioner.splice_slots import SpliceSlots
from ham.captioner.style_bank import StyleBank
from ham.llava.conversation import DEFAULT_TEMPLATE, IGNORE_INDEX
from ham.llava.model import LlavaModel
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.runtime import UsageError

WHOLE_BYTES, SAMPLED_ELEMENTS = 1 << 20, 4096  # what `weights_digest` reads of a tensor


class Spliced(NamedTuple):
    """The language model's input: embeddings [B, L, D], labels [B, L], mask [B, L] (True = real), position ids [B, L]."""

    embeddings: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    position_ids: torch.Tensor


class CaptionerOutput(NamedTuple):
    """loss: float32 mean over the learned tokens, or None; logits: [B, L, V] in the model's dtype, or None."""

    loss: torch.Tensor | None
    logits: torch.Tensor | None


class CaptionerModel(LlavaModel):
    """A LLaVA whose captions follow a style. `style_bank` is None for a plain LLaVA."""

    def __init__(
        self,
        llm: nn.Module,
        vision_tower: nn.Module,
        projector: nn.Module,
        style_bank: StyleBank | None,
        max_length: int | None = None,
        padding_side: str = "right",
    ) -> None:
        super().__init__(llm, vision_tower, projector, max_length, padding_side)
        self.style_bank = style_bank

    def styles(self, style_ids: torch.Tensor) -> torch.Tensor:
        """Look up style prompts [B] -> [B, K, D], in the embeddings' dtype. Raises UsageError for a style out of range."""
        if self.style_bank is None:
            raise UsageError(
                "this checkpoint has no style prompts: it is a plain LLaVA; finetune it first, or ask no style"
            )
        return self.style_bank(style_ids).to(self.llm.dtype)

    def splice(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        style_ids: torch.Tensor | None = None,
    ) -> Spliced:
        """Replace each image placeholder (-200) by image and style tokens in input_ids [B, T].

        images: [N, 3, s, s]; a sample takes one for each placeholder, in order, and a sample without placeholder takes one that
        is not used (the dummy that text-only samples carry in LLaVA's batches). style_ids [B]: the style of each sample,
        whose K tokens follow its first image; None inserts none. Positions outside attention_mask are left out.
        Labels of image, style and padding positions are -100.
        Source: HAM, llava/model/llava_arch.py, prepare_inputs_labels_for_multimodal.
        deviation: position ids are always made; the reference leaves them out in training (equal, but for left padding,
        where rotary attention makes them equal too). A sample without style id gets none, not a random one.
        """
        keep = (
            torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        )
        is_image = (input_ids == IMAGE_TOKEN_INDEX) & keep
        is_text = keep & ~is_image
        gets_style = is_image & (is_image.cumsum(1) == 1)  # a row's first image
        text = self.embed(input_ids.masked_fill(input_ids < 0, 0))  # [B, T, D]
        features, styles = self._image_and_style_tokens(is_image, images, style_ids)
        num_patches = 0 if features is None else features.shape[1]
        style_tokens = 0 if styles is None else styles.shape[1]
        lengths = is_text.long() + is_image * num_patches + gets_style * style_tokens  # [B, T]
        slots = SpliceSlots.of(lengths, self.max_length, self.padding_side)

        text_slots = slots.of_tokens(is_text, 1)
        targets, sources = [text_slots], [text[is_text]]
        if features is not None:
            targets.append(slots.of_tokens(is_image, num_patches))
            sources.append(features[self._image_index(is_image)].flatten(0, 1))
        if styles is not None:
            rows, _ = gets_style.nonzero(as_tuple=True)
            targets.append(slots.of_tokens(gets_style, style_tokens, offset=num_patches))
            sources.append(styles[rows].flatten(0, 1))

        batch = len(input_ids)
        longest = slots.longest
        width = text.shape[-1]
        flat = text.new_zeros(slots.count + 1, width)  # the last slot takes what is cut
        flat = flat.index_copy(0, torch.cat(targets), torch.cat(sources))
        flat_labels = input_ids.new_full((slots.count + 1,), IGNORE_INDEX, dtype=torch.long)
        if labels is not None:
            flat_labels[text_slots] = labels[is_text]
        return Spliced(
            flat[: slots.count].view(batch, longest, width),
            flat_labels[: slots.count].view(batch, longest),
            slots.mask(),
            slots.position_ids(),
        )

    @staticmethod
    def _image_index(is_image: torch.Tensor) -> torch.Tensor:
        """Return, for each placeholder in row order, which image of the batch it takes."""
        taken = is_image.sum(1).clamp(min=1)
        first = taken.cumsum(0) - taken
        return (first[:, None] + is_image.cumsum(1) - 1)[is_image]

    def _image_and_style_tokens(
        self, is_image: torch.Tensor, images: torch.Tensor | None, style_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Encode the batch's images [N, P, D] and look up its styles [B, K, D]; None for what was not given."""
        if images is None:
            if bool(is_image.any()):
                raise UsageError("the batch holds image placeholders but no images")
            return None, None
        needed = int(is_image.sum(1).clamp(min=1).sum())
        if len(images) != needed:
            raise UsageError(
                f"the batch's samples take {needed} images but {len(images)} were given; a sample without "
                "<image> brings one dummy image"
            )
        return self.encode_images(images), None if style_ids is None else self.styles(style_ids)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        style_ids: torch.Tensor | None = None,
        return_logits: bool | None = None,
        image_index: torch.Tensor | None = None,
    ) -> CaptionerOutput:
        """Run the training forward.

        With labels the loss is computed from the logits of the learned positions alone; return_logits: also return the logits
        of all positions (default: only when there are no labels). image_index [B]: which image each sample belongs to, where
        `images` holds each image once; its prefix is then computed once (shared_prefix.py), and no logits are returned.
        """
        if image_index is not None:
            return self._forward_shared(input_ids, labels, attention_mask, images, style_ids, image_index)
        spliced = self.splice(input_ids, labels, attention_mask, images, style_ids)
        # Padding on the right needs no mask: causal attention never looks there.
        is_left = self.padding_side == "left"
        hidden = self.llm.model(
            inputs_embeds=spliced.embeddings,
            attention_mask=spliced.mask.long() if is_left else None,
            position_ids=spliced.position_ids if is_left else None,
            use_cache=False,
        )[0]  # [B, L, D]
        wants_logits = labels is None if return_logits is None else return_logits
        logits = self.llm.lm_head(hidden) if wants_logits else None
        if labels is None:
            return CaptionerOutput(None, logits)
        return CaptionerOutput(self.loss(hidden, spliced.labels), logits)

    def _forward_shared(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor,
        images: torch.Tensor,
        style_ids: torch.Tensor | None,
        image_index: torch.Tensor,
    ) -> CaptionerOutput:
        shared = splice_shared(self, input_ids, labels, attention_mask, images, style_ids, image_index)
        hidden = self.llm.model(
            inputs_embeds=shared.embeddings,
            attention_mask=shared.mask,
            position_ids=shared.position_ids,
            use_cache=False,
        )[0]
        return CaptionerOutput(self.loss(hidden, shared.labels), None)


def weights_digest(model: nn.Module, counts: Callable[[str], bool] = lambda name: True) -> str:
    """Compute a digest of a network's weights as loaded, whatever files they came from: 16 hexadecimal digits.

    counts: by a parameter's name, whether it is part of the digest. Large tensors count by their shape, the sum of their bit
    patterns and evenly spaced elements: 14 GB take seconds.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not counts(name):
            continue
        data = parameter.detach().contiguous().flatten()
        bits = data.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[data.element_size()])
        if len(bits) * bits.element_size() > WHOLE_BYTES:
            digest.update(str(int(bits.sum(dtype=torch.int64))).encode())
            bits = bits[:: len(bits) // SAMPLED_ELEMENTS]
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(bits.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass
class Captioner:
    """A loaded captioner: network, tokenizer, and what its checkpoint records about them.

    manifest: base_model, vision_tower, template, image_size_px, num_styles, style_tokens and what training added.
    """

    model: CaptionerModel
    tokenizer: Any
    image_size_px: int
    num_image_tokens: int
    template: str = DEFAULT_TEMPLATE
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def num_styles(self) -> int:
        """How many styles the checkpoint has; 0 for a plain LLaVA."""
        return 0 if self.model.style_bank is None else self.model.style_bank.num_styles

    @property
    def style_tokens(self) -> int:
        """How many tokens a style has; 0 for a plain LLaVA."""
        return 0 if self.model.style_bank is None else self.model.style_bank.style_tokens

    def check_prompt(self, text_tokens: int) -> None:
        """Raise UsageError when a prompt of so many text tokens leaves no space for a caption in the language model."""
        needed = text_tokens + self.num_image_tokens + self.style_tokens
        limit = getattr(self.model.llm.config, "max_position_embeddings", None)
        if limit is not None and needed >= limit:
            raise UsageError(
                f"the prompt is too long: {text_tokens} text tokens, {self.num_image_tokens} of the image and "
                f"{self.style_tokens} of the style leave no space for a caption in the {limit} positions of the language "
                "model; shorten the instruction"
            )

    @property
    def device(self) -> torch.device:
        return self.model.llm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.llm.get_input_embeddings().weight.dtype
