"""Close choices, checked in float64: why float32 captions do not depend on their batch.

A caption is finished in float32 first. If a choice on its way was too close to call, one pass over the whole caption in float64
shows whether each of these choices stands; the caption is continued in float64 from the first that does not. Nearly all stand,
and a pass costs about as much as the caption itself.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from ham.captioner.engine import Decoder
from ham.captioner.sampling import choose
from ham.captioner.slots import NOT_FINITE_REASON, ImageInWork, Writing

CAPTIONS = 16  # captions that are gathered for one run


class Recheck:
    """Images whose captions have close choices. run() settles them and returns the images."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.waiting: list[ImageInWork] = []
        self._exact: Decoder | None = None

    @property
    def is_full(self) -> bool:
        return sum(len(_close(image)) for image in self.waiting) >= CAPTIONS

    def add(self, image: ImageInWork) -> None:
        self.waiting.append(image)

    @torch.inference_mode()
    def run(self) -> list[ImageInWork]:
        """Settle every waiting image's captions."""
        with self.decoder.phase("recheck", 0):
            for image in self.waiting:
                close = _close(image)
                self.decoder.rechecked += len(close)
                for start in range(0, len(close), CAPTIONS):
                    self._settle(image.job.pixels, close[start : start + CAPTIONS])
        done, self.waiting = self.waiting, []
        return done

    def _settle(self, pixels: torch.Tensor, captions: list[Writing]) -> None:
        """Check the captions of one image and continue those that change."""
        exact = self._exact_decoder()
        styles = [caption.style_id for caption in captions]
        suffix = exact.suffix(styles)  # [n, T, D]
        longest = max(len(caption.made.ids) for caption in captions)
        ids = torch.zeros(len(captions), longest, dtype=torch.long)
        for row, caption in enumerate(captions):
            ids[row, : len(caption.made.ids)] = torch.tensor(caption.made.ids)
        length = suffix.shape[1]
        limit = exact.settings.max_new_tokens
        cache = exact.llama.empty_cache(
            1, len(captions), exact.prefix_length, length + limit, exact.text_prefix()
        )
        suffix = torch.cat([suffix, exact.model.embed(ids)], dim=1)[None]  # [1, n, T + L, D]
        rows = torch.arange(len(captions))
        hidden = exact.llama.prefill(
            cache, [0], exact.model.encode_images(pixels[None]), suffix, rows[None], every=True
        )[0]
        for row, caption in enumerate(captions):
            cache.lengths[row] = length + self._first_change(caption, hidden[row, length - 1 :])
        self._continue(cache, captions, length)

    def _first_change(self, caption: Writing, hidden: torch.Tensor) -> int:
        """Check the close choices of a caption, hidden [1 + L, D]; cut it behind the first that changes.

        Returns the number of tokens before the last one that is kept.
        """
        made, exact = caption.made, self._exact_decoder()
        for number in caption.close:
            token = self._choose(exact.llama.logits(hidden[number : number + 1]), [caption], [number])[0]
            if token != made.ids[number]:
                made.ids[number:] = [token]
                made.failure, caption.is_done = None, self._is_end(caption)
                self._fail_if_none(caption)
                break
        return len(made.ids) - 1

    def _continue(self, cache, captions: list[Writing], length: int) -> None:
        """Write the rest of the captions that were cut, one token of each at a time."""
        exact = self._exact_decoder()
        while live := [row for row, caption in enumerate(captions) if not caption.is_done]:
            index = torch.tensor(live)
            last = torch.tensor([captions[row].made.ids[-1] for row in live])
            logits = exact.llama.step(cache, exact.model.embed(last), 1, index)
            numbers = [len(captions[row].made.ids) for row in live]
            tokens = self._choose(logits, [captions[row] for row in live], numbers)
            for row, token in zip(live, tokens, strict=True):
                caption = captions[row]
                caption.made.ids.append(token)
                caption.is_done = self._is_end(caption)
                self._fail_if_none(caption)

    def _choose(self, logits: torch.Tensor, captions: list[Writing], numbers: list[int]) -> list[int | None]:
        """Choose each caption's token number `numbers` in float64; None where the logits are not finite."""
        settings, uniform = self.decoder.settings, None
        if settings.temperature > 0:
            uniform = torch.stack(
                [caption.uniform[number] for caption, number in zip(captions, numbers, strict=True)]
            )
        choice = choose(logits, settings.temperature, settings.top_p, uniform, check=False)
        pairs = zip(choice.ids.tolist(), choice.is_finite.tolist(), strict=True)
        return [token if is_finite else None for token, is_finite in pairs]

    def _is_end(self, caption: Writing) -> bool:
        ids = caption.made.ids
        is_end = ids[-1] is None or ids[-1] in self.decoder.stop_ids
        return is_end or len(ids) == self.decoder.settings.max_new_tokens

    def _fail_if_none(self, caption: Writing) -> None:
        if caption.made.ids[-1] is None:
            caption.made.ids.pop()
            caption.made.failure = NOT_FINITE_REASON.format(len(caption.made.ids) + 1)

    def _exact_decoder(self) -> Decoder:
        if self._exact is None:
            captioner = self.decoder.captioner
            twin = replace(captioner, model=_double(captioner.model))
            self._exact = Decoder(twin, self.decoder.settings, self.decoder.pieces)
        return self._exact


def _close(image: ImageInWork) -> list[Writing]:
    return [caption for caption in image.captions if caption.close]


def _double(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64, without a float32 copy on the way."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        wide = tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(wide, requires_grad=False) if is_parameter else wide
    return copy.deepcopy(model, memo)
