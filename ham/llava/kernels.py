"""Triton kernels for what torch does in many passes over memory: a step's attention, rotary positions, the gate of the MLP.

`attend_step`: a program computes all rows of a slot for one head of keys and values, first over the prefix that they share,
then over each row's own positions, with one running softmax. Every key and value that is filled is read once.

Equal to the plain code (tests/test_kernels.py). Imported on a GPU only; torch's CUDA builds bring Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64  # keys at a time
LEAST_ROWS = 16  # of a matrix product on tensor cores
ELEMENTS = 2048  # that a program of the gate computes


@triton.jit
def _update(best, total, mixed, scores, values):
    """Add a block of scores [M, N] and values [N, D] to a running softmax."""
    new = tl.maximum(best, tl.max(scores, 1))
    scale = tl.exp(best - new)
    weights = tl.exp(scores - new[:, None])
    total = total * scale + tl.sum(weights, 1)
    mixed = mixed * scale[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return new, total, mixed


@triton.jit
def _step_kernel(
    q_ptr,
    prefix_keys_ptr,
    prefix_values_ptr,
    keys_ptr,
    values_ptr,
    lengths_ptr,
    out_ptr,
    prefix,
    capacity,
    scale,
    heads: tl.constexpr,
    group: tl.constexpr,
    repeat: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.arange(0, rows)  # a query: row of the slot, and which of the queries that share a head of keys
    place = row // repeat
    column = tl.arange(0, width)
    is_query = row < group * repeat
    at = ((slot * group + place) * heads * repeat + head * repeat + row % repeat) * width
    q = tl.load(q_ptr + at[:, None] + column[None, :], mask=is_query[:, None], other=0.0)
    best = tl.full([rows], -1e30, tl.float32)
    total = tl.zeros([rows], tl.float32)
    mixed = tl.zeros([rows, width], tl.float32)
    key = tl.arange(0, block)
    start_of = (slot * heads + head) * prefix * width
    for start in range(0, prefix, block):
        is_key = start + key < prefix
        offsets = start_of + (start + key)[:, None] * width + column[None, :]
        k = tl.load(prefix_keys_ptr + offsets, mask=is_key[:, None], other=0.0)
        v = tl.load(prefix_values_ptr + offsets, mask=is_key[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(is_key[None, :], scores, -float("inf"))
        best, total, mixed = _update(best, total, mixed, scores, v)
    for own in tl.static_range(group):
        filled = tl.load(lengths_ptr + slot * group + own) + 1
        start_of = ((slot * group + own) * heads + head) * capacity * width
        for start in range(0, filled, block):
            is_key = start + key < filled
            offsets = start_of + (start + key)[:, None] * width + column[None, :]
            k = tl.load(keys_ptr + offsets, mask=is_key[:, None], other=0.0)
            v = tl.load(values_ptr + offsets, mask=is_key[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(is_key[None, :] & (place == own)[:, None], scores, -float("inf"))
            best, total, mixed = _update(best, total, mixed, scores, v)
    result = (mixed / total[:, None]).to(q.dtype)
    tl.store(out_ptr + at[:, None] + column[None, :], result, mask=is_query[:, None])


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    positions,
    out_batch,
    out_position,
    heads: tl.constexpr,
    heads_block: tl.constexpr,
    half: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    batch, position = token // positions, token % positions
    head = tl.arange(0, heads_block)[:, None]
    column = tl.arange(0, half)[None, :]
    is_head = (head < heads) & (column < half)
    x_at = token * heads * half * 2 + head * half * 2 + column
    out_at = batch * out_batch + position * out_position + head * half * 2 + column
    cos = tl.load(cos_ptr + position * half * 2 + column).to(tl.float32)
    sin = tl.load(sin_ptr + position * half * 2 + column).to(tl.float32)
    first = tl.load(x_ptr + x_at, mask=is_head, other=0.0)
    second = tl.load(x_ptr + x_at + half, mask=is_head, other=0.0)
    one, two = first.to(tl.float32), second.to(tl.float32)
    tl.store(out_ptr + out_at, (one * cos - two * sin).to(first.dtype), mask=is_head)
    tl.store(out_ptr + out_at + half, (two * cos + one * sin).to(first.dtype), mask=is_head)


@triton.jit
def _gate_kernel(gate_ptr, up_ptr, out_ptr, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_element = at < count
    gate = tl.load(gate_ptr + at, mask=is_element, other=0.0)
    up = tl.load(up_ptr + at, mask=is_element, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    tl.store(out_ptr + at, (wide / (1 + tl.exp(-wide)) * up).to(gate.dtype), mask=is_element)


def is_supported(head_width: int) -> bool:
    """Return whether the kernels can run heads of this width."""
    return head_width >= 16 and head_width & (head_width - 1) == 0


def attend_step(
    q: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Attend from one query per row to its slot's prefix and its own positions.

    q: [I G, heads, d]; prefix_keys, prefix_values: [I, kv_heads, P, d]; keys, values: [I G, kv_heads, C, d], all contiguous;
    lengths: int64 [I G], the last own position that a row sees. Returns [I G, heads, d].
    """
    slots, kv_heads, prefix, width = prefix_keys.shape
    group, repeat = q.shape[0] // slots, q.shape[1] // kv_heads
    q = q.contiguous()
    out = torch.empty_like(q)
    rows = max(LEAST_ROWS, triton.next_power_of_2(group * repeat))
    sizes = {
        "heads": kv_heads,
        "group": group,
        "repeat": repeat,
        "width": width,
        "rows": rows,
        "block": BLOCK,
    }
    _step_kernel[(slots, kv_heads)](
        q,
        prefix_keys,
        prefix_values,
        keys,
        values,
        lengths,
        out,
        prefix,
        keys.shape[2],
        width**-0.5,
        **sizes,
        num_warps=4,
        num_stages=3,
    )
    return out


def rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rotate queries or keys x [B, T, heads, d], contiguous, by the angles [T, d] of their positions.

    out: [B, T, heads, d], its last two dimensions contiguous; a new tensor by default.
    """
    out = torch.empty_like(x) if out is None else out
    batch, positions, heads, width = x.shape
    _rotate_kernel[(batch * positions,)](
        x,
        cos,
        sin,
        out,
        positions,
        out.stride(0),
        out.stride(1),
        heads=heads,
        heads_block=triton.next_power_of_2(heads),
        half=width // 2,
    )
    return out


def gate(gates: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Compute silu(gates) * up of two contiguous tensors of one shape."""
    out = torch.empty_like(gates)
    count = gates.numel()
    _gate_kernel[(triton.cdiv(count, ELEMENTS),)](gates, up, out, count, block=ELEMENTS)
    return out
