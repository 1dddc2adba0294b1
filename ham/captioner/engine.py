"""Captions for a batch of images with several styles each: prefill, one step, the loop.

    [text before]  once per run ──┐
    [image]        once per image ┴▶ prefix cache ─ fork per style ─▶ [style | instruction] ─▶ token, token, ... </s>

The style stands behind the image, so the prefix does not depend on it. All prefixes and all suffixes have equal length: nothing
is padded. Finished rows leave the batch.

In float32 on a CPU a caption does not depend on its batch: a row whose next token was too close to call, where the rounding of
another batch might choose otherwise, is computed again in float64.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ham.captioner.model import Captioner
from ham.captioner.sampling import choose
from ham.llava.cached_llama import FastLlama, KVCache
from ham.llava.conversation import get_template, prompt_pieces
from ham.records import NO_STYLE
from ham.runtime import UsageError, numpy_generator

REFEREE_PARAMETERS = 2_000_000_000  # above this no float64 copy is made
GROWTH = 64  # positions a cache grows by


@dataclass(frozen=True)
class DecodeSettings:
    """What is asked of the model. prompt, template: None = the checkpoint's. temperature 0 is greedy."""

    prompt: str | None = None
    template: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Generated:
    """One caption: its token ids, the stop token included, and its text."""

    ids: list[int]
    text: str = ""


@dataclass
class _Rows:
    """Captions in the making, one per row. live: which of them the cache's rows are."""

    cache: KVCache
    logits: torch.Tensor  # [live, V]
    live: list[int]
    uniform: torch.Tensor | None  # [rows, max_new_tokens]


