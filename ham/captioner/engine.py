"""A captioner with a fixed prompt: its settings, its prompt's ids, and captions for a batch of images.

    [text before]  once per run ──┐
    [image]        once per image ┴▶ prefix, one copy ─▶ [style | instruction] per caption ─▶ token, token, ... </s>

Style tokens follow the image tokens, so the prefix does not depend on the style. `stream.py` keeps the batch full.
In float32 on a CPU a caption does not depend on its batch: see recheck.py.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ham.captioner.model import Captioner
from ham.captioner.quantize import is_quantized
from ham.llava.cached_llama import CachedLlama
from ham.llava.conversation import get_template, prompt_pieces
from ham.llava.shared_cache import Prefix
from ham.records import NO_STYLE
from ham.runtime import UsageError, numpy_generator

RECHECK_PARAMETERS = 2_000_000_000  # above this no float64 copy is made
GROWTH = 64  # own positions that a cache grows by


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. prompt, template: None = the checkpoint's. temperature 0 is greedy."""

    prompt: str | None = None
    template: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Generated:
    """One caption: its token ids, the stop token included, and its text. failure: why there is none, else None."""

    ids: list[int]
    text: str = ""
    failure: str | None = None


@dataclass
class ImageJob:
    """An image to caption: pixels [3, s, s], the style of each caption, and a sampling key of each.

    tag: anything that identifies the image to the caller.
    """

    pixels: torch.Tensor
    style_ids: Sequence[int]
    sampling_keys: Sequence[str] | None = None
    tag: Any = None


class Decoder:
    """A captioner with a fixed prompt, ready to caption.

    pieces: the prompt's ids before and after the image, instead of the tokenizer's. seconds, tokens: by phase; the seconds are
    exact on a CPU, and on a GPU when `synchronize` is set.
    """

    def __init__(
        self,
        captioner: Captioner,
        settings: DecodeSettings | None = None,
        pieces: tuple[list[int], list[int]] | None = None,
    ) -> None:
        self.captioner = captioner
        self.settings = settings or DecodeSettings()
        _check(self.settings)
        self.model = captioner.model
        self.llama = CachedLlama(captioner.model.llm)
        self.template = get_template(self.settings.template or captioner.template)
        self.prompt = (
            self.settings.prompt if self.settings.prompt is not None else captioner.manifest.get("prompt")
        )
        self.pieces = pieces or prompt_pieces(captioner.tokenizer, self.prompt, self.template)
        captioner.check_prompt(sum(map(len, self.pieces)))
        self.before, self.after = (torch.tensor([ids], device=captioner.device) for ids in self.pieces)
        self.stop_ids = _stop_ids(captioner)
        self.seconds: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.rechecked = 0
        self.synchronize = False
        self._text_prefix: Prefix | None = None
        size = sum(parameter.numel() for parameter in self.model.parameters())
        self.checks = (
            captioner.dtype == torch.float32
            and captioner.device.type == "cpu"
            and size <= RECHECK_PARAMETERS
            and not is_quantized(captioner.model)
        )

    def caption(
        self,
        pixels: torch.Tensor,
        style_ids: Sequence[Sequence[int]],
        sampling_keys: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], each in its own list of styles, all in one batch.

        sampling_keys: one per caption, so that its random numbers are its own; by default the pixels'
        digest and the style.
        """
        from ham.captioner.stream import CaptionStream, mean_count

        group = mean_count(style_ids)
        return CaptionStream(self, max(len(style_ids), 1) * group, group).caption(
            pixels, style_ids, sampling_keys
        )

    # ------------------------------------------------------------------------------------------------------- the inputs

    @property
    def prefix_length(self) -> int:
        """Positions of [text | image]."""
        return self.before.shape[1] + self.captioner.num_image_tokens

    def suffix_length(self, with_style: bool) -> int:
        """Positions of [style | instruction]."""
        return self.after.shape[1] + (self.captioner.style_tokens if with_style else 0)

    def check_styles(self, style_ids: Iterable[int]) -> None:
        """Raise UsageError for a style that the checkpoint does not have."""
        for style_id in style_ids:
            if not NO_STYLE <= style_id < self.captioner.num_styles:
                raise UsageError(
                    f"style {style_id} asked for, but the checkpoint has {self.captioner.num_styles} styles"
                )

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images [n, 3, s, s] as image tokens [n, P, D]."""
        with self.phase("vision", len(pixels)):
            return self.model.encode_images(pixels.to(self.captioner.device))

    def text_prefix(self) -> Prefix:
        """Return the keys and values of the text before the image, computed once."""
        if self._text_prefix is None:
            self._text_prefix = self.llama.text_prefix(self.model.embed(self.before))
        return self._text_prefix

    def suffix(self, style_ids: Sequence[int]) -> torch.Tensor:
        """Return the embeddings of [style | instruction], [n, K + T, D]."""
        after = self.model.embed(self.after).expand(len(style_ids), -1, -1)
        if style_ids[0] == NO_STYLE:
            return after
        styles = self.model.styles(torch.tensor(style_ids, device=self.captioner.device))
        return torch.cat([styles.to(after.dtype), after], dim=1)

    def images_per_prefill(self) -> int:
        """Few images at a time on a CPU, whose caches are small; up to 16,384 positions at a time on a GPU."""
        positions = 1024 if self.captioner.device.type == "cpu" else 16384
        return max(1, positions // self.prefix_length)

    def uniform(self, job: ImageJob) -> list[torch.Tensor] | None:
        """Draw the random numbers of a job's captions, [max_new_tokens] each; None when decoding is greedy."""
        if self.settings.temperature == 0:
            return None
        keys = job.sampling_keys
        if keys is None:
            digest = hashlib.sha256(job.pixels.contiguous().cpu().numpy().tobytes()).hexdigest()
            keys = [f"{digest}/{style_id}" for style_id in job.style_ids]
        draws = [numpy_generator(self.settings.seed, "sampling", key) for key in keys]
        return [torch.from_numpy(draw.random(self.settings.max_new_tokens)) for draw in draws]

    def text(self, ids: list[int]) -> str:
        """Decode a caption's ids, up to the template's end of an answer."""
        text = self.captioner.tokenizer.decode(ids, skip_special_tokens=True).strip()
        end = self.template.answer_end
        return text.split(end)[0].strip() if end in text else text

    def phase(self, name: str, tokens: int) -> _Clock:
        """Return a context that adds a block's wall time and tokens to the counters."""
        self.tokens[name] += tokens
        return _Clock(self.seconds, name, self.synchronize)


class _Clock:
    """Add a block's wall time to a counter."""

    def __init__(self, seconds: Counter[str], name: str, synchronize: bool) -> None:
        self.seconds = seconds
        self.name = name
        self.synchronize = synchronize

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.synchronize:
            torch.cuda.synchronize()
        self.seconds[self.name] += time.perf_counter() - self.start


def _check(settings: DecodeSettings) -> None:
    if settings.temperature < 0 or not 0 < settings.top_p <= 1 or settings.max_new_tokens < 1:
        raise UsageError(
            f"temperature {settings.temperature}, top_p {settings.top_p}, max_new_tokens "
            f"{settings.max_new_tokens}: expected >= 0, above 0 up to 1, and >= 1"
        )


def _stop_ids(captioner: Captioner) -> set[int]:
    """Return the ids that end a caption: the language model's eos, or the tokenizer's."""
    eos = captioner.model.llm.config.eos_token_id
    eos = captioner.tokenizer.eos_token_id if eos is None else eos
    return set(eos) if isinstance(eos, list | tuple) else {eos}
