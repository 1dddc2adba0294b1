"""Attention in two parts: a prefix that several rows share, and each row's own positions.

Both parts are normalized by one softmax: in a step by one softmax over the scores of both, in prefill by merging two finished
parts through their log-sum-exp.
"""

from __future__ import annotations

import torch


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from q [B, H, T, d] to k, v [B, H, L, d].

    Returns the result [B, H, T, d] and the log-sum-exp of the scores, [B, H, T] in at least float32.
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[:2]
        return out, lse
    if q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, T, L]
    if is_causal:
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    if scores.dtype != torch.float64:
        scores = scores.float()
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(q.dtype) @ v, lse


def merge_parts(
    first: torch.Tensor, first_lse: torch.Tensor, second: torch.Tensor, second_lse: torch.Tensor
) -> torch.Tensor:
    """Merge the attention results [..., d] over two disjoint sets of keys by their log-sum-exp [...]."""
    share = torch.sigmoid(first_lse - second_lse)[..., None]
    return (first * share + second * (1 - share)).to(first.dtype)


def attend_step(
    q: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:
    """Attend from one query per row to its slot's prefix and its own positions.

    q: [I G, heads, d]; prefix_keys, prefix_values: [I, kv_heads, P, d]; keys, values: [I G, kv_heads, C, d]; visible:
    bool [I G, C]. Returns [I G, heads, d]. The rows of a slot are multiplied with the slot's prefix at once.
    """
    slots, kv_heads, prefix, width = prefix_keys.shape
    rows, heads = q.shape[:2]
    group, repeat = rows // slots, heads // kv_heads
    q = q.view(slots, group, kv_heads, repeat, width) * width**-0.5
    shared = q.transpose(1, 2).flatten(2, 3)  # [I, kv_heads, G r, d]
    first = shared @ prefix_keys.transpose(-1, -2)  # [I, kv_heads, G r, P]
    second = q.flatten(0, 1) @ keys.transpose(-1, -2)  # [I G, kv_heads, r, C]
    second = second.masked_fill(~visible[:, None, None], float("-inf"))
    second = second.unflatten(0, (slots, group)).transpose(1, 2).flatten(2, 3)  # [I, kv_heads, G r, C]
    scores = torch.cat([first, second], dim=-1)
    if scores.dtype != torch.float64:
        scores = scores.float()
    weights = scores.softmax(-1).to(q.dtype)
    mixed = weights[..., :prefix] @ prefix_values  # [I, kv_heads, G r, d]
    own = weights[..., prefix:].unflatten(2, (group, repeat)).transpose(1, 2).flatten(0, 1) @ values
    mixed = mixed.unflatten(2, (group, repeat)).transpose(1, 2).flatten(0, 1) + own  # [I G, kv_heads, r, d]
    return mixed.flatten(1, 2)
