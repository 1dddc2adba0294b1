"""Llama's forward for captioning: the weights of transformers' LlamaForCausalLM, one preallocated cache, no padding.

transformers' own forward grows its cache by concatenation, rebuilds masks and computes every position of every layer. Here the
cache is written in place, the last layer computes only what is asked for, and it is the same code on transformers 4.31 and 5.
Equal to transformers' logits (tests/test_decode.py). Rows of one call have equal lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ham.runtime import UsageError


class KVCache:
    """Keys and values of every layer, [B, heads, capacity, d] each; the first `length` positions are filled."""

    def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], length: int = 0) -> None:
        self.keys, self.values, self.length = keys, values, length

    @property
    def rows(self) -> int:
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def _each(self, change: Any, length: int) -> KVCache:
        return KVCache(
            [change(keys) for keys in self.keys], [change(values) for values in self.values], length
        )

    def new(self, rows: int, capacity: int) -> KVCache:
        """Make an empty cache of the same kind."""
        return self._each(lambda one: one.new_empty(rows, one.shape[1], capacity, one.shape[3]), 0)

    def part(self, start: int, end: int) -> KVCache:
        """View some rows; what is written there is written here, but `length` is the view's own."""
        return self._each(lambda one: one[start:end], self.length)

    def fill_from(self, other: KVCache, row_of: torch.Tensor) -> None:
        """Take over the filled positions of other's rows `row_of` [B]."""
        length = other.length
        for mine, theirs in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            mine[:, :, :length] = theirs[row_of, :, :length] if other.rows > 1 else theirs[:, :, :length]
        self.length = length

    def keep(self, rows: torch.Tensor) -> KVCache:
        """Copy the rows named, and only what is filled of them, at the same capacity."""
        kept = self.new(len(rows), self.capacity)
        kept.fill_from(self, rows)
        return kept

    def grown(self, capacity: int) -> KVCache:
        """Copy into a larger cache."""
        larger = self.new(self.rows, capacity)
        larger.fill_from(self, torch.arange(self.rows, device=self.keys[0].device))
        return larger


class FastLlama:
    """Run the blocks of a LlamaForCausalLM over embeddings, appending to a cache."""

    def __init__(self, llm: nn.Module) -> None:
        config = llm.config
        self.llm = llm
        self.layers = list(llm.model.layers)
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        if config.hidden_act != "silu":
            raise UsageError(
                f"the captioning engine runs Llama's silu; this model's hidden_act is {config.hidden_act!r}"
            )
        self.theta, self.scale = _rotary(config)
        self._cos = self._sin = torch.empty(0)

    def empty_cache(self, rows: int, capacity: int) -> KVCache:
        """Make a cache for `rows` sequences of up to `capacity` positions."""
        like = self.llm.get_input_embeddings().weight
        shape = (rows, self.kv_heads, capacity, self.head_dim)
        return KVCache(*([like.new_empty(shape) for _ in self.layers] for _ in range(2)))

    def bytes_per_position(self) -> int:
        """Give the cache's bytes for one position of one row."""
        return (
            2
            * len(self.layers)
            * self.kv_heads
            * self.head_dim
            * self.llm.get_input_embeddings().weight.element_size()
        )

    def fill(self, embeddings: torch.Tensor, cache: KVCache) -> None:
        """Append embeddings [B, T, D] to the cache and compute no output: the last layer stops at its keys and values."""
        self._blocks(embeddings, cache, wants_output=False)

    def next_logits(self, embeddings: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Append embeddings [B, T, D] to the cache; returns the logits after the last position, [B, V]."""
        hidden = self._blocks(embeddings, cache, wants_output=True)[:, -1]
        return self.llm.lm_head(self._norm(hidden, self.llm.model.norm))

    def _blocks(self, x: torch.Tensor, cache: KVCache, wants_output: bool) -> torch.Tensor | None:
        start, end = cache.length, cache.length + x.shape[1]
        cos, sin = (table[start:end] for table in self._rotary_tables(cache.capacity, x))
        mask = None
        if x.shape[1] > 1:
            mask = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).tril(start)
        for number, layer in enumerate(self.layers):
            attention, keys, values = layer.self_attn, cache.keys[number], cache.values[number]
            h = self._norm(x, layer.input_layernorm)
            keys[:, :, start:end] = _rotate(self._split(attention.k_proj(h), self.kv_heads), cos, sin)
            values[:, :, start:end] = self._split(attention.v_proj(h), self.kv_heads)
            if number == len(self.layers) - 1:
                if not wants_output:
                    break
                x, h, cos, sin = x[:, -1:], h[:, -1:], cos[-1:], sin[-1:]
                mask = None
            q = _rotate(self._split(attention.q_proj(h), self.heads), cos, sin)  # [B, heads, T, d]
            k, v = (self._all_heads(filled[:, :, :end]) for filled in (keys, values))
            mixed = (
                _attend_one(q, k, v)
                if q.shape[2] == 1 and q.device.type == "cpu"
                else (F.scaled_dot_product_attention(q, k, v, mask))
            )
            x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
            h = self._norm(x, layer.post_attention_layernorm)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        cache.length = end
        return x if wants_output else None

    def _split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)  # [B, heads, T, d]

    def _all_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.kv_heads == self.heads else x.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def _norm(self, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        # As transformers: the mean square in at least float32, the weight in the model's dtype.
        wide = x if x.dtype == torch.float64 else x.float()
        return norm.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _rotary_tables(self, positions: int, like: torch.Tensor) -> Sequence[torch.Tensor]:
        if len(self._cos) < positions or self._cos.dtype != like.dtype or self._cos.device != like.device:
            # In float32 even for the float64 referee: these tables are the model's, their rounding is part of it.
            steps = torch.arange(0, self.head_dim, 2, device=like.device).float() / self.head_dim
            at = torch.arange(positions, device=like.device).float() / self.scale
            angles = torch.outer(at, 1.0 / self.theta**steps).repeat(1, 2)  # [positions, d]
            self._cos, self._sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
        return self._cos, self._sin


def _attend_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend with one query to every position: a third faster than torch's fused kernel on CPUs where heads are narrow."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys [B, heads, T, d] by their positions' angles [T, d]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _rotary(config: Any) -> tuple[float, float]:
    """Read the rotary base and the linear scaling factor of a Llama config of any transformers version."""
    rope = {
        **(getattr(config, "rope_scaling", None) or {}),
        **(getattr(config, "rope_parameters", None) or {}),
    }
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise UsageError(
            f"rotary scaling '{kind}' is not supported by the captioning engine; it knows default and linear"
        )
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0
    return float(theta), float(rope.get("factor", 1.0)) if kind == "linear" else 1.0
