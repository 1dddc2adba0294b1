"""Llama's forward for captioning: transformers' weights, one copy of an image's prefix for all its captions.

    prefill   [text | image] of some images and the first suffixes behind them, in one pass
    extend    more suffixes behind prefixes that are in the cache
    step      one token of every row

The attention of a row covers two parts, the prefix that it shares with the image's other rows and its own positions, under one
softmax. Equal to transformers' logits (tests/test_cached_llama.py), on transformers 4.31 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ham.llava.load_kernels import load_kernels
from ham.llava.packed_linear import PackedLinears
from ham.llava.rotary import read_rotary, rotate
from ham.llava.shared_attention import attend, attend_step, merge_parts
from ham.llava.shared_cache import Prefix, SharedCache
from ham.runtime import UsageError


class CachedLlama:
    """Run the blocks of a LlamaForCausalLM over embeddings, with keys and values in a SharedCache."""

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
        self.theta, self.scale = read_rotary(config)
        self._cos = self._sin = torch.empty(0)
        self.kernels = load_kernels(self.head_dim, llm.get_input_embeddings().weight)
        self.linear = PackedLinears(llm)

    # ------------------------------------------------------------------------------------------------------------- cache

    def bytes_per_position(self) -> int:
        """Return the cache's bytes for one position of one row."""
        item = self.llm.get_input_embeddings().weight.element_size()
        return 2 * len(self.layers) * self.kv_heads * self.head_dim * item

    def empty_cache(
        self, slots: int, group: int, prefix: int, capacity: int, text: Prefix | None
    ) -> SharedCache:
        """Allocate `slots` prefixes of `prefix` positions, the first of which are `text`, with `group` rows each."""
        like = self.llm.get_input_embeddings().weight
        sizes = (len(self.layers), self.kv_heads, self.head_dim)
        return SharedCache(like, sizes, slots, group, prefix, capacity, text)

    def text_prefix(self, embeddings: torch.Tensor) -> Prefix:
        """Compute keys and values of the text before the image, embeddings [1, T, D]."""
        keys, values = [], []
        x = embeddings
        cos_sin = self._angles(0, embeddings.shape[1], embeddings)
        for number, layer in enumerate(self.layers):
            q, k, v = self._project(layer, self._norm(x, layer.input_layernorm), cos_sin)
            keys.append(k)
            values.append(v)
            if number + 1 < len(self.layers):
                mixed = F.scaled_dot_product_attention(
                    q, self._all_heads(k), self._all_heads(v), is_causal=True
                )
                x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        return Prefix(keys, values)

    # ----------------------------------------------------------------------------------------------------------- prefill

    def prefill(
        self,
        cache: SharedCache,
        slots: Sequence[int],
        features: torch.Tensor,
        suffix: torch.Tensor,
        rows: torch.Tensor,
        every: bool = False,
    ) -> torch.Tensor:
        """Run images and the first suffixes behind them in one pass.

        features: [n, P, D], written into the cache's `slots`; suffix: [n, g, T, D], written into `rows` [n, g]. Returns the
        hidden states after the suffixes' last position, [n, g, D]; of every position, [n, g, T, D], with `every`.
        """
        count, patches, width = features.shape
        group, length = suffix.shape[1:3]
        image_tokens = count * patches
        x = torch.cat([features.reshape(-1, width), suffix.reshape(-1, width)])  # [n P + n g T, D]
        text = cache.text_length
        image_angles = self._angles(text, cache.prefix, x)
        suffix_angles = self._angles(cache.prefix, cache.prefix + length, x)
        # The text has no queries here; zeros in their place make the attention square, so that `is_causal` (and a fused
        # kernel with it) applies.
        queries = x.new_zeros(count, cache.prefix, self.heads, self.head_dim)
        mixed = x.new_empty(len(x), self.heads * self.head_dim)
        for number, layer in enumerate(self.layers):
            h = self._norm(x, layer.input_layernorm)
            h_image = h[:image_tokens].view(count, patches, width)
            h_suffix = h[image_tokens:].view(count * group, length, width)
            _, k, v = self._project(layer, h_image, image_angles, wants_query=False)
            cache.write_prefix(number, slots, k, v)
            keys, values = cache.prefix_of(number, slots)  # [n, H, prefix, d]
            mixed[image_tokens:] = self._attend_suffix(
                layer, number, h_suffix, suffix_angles, cache, keys, values, rows
            ).flatten(0, 1)
            if number + 1 == len(self.layers):
                break
            q = self.linear(layer.self_attn.q_proj, h_image)
            self._rotated(q, self.heads, image_angles, queries[:, text:])
            attended = F.scaled_dot_product_attention(
                queries.transpose(1, 2), self._all_heads(keys), self._all_heads(values), is_causal=True
            )[:, :, text:]
            mixed[:image_tokens].view(count, patches, self.heads, -1).copy_(attended.transpose(1, 2))
            x = self._finish(layer, x, mixed)
        cache.lengths[rows] = length
        return self._last_layer(x[image_tokens:], mixed[image_tokens:], (count, group, length), every)

    def extend(
        self,
        cache: SharedCache,
        slots: Sequence[int],
        suffix: torch.Tensor,
        rows: torch.Tensor,
        every: bool = False,
    ) -> torch.Tensor:
        """Run suffixes [n, g, T, D] behind the prefixes in the cache's `slots`; otherwise as prefill."""
        count, group, length, width = suffix.shape
        x = suffix.reshape(-1, width)
        angles = self._angles(cache.prefix, cache.prefix + length, x)
        for number, layer in enumerate(self.layers):
            h = self._norm(x, layer.input_layernorm).view(count * group, length, width)
            keys, values = cache.prefix_of(number, slots)
            mixed = self._attend_suffix(layer, number, h, angles, cache, keys, values, rows)
            if number + 1 < len(self.layers):
                x = self._finish(layer, x, mixed.reshape(-1, width))
        cache.lengths[rows] = length
        return self._last_layer(x, mixed, (count, group, length), every)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute next-token logits [..., V] from hidden states [..., D]."""
        return self.linear(self.llm.lm_head, self._norm(hidden, self.llm.model.norm))

    def _last_layer(
        self, x: torch.Tensor, mixed: torch.Tensor, shape: tuple[int, int, int], every: bool
    ) -> torch.Tensor:
        """Finish the last layer where its output is wanted: x and mixed are the suffixes' [n g T, D]."""
        x, mixed = x.view(*shape, -1), mixed.reshape(*shape, -1)
        if not every:
            x, mixed = x[:, :, -1], mixed[:, :, -1]
        return self._finish(self.layers[-1], x, mixed)

    def _attend_suffix(
        self,
        layer: nn.Module,
        number: int,
        h: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        cache: SharedCache,
        keys: torch.Tensor,
        values: torch.Tensor,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Attend from suffixes [n g, T, D] to their prefix and to themselves. Returns [n g, T, D]."""
        q, k, v = self._project(layer, h, angles)
        length = h.shape[1]
        cache.keys[number][rows.flatten(), :, :length] = k
        cache.values[number][rows.flatten(), :, :length] = v
        count, group = rows.shape
        shared = (
            q.view(count, group, self.heads, length, -1).transpose(1, 2).flatten(2, 3)
        )  # [n, heads, g T, d]
        first, first_lse = attend(shared, self._all_heads(keys), self._all_heads(values), is_causal=False)
        own, own_lse = attend(q, self._all_heads(k), self._all_heads(v), is_causal=True)
        first = first.unflatten(2, (group, length)).transpose(1, 2).flatten(0, 1)  # [n g, heads, T, d]
        first_lse = first_lse.unflatten(2, (group, length)).transpose(1, 2).flatten(0, 1)
        return merge_parts(first, first_lse, own, own_lse).transpose(1, 2).flatten(2)

    # -------------------------------------------------------------------------------------------------------------- step

    def step(
        self,
        cache: SharedCache,
        x: torch.Tensor,
        slots: int,
        live: torch.Tensor | None = None,
        filled: int | None = None,
    ) -> torch.Tensor:
        """Append one token to the rows of the first `slots` slots. Returns the next logits.

        x: embeddings [rows, D] of the rows `live`, or of all rows of these slots (None). filled: own positions that can
        be filled after this step; None is the cache's whole capacity (static shapes, for CUDA graphs).
        """
        grid = slots * cache.group
        lengths = cache.lengths[:grid]
        every = torch.arange(grid, device=x.device)
        rows = every if live is None else live
        positions = lengths[rows].clamp(max=cache.capacity - 1)  # rows that are not in use run on
        cos, sin = (table[positions + cache.prefix] for table in self._tables(cache.end, x))  # [rows, d]
        filled = cache.capacity if filled is None else filled
        last = lengths.clamp(max=cache.capacity - 1)
        visible = torch.arange(filled, device=x.device) <= lengths[:, None]  # [grid, C]
        for number, layer in enumerate(self.layers):
            attention = layer.self_attn
            h = self._norm(x, layer.input_layernorm)
            q, k, v = (self.linear(one, h) for one in (attention.q_proj, attention.k_proj, attention.v_proj))
            q = self._rotated(q[None], self.heads, (cos, sin))[0]  # [rows, heads, d]
            cache.keys[number][rows, :, positions] = self._rotated(k[None], self.kv_heads, (cos, sin))[0]
            cache.values[number][rows, :, positions] = v.unflatten(-1, (self.kv_heads, -1))
            if live is not None:
                q = q.new_zeros(grid, *q.shape[1:]).index_copy_(0, live, q)
            shared = (cache.prefix_keys[number][:slots], cache.prefix_values[number][:slots])
            own = (cache.keys[number][:grid], cache.values[number][:grid])
            if self.kernels is not None and live is None:
                mixed = self.kernels.attend_step(q, *shared, *own, last).flatten(1)
            else:
                mixed = attend_step(q, *shared, *(one[:, :, :filled] for one in own), visible).flatten(1)
            x = self._finish(layer, x, mixed if live is None else mixed[live])
        cache.lengths[rows] += 1
        return self.logits(x)

    # --------------------------------------------------------------------------------------------------------- the parts

    def _project(
        self,
        layer: nn.Module,
        h: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        wants_query: bool = True,
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Compute queries, keys and values [B, heads, T, d] of h [B, T, D]."""
        attention = layer.self_attn
        k = self._rotated(self.linear(attention.k_proj, h), self.kv_heads, angles).transpose(1, 2)
        v = self.linear(attention.v_proj, h).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        if not wants_query:
            return None, k, v
        return self._rotated(self.linear(attention.q_proj, h), self.heads, angles).transpose(1, 2), k, v

    def _rotated(
        self,
        x: torch.Tensor,
        heads: int,
        angles: tuple[torch.Tensor, torch.Tensor],
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rotate projections [B, T, heads d] by the angles of their positions. Returns [B, T, heads, d], `out` if given."""
        x = x.unflatten(-1, (heads, -1))
        if self.kernels is not None:
            return self.kernels.rotate(x, *angles, out)
        rotated = rotate(x, *(one[:, None] for one in angles))
        return rotated if out is None else out.copy_(rotated)

    def _finish(self, layer: nn.Module, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Apply the output projection and the MLP of a layer, with their residuals."""
        x = x + self.linear(layer.self_attn.o_proj, mixed)
        h = self._norm(x, layer.post_attention_layernorm)
        gates = self.linear(layer.mlp.gate_proj, h)
        up = self.linear(layer.mlp.up_proj, h)
        gated = F.silu(gates).mul_(up) if self.kernels is None else self.kernels.gate(gates, up)
        return x + self.linear(layer.mlp.down_proj, gated)

    def _all_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.kv_heads == self.heads else x.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def _norm(self, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        if x.is_cuda and hasattr(F, "rms_norm"):
            return F.rms_norm(x, norm.weight.shape, norm.weight, self.eps)  # one kernel
        # As transformers: the mean square in at least float32, the weight in the model's dtype.
        wide = x if x.dtype == torch.float64 else x.float()
        return norm.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _angles(self, start: int, end: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = self._tables(end, like)
        return cos[start:end], sin[start:end]

    def _tables(self, positions: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rotary tables [>= positions, d]."""
        if len(self._cos) < positions or self._cos.dtype != like.dtype or self._cos.device != like.device:
            # In float32 even for the float64 recheck: these tables are the model's, their rounding is part of it.
            steps = torch.arange(0, self.head_dim, 2, device=like.device).float() / self.head_dim
            at = torch.arange(positions, device=like.device).float() / self.scale
            angles = torch.outer(at, 1.0 / self.theta**steps).repeat(1, 2)  # [positions, d]
            self._cos = angles.cos().to(like.dtype)
            self._sin = angles.sin().to(like.dtype)
        return self._cos, self._sin
