"""The loss of several captions of each image, which is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ham.captioner.model import CaptionerModel
from ham.llava.conversation import IGNORE_INDEX
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.llava.transformers_compat import empty_cache, read_on
from scripts.world.llava import INSTRUCTION


class Pass(NamedTuple):
    """Captions of like length: the image of each [R], its ids behind `<image>` [R, T], what is learned of them [R, T - 1]."""

    image: torch.Tensor
    ids: torch.Tensor
    targets: torch.Tensor


class Captions(NamedTuple):
    """What is written about a batch of images: the ids before `<image>` [P], which all share, and the passes."""

    before: torch.Tensor
    passes: tuple[Pass, ...]

    def to(self, device: str) -> Captions:
        passes = tuple(Pass(*(part.to(device) for part in one)) for one in self.passes)
        return Captions(self.before.to(device), passes)


def conversation(hint: str, caption: str, hint_first: bool = False) -> list[dict[str, str]]:
    """Return the conversation for `caption`. hint_first: its hint follows the image, where a style prompt will be."""
    question = f"<image>{hint}\n{INSTRUCTION}" if hint_first else f"<image>\n{INSTRUCTION} {hint}".strip()
    return [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]


def collate(told: Sequence[Sequence[dict[str, Any]]]) -> Captions:
    """Sort samples into passes of as many as there are images; told[b]: the samples about image b, the same up to `<image>`."""
    ids = told[0][0]["input_ids"]
    before = ids[: int((ids == IMAGE_TOKEN_INDEX).nonzero()[0])]
    rows = sorted(
        (
            (image, sample["input_ids"][len(before) + 1 :], sample["labels"][len(before) + 1 :])
            for image, samples in enumerate(told)
            for sample in samples
        ),
        key=lambda row: len(row[1]),
    )
    passes = []
    for start in range(0, len(rows), len(told)):
        images, texts, labels = zip(*rows[start : start + len(told)])
        targets = pad_sequence(list(labels), batch_first=True, padding_value=IGNORE_INDEX)[:, 1:]
        passes.append(Pass(torch.tensor(images), pad_sequence(list(texts), batch_first=True), targets))
    return Captions(before, tuple(passes))


def caption_loss(model: CaptionerModel, image_tokens: torch.Tensor, captions: Captions) -> torch.Tensor:
    """Average the next-token loss over the learned ids of all captions of a batch of images.

    image_tokens: [B, P, D]. Each image is read once; then come the passes, each caption behind the keys and values of its
    image. Equal to the model's own forward for each sample alone, but gradients reach the vision tower.
    """
    before = model.embed(captions.before).expand(len(image_tokens), -1, -1)
    prefix = torch.cat([before, image_tokens], dim=1)
    read = empty_cache()
    read_on(model.llm, read, prefix, _positions(0, prefix))
    losses, learned = [], 0
    for image, ids, targets in captions.passes:
        fork = empty_cache()
        for number, layer in enumerate(read.layers):
            fork.update(layer.keys[image], layer.values[image], number)
        tokens = model.embed(ids)
        hidden = read_on(model.llm, fork, tokens, _positions(prefix.shape[1], tokens))
        logits = model.llm.lm_head(hidden[:, :-1])
        losses.append(
            F.cross_entropy(
                logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
            )
        )
        learned = learned + (targets != IGNORE_INDEX).sum()
    return torch.stack(losses).sum() / learned


def _positions(first: int, tokens: torch.Tensor) -> torch.Tensor:
    """Return the positions [B, T] of tokens [B, T, D] of which the first stands at `first`."""
    return torch.arange(first, first + tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