class Decoder:
    """A captioner with a fixed prompt, ready to caption batches.

    pieces: the prompt's ids before and after the image, where the tokenizer is not to make them. seconds, tokens: by phase;
    the seconds are exact on a CPU, and on a GPU when `synchronize` is set.
    """

    def __init__(
        self,
        captioner: Captioner,
        settings: DecodeSettings | None = None,
        pieces: tuple[list[int], list[int]] | None = None,
    ) -> None:
        self.captioner, self.settings = captioner, settings or DecodeSettings()
        if (
            self.settings.temperature < 0
            or not 0 < self.settings.top_p <= 1
            or self.settings.max_new_tokens < 1
        ):
            raise UsageError(
                f"temperature {self.settings.temperature}, top_p {self.settings.top_p}, max_new_tokens "
                f"{self.settings.max_new_tokens}: expected >= 0, above 0 up to 1, and >= 1"
            )
        self.model, self.llama = captioner.model, FastLlama(captioner.model.llm)
        self.template = get_template(self.settings.template or captioner.template)
        self.prompt = (
            self.settings.prompt if self.settings.prompt is not None else captioner.manifest.get("prompt")
        )
        self.pieces = pieces or prompt_pieces(captioner.tokenizer, self.prompt, self.template)
        self.before, self.after = (torch.tensor([ids], device=captioner.device) for ids in self.pieces)
        self.stop_ids = _stop_ids(captioner)
        self.seconds: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.rechecked = 0
        self.synchronize = False
        self._text_cache: KVCache | None = None
        self._referee: Decoder | None = None
        size = sum(parameter.numel() for parameter in self.model.parameters())
        self.checks = (
            captioner.dtype == torch.float32 and captioner.device.type == "cpu" and size <= REFEREE_PARAMETERS
        )

    # ------------------------------------------------------------------------------------------------------- the batch

    @torch.inference_mode()
    def caption(
        self,
        pixels: torch.Tensor,
        style_ids: Sequence[Sequence[int]],
        keys: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], each in its own list of styles.

        keys: names each caption for sampling, so that its draws are its own; by default the pixels' digest and the style.
        """
        counts = [len(styles) for styles in style_ids]
        flat_styles = [style_id for styles in style_ids for style_id in styles]
        self._check_styles(flat_styles)
        if not flat_styles:
            return [[] for _ in counts]
        image_of = torch.repeat_interleave(torch.tensor(counts))  # [rows]
        uniform = self._uniform(pixels, style_ids, keys) if self.settings.temperature > 0 else None
        rows = self._prefill(pixels, counts, flat_styles, uniform)
        results, close = self._loop(rows, len(flat_styles))
        if close:
            self._recheck(results, close, pixels, image_of, flat_styles, uniform)
        for result in results:
            result.text = self._text(result.ids)
        remaining = iter(results)
        return [[next(remaining) for _ in range(count)] for count in counts]

    def _check_styles(self, style_ids: list[int]) -> None:
        wrong = [style_id for style_id in style_ids if not NO_STYLE <= style_id < self.captioner.num_styles]
        if wrong:
            raise UsageError(
                f"style {wrong[0]} asked for, but the checkpoint has {self.captioner.num_styles} styles"
            )
        if NO_STYLE in style_ids and any(style_id != NO_STYLE for style_id in style_ids):
            raise UsageError("one batch mixes captions with and without style")

    # ----------------------------------------------------------------------------------------------- prefill, step, loop

    def _prefill(
        self, pixels: torch.Tensor, counts: list[int], styles: list[int], uniform: torch.Tensor | None
    ) -> _Rows:
        """Encode the images, prefill each prefix once, fork it for its styles and run their suffixes."""
        suffix = self._suffix(styles[:1]).shape[1]
        prefix = self.before.shape[1] + self.captioner.num_image_tokens
        room = prefix + suffix + min(self.settings.max_new_tokens, GROWTH)
        cache = self.llama.empty_cache(len(styles), room)
        logits, row = [], 0
        step = self._images_per_prefill(prefix)
        for start in range(0, len(counts), step):
            features = self._encode(pixels[start : start + step])
            with self._phase("prefill", features.shape[0] * features.shape[1]):
                images = self.llama.empty_cache(len(features), prefix)
                text = self._text_before()
                images.fill_from(text, torch.zeros(len(features), dtype=torch.long))
                self.llama.fill(features, images)
            forks = torch.repeat_interleave(torch.tensor(counts[start : start + step])).to(features.device)
            if not len(forks):
                continue
            embeddings = self._suffix(styles[row : row + len(forks)])
            with self._phase("suffix", embeddings.shape[0] * embeddings.shape[1]):
                part = cache.part(row, row + len(forks))
                part.fill_from(images, forks)
                logits.append(self.llama.next_logits(embeddings, part))
            row += len(forks)
        cache.length = prefix + suffix
        return _Rows(cache, torch.cat(logits), list(range(len(styles))), uniform)

    def _step(self, rows: _Rows, ids: torch.Tensor) -> None:
        """Feed each live row its token [live] and compute the next logits."""
        if rows.cache.length == rows.cache.capacity:
            rows.cache = rows.cache.grown(rows.cache.capacity + GROWTH)
        rows.logits = self.llama.next_logits(self.model.embed(ids[:, None]), rows.cache)

    def _loop(self, rows: _Rows, count: int) -> tuple[list[Generated], list[int]]:
        """Choose, drop what is finished, step. Returns the captions, and which were too close to call (and left early)."""
        results, close = [Generated([]) for _ in range(count)], []
        finished: set[int] = set()
        with self._phase("decode", 0):
            for number in range(self.settings.max_new_tokens):
                uniform = None if rows.uniform is None else rows.uniform[rows.live, number]
                choice = choose(
                    rows.logits, self.settings.temperature, self.settings.top_p, uniform, self.checks
                )
                is_close = (
                    choice.is_close.tolist() if choice.is_close is not None else [False] * len(rows.live)
                )
                for row, token, doubt in zip(rows.live, choice.ids.tolist(), is_close, strict=True):
                    if row in finished:
                        continue
                    if doubt:
                        close.append(row)
                    else:
                        results[row].ids.append(token)
                    if doubt or token in self.stop_ids:
                        finished.add(row)
                if len(finished) == count or number + 1 == self.settings.max_new_tokens:
                    break
                kept = self._drop_finished(rows, finished)
                self.tokens["decode"] += len(rows.live)
                self.tokens["decode positions"] += len(rows.live) * rows.cache.length
                self.tokens["decode steps"] += 1
                self._step(rows, choice.ids if kept is None else choice.ids[kept])
        return results, sorted(close)

    def _drop_finished(self, rows: _Rows, finished: set[int]) -> torch.Tensor | None:
        """Let finished rows leave once they are a quarter of the batch, as leaving copies the cache. Returns who stays."""
        places = [place for place, row in enumerate(rows.live) if row not in finished]
        if len(rows.live) - len(places) < max(1, len(rows.live) // 4):
            return None
        kept = torch.tensor(places, device=rows.logits.device)
        rows.cache = rows.cache.keep(kept)
        rows.live = [rows.live[place] for place in places]
        return kept

    # ------------------------------------------------------------------------------------------------------- the referee

    def _recheck(
        self,
        results: list[Generated],
        close: list[int],
        pixels: torch.Tensor,
        image_of: torch.Tensor,
        styles: list[int],
        uniform: torch.Tensor | None,
    ) -> None:
        """Caption the rows that were too close to call once more, in float64."""
        self.rechecked += len(close)
        with self._phase("recheck", 0):
            if self._referee is None:
                twin = replace(self.captioner, model=copy.deepcopy(self.model).double())
                self._referee = Decoder(twin, self.settings, self.pieces)
                self._referee.stop_ids = self.stop_ids
            images = sorted({int(image_of[row]) for row in close})
            wanted = [[row for row in close if int(image_of[row]) == image] for image in images]
            order = [row for rows in wanted for row in rows]
            rows = self._referee._prefill(
                pixels[images],
                [len(rows) for rows in wanted],
                [styles[row] for row in order],
                None if uniform is None else uniform[order],
            )
            for row, result in zip(order, self._referee._loop(rows, len(order))[0], strict=True):
                results[row] = result

    # ---------------------------------------------------------------------------------------------------------- the parts

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        with self._phase("vision", len(pixels)):
            return self.model.encode_images(pixels.to(self.captioner.device))  # [I, P, D]

    def _text_before(self) -> KVCache:
        if self._text_cache is None:
            self._text_cache = self.llama.empty_cache(1, self.before.shape[1])
            self.llama.fill(self.model.embed(self.before), self._text_cache)
        return self._text_cache

    def _suffix(self, style_ids: list[int]) -> torch.Tensor:
        """Give [style | instruction] embeddings, [rows, K + T, D]."""
        after = self.model.embed(self.after).expand(len(style_ids), -1, -1)
        if style_ids[0] == NO_STYLE:
            return after
        styles = self.model.styles(torch.tensor(style_ids, device=self.captioner.device))
        return torch.cat([styles.to(after.dtype), after], dim=1)

    def _images_per_prefill(self, prefix: int) -> int:
        """Prefill few images at a time on a CPU, whose caches hold little; up to 16,384 positions at a time on a GPU."""
        positions = 1024 if self.captioner.device.type == "cpu" else 16384
        return max(1, positions // prefix)

    def _uniform(
        self, pixels: torch.Tensor, style_ids: Sequence[Sequence[int]], keys: Sequence[Sequence[str]] | None
    ) -> torch.Tensor:
        if keys is None:
            digests = [
                hashlib.sha256(image.contiguous().cpu().numpy().tobytes()).hexdigest() for image in pixels
            ]
            keys = [
                [f"{digest}/{style_id}" for style_id in styles]
                for digest, styles in zip(digests, style_ids, strict=True)
            ]
        draws = [
            torch.from_numpy(
                numpy_generator(self.settings.seed, "sampling", key).random(self.settings.max_new_tokens)
            )
            for image in keys
            for key in image
        ]
        return torch.stack(draws).to(self.captioner.device)

    def _text(self, ids: list[int]) -> str:
        text = self.captioner.tokenizer.decode(ids, skip_special_tokens=True).strip()
        end = self.template.answer_end
        return text.split(end)[0].strip() if end in text else text

    def _phase(self, name: str, tokens: int) -> _Clock:
        self.tokens[name] += tokens
        return _Clock(self.seconds, name, self.synchronize)


class _Clock:
    """Add a block's wall time to a counter."""

    def __init__(self, seconds: Counter[str], name: str, synchronize: bool) -> None:
        self.seconds, self.name, self.synchronize = seconds, name, synchronize

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.synchronize:
            torch.cuda.synchronize()
        self.seconds[self.name] += time.perf_counter() - self.start


def _stop_ids(captioner: Captioner) -> set[int]:
    """Give the ids that end a caption: the language model's eos, or the tokenizer's."""
    eos = captioner.model.llm.config.eos_token_id
    eos = captioner.tokenizer.eos_token_id if eos is None else eos
    return set(eos) if isinstance(eos, list | tuple) else {eos}
