"""Decoding steps: one token for every row of a batch, eagerly or as a replayed CUDA graph.

The state is in tensors of fixed size, so that the same code runs in both ways and nothing waits for the device: a step reads
the tokens chosen last and writes the next ones in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ham.captioner.engine import Decoder
from ham.captioner.sampling import Choice, choose
from ham.llava.shared_cache import SharedCache
from ham.runtime import log

CLOSE, NOT_FINITE = 1, 2  # bits of a row's flags


class Chosen(NamedTuple):
    """Tokens and flags of some rows, int64 [2, n] on the host; with an event to wait for where they come from a GPU."""

    values: torch.Tensor
    event: torch.cuda.Event | None

    def read(self) -> tuple[list[int], list[int]]:
        """Return tokens and flags."""
        if self.event is not None:
            self.event.synchronize()
        tokens, flags = self.values.tolist()
        return tokens, flags


class Steps:
    """The rows' last tokens and the step that chooses the next.

    uniform: float64 [rows, max_new_tokens], the random numbers of the rows' captions, or None when decoding is greedy.
    use_graphs: capture the step as a CUDA graph, once per number of slots and capacity.
    """

    def __init__(self, decoder: Decoder, cache: SharedCache, suffix_length: int, use_graphs: bool) -> None:
        device = decoder.captioner.device
        rows = cache.slots * cache.group
        self.decoder = decoder
        self.cache = cache
        self.suffix_length = suffix_length
        self.chosen = torch.zeros(2, rows, dtype=torch.long, device=device)  # tokens, flags
        settings = decoder.settings
        self.uniform = None
        if settings.temperature > 0:
            self.uniform = torch.zeros(rows, settings.max_new_tokens, dtype=torch.float64, device=device)
        self.use_graphs = use_graphs
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._pool = None

    def first(self, rows: torch.Tensor, logits: torch.Tensor) -> Chosen:
        """Choose the first tokens of the rows [n] from logits [n, V]."""
        return self._report(self._choose(rows, logits, torch.zeros_like(rows)))

    def next(self, slots: int, live: torch.Tensor | None, filled: int | None) -> Chosen:
        """Feed the last tokens of the first `slots` slots and choose the next; of the rows `live` only, where given."""
        if self.use_graphs:
            return self._report(self._replay(slots))
        return self._report(self._eager(slots, live, filled))

    def move(self, source: int, target: int) -> None:
        """Move a slot's rows."""
        group = self.cache.group
        theirs, mine = (slice(slot * group, (slot + 1) * group) for slot in (source, target))
        self.chosen[:, mine] = self.chosen[:, theirs]
        if self.uniform is not None:
            self.uniform[mine] = self.uniform[theirs]
        self.cache.move(source, target)

    def grow(self, capacity: int) -> None:
        """Enlarge the cache; captured graphs hold the old one."""
        self._graphs.clear()
        self.cache.grow(capacity)

    def _eager(self, slots: int, live: torch.Tensor | None, filled: int | None) -> torch.Tensor:
        rows = torch.arange(slots * self.cache.group, device=self.chosen.device) if live is None else live
        embeddings = self.decoder.model.embed(self.chosen[0, rows])
        logits = self.decoder.llama.step(self.cache, embeddings, slots, live, filled)
        return self._choose(rows, logits, self.cache.lengths[rows] - self.suffix_length)

    def _choose(self, rows: torch.Tensor, logits: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Choose each row's token number `number` [n] and store it. Returns tokens and flags [2, n]."""
        settings, uniform = self.decoder.settings, None
        if self.uniform is not None:
            last = settings.max_new_tokens - 1
            uniform = self.uniform[rows, number.clamp(max=last)]
        choice = choose(logits, settings.temperature, settings.top_p, uniform, self.decoder.checks)
        chosen = torch.stack([choice.ids, _flags(choice)])
        self.chosen[:, rows] = chosen
        return chosen

    def _report(self, chosen: torch.Tensor) -> Chosen:
        if not chosen.is_cuda:
            return Chosen(chosen, None)
        host = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
        host.copy_(chosen, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Chosen(host, event)

    # ------------------------------------------------------------------------------------------------------------ graphs

    def _replay(self, slots: int) -> torch.Tensor:
        key = (slots, self.cache.capacity)
        if key not in self._graphs:
            try:
                self._graphs[key] = self._capture(lambda: self._eager(slots, None, None))
            except RuntimeError as error:
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                log.warning("decoding without CUDA graphs: %s", str(error).splitlines()[0])
                self.use_graphs = False
                return self._eager(slots, None, None)
        self._graphs[key].replay()
        return self.chosen[:, : slots * self.cache.group].clone()

    def _capture(self, step: Callable[[], torch.Tensor]) -> torch.cuda.CUDAGraph:
        """Capture a step; the state stays what it was before."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        before = self.chosen.clone(), self.cache.lengths.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm-up: libraries allocate their workspaces
            step()
            self._restore(before)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._restore(before)
        return graph

    def _restore(self, before: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.chosen.copy_(before[0])
        self.cache.lengths.copy_(before[1])


def _flags(choice: Choice) -> torch.Tensor:
    flags = (~choice.is_finite).long() * NOT_FINITE
    return flags if choice.is_close is None else flags + choice.is_close * CLOSE
