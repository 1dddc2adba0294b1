"""Estimate a training run's memory per process before a GPU is rented: `train_reid.py pretrain|finetune ... --estimate`.

Parameters are counted exactly. Activations are what autograd keeps in a forward pass of both towers and the embeddings, counted
on tensors without data; losses and IRRA's MLM head (a few per cent) are not included, nor the allocator's fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ham.clip.layouts import read_weights
from ham.clip.towers import CLIPConfig
from ham.clip.weights import build_clip, config_of
from ham.reid.config import TrainOptions
from ham.reid.methods import build_method
from ham.reid.protocol import RetrievalMethod
from ham.runtime import dist_info, log, resolve_dtype

GIB = 2**30
CARDS_GIB = (16, 24, 40, 80)
RESERVED = 0.9  # share of a card that tensors can use
NUM_PERSONS = 10_000  # rows of a classifier when the data is not read


@dataclass(frozen=True)
class Memory:
    """Bytes on one process: fixed (weights, gradients, optimizer) and per pair of one gradient accumulation step."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    per_pair: int
    pairs: int

    @property
    def fixed(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.copies

    @property
    def total(self) -> int:
        return self.fixed + self.per_pair * self.pairs

    def largest_batch(self, card_gib: float) -> int:
        """Return the largest number of pairs per process and step that fits a card; 0 if none does."""
        return max(0, int((card_gib * GIB * RESERVED - self.fixed) / self.per_pair))


def estimate(config: TrainOptions) -> Memory:
    """Estimate the memory of one process of a run; reads the shapes of the weights, no data."""
    config.check_values()
    dtype = resolve_dtype("bf16" if config.precision == "auto" else config.precision)
    sizes = tower_sizes(config)
    world = dist_info().world_size
    with FakeTensorMode():
        method = build_method(config.method, build_clip(sizes), NUM_PERSONS, **config.method_options)
        parameters = sum(value.numel() for value in method.parameters())
        trained = sum(value.numel() for value in method.parameters() if value.requires_grad)
        method.base_model.set_gradient_checkpointing(config.gradient_checkpointing)
        one, two = (activation_bytes(method, sizes, pairs, dtype) for pairs in (2, 4))
        per_pair = (two - one) // 2
        if config.gradient_checkpointing:  # one block at a time is computed again
            method.base_model.set_gradient_checkpointing(False)
            whole = activation_bytes(method, sizes, 4, dtype) - activation_bytes(method, sizes, 2, dtype)
            per_pair += whole // 2 // max(sizes.vision_layers, 1)
    return Memory(
        parameters=parameters,
        trained=trained,
        weights=4 * parameters,
        gradients=4 * trained * (2 if world > 1 else 1),  # DDP keeps buckets of their own
        optimizer=(4 if config.optimizer == "sgd" else 8) * trained,
        copies=0 if dtype == torch.float32 else 2 * parameters,
        per_pair=per_pair,
        pairs=config.batch_size // config.accumulation_steps // world,
    )


def tower_sizes(config: TrainOptions) -> CLIPConfig:
    """Return the towers' sizes: those of the weights at the run's image size, or ViT-B/16 if the file is not there yet."""
    if config.weights is None or not Path(config.weights).exists():
        log.warning("%s is not there: the estimate is for ViT-B/16", config.weights)
        return CLIPConfig(config.image_size_px, 16, config.stride_px, context_length=config.text_length)
    weights = read_weights(config.weights, config.ignore_tensors)
    sizes = config_of(
        weights, weights.clip, config.image_size_px, config.stride_px, config.text_length, config.heads
    )
    if sizes.token_ids is not None:  # a compact vocabulary looks up values, of which there are none here
        rows = len(weights.clip["token_embedding.weight"])
        sizes = replace(sizes, token_ids=None, vocab_size=rows)
    return sizes


def activation_bytes(method: RetrievalMethod, sizes: CLIPConfig, pairs: int, dtype: torch.dtype) -> int:
    """Count the bytes that a forward pass of `pairs` pairs keeps for the backward pass, weights not included."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    images = torch.zeros(pairs, 3, *sizes.image_size_px)
    ids = torch.zeros(pairs, sizes.context_length, dtype=torch.long)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32)
    weights = {value.untyped_storage()._cdata for value in method.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, Tensor.detach), autocast:
        features = [*method.image_features(images), *method.text_features(ids)]
    del features
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)


def format_estimate(memory: Memory, config: TrainOptions) -> str:
    """Return the estimate as a table."""
    precision = "bf16" if config.precision == "auto" else config.precision
    rows = [
        (f"weights, fp32 ({memory.parameters / 1e6:.1f} M parameters)", memory.weights),
        (f"gradients ({memory.trained / 1e6:.1f} M trained)", memory.gradients),
        (f"optimizer ({config.optimizer})", memory.optimizer),
        (f"copies of the weights in {precision}", memory.copies),
        (
            f"activations, {memory.pairs} pairs x {memory.per_pair / 2**20:.1f} MiB",
            memory.per_pair * memory.pairs,
        ),
        ("in all, per process", memory.total),
    ]
    lines = [f"{name:<48}{size / GIB:>9.2f} GiB" for name, size in rows if size]
    fits = ", ".join(f"{card} GB: {memory.largest_batch(card * 1e9 / GIB)}" for card in CARDS_GIB)
    lines += [
        f"largest number of pairs per process and gradient accumulation step: {fits}",
        "Estimated from shapes; losses, IRRA's MLM head and fragmentation are not included.",
    ]
    return "\n".join(lines)
