"""Set up a training run: check everything, open the pairs, build or restore model, optimizer and state.

Knows nothing of the loop (ham/reid/train.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ham.distributed import gather_rows
from ham.reid.checkpoints import (
    LAST,
    Progress,
    find_folder,
    read_state,
    refuse_other_config,
    trim_metrics,
    write_config,
)
from ham.reid.config import TrainConfig
from ham.reid.data import (
    FailedImages,
    Pairs,
    caption_file_pairs,
    dataset_pairs,
    fingerprint,
    pack_pairs,
    require_datasets,
)
from ham.reid.methods import Method
from ham.reid.optim import TSE_LR, build_optimizer
from ham.reid.sampler import SAMPLERS, rank_slice
from ham.reid.weights import start_method
from ham.runtime import MetricsLog, UsageError, dist_info, log, resolve_device, resolve_dtype, seed_everything

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass
class Run:
    """Everything that a training run holds. model: what is trained (perhaps wrapped); method: the same, unwrapped."""

    config: TrainConfig
    accelerator: Accelerator
    pairs: Pairs
    method: Method
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    dtype: torch.dtype
    failed: FailedImages
    metrics: MetricsLog
    state: Progress
    clean: np.ndarray | None = None  # RDE: float32 [N pairs], 1 where a pair counts
    board: Any = None  # TensorBoard's writer, on the first process only


def set_up(config: TrainConfig) -> Run:
    """Check everything that can be checked, then build the run, or the state that it was left in."""
    config.check()
    for names, split in (
        (config.train_datasets, "train"),
        (config.val_datasets, "val"),
        (config.test_datasets, "test"),
    ):
        require_datasets(config.data_root, names, split)
    out, place = Path(config.output_dir), dist_info()
    rank_slice(np.zeros(config.batch_size), place.rank, place.world_size, 0, config.accumulation_steps)
    accelerator, dtype = start_accelerator(config)
    last = find_run(config, accelerator)
    with accelerator.local_main_process_first():
        pairs = open_pairs(config)
    seed_everything(config.seed)
    method = start_method(
        config.method,
        last or config.weights,
        pairs.num_persons,
        config.image_size_px,
        config.stride_px,
        config.irra,
        config.rde,
    )
    if config.gather and place.world_size > 1:
        method.gather = gather_rows
        if accelerator.device.type == "cuda":
            method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)
    optimizer = build_optimizer(
        method,
        config.optimizer,
        config.lr,
        weight_decay=config.weight_decay,
        bias_lr_factor=config.bias_lr_factor,
        new_layer_lr_factor=config.new_layer_lr_factor,
        own_lr=dict.fromkeys(TSE_LR, config.token_selection_lr),
    )
    model, optimizer = accelerator.prepare(torch.compile(method) if config.compile else method, optimizer)
    state, clean = Progress(), None
    if last is not None:
        state, optimizer_state, scaler_state, clean = read_state(last / "trainer_state")
        optimizer.load_state_dict(optimizer_state)
        if accelerator.scaler is not None and scaler_state is not None:
            accelerator.scaler.load_state_dict(scaler_state)
        log.info("resuming %s at epoch %d, batch %d, step %d", out, state.epoch + 1, state.batch, state.step)
    if accelerator.is_main_process:
        write_config(out / "config.yaml", config)
        trim_metrics(out / "metrics.jsonl", state.step)
    log.info(
        "%d pairs of %d images and %d persons; batches of %d pairs on %d x %s, %s",
        len(pairs),
        len(pairs.image_paths),
        pairs.num_persons,
        config.batch_size,
        place.world_size,
        accelerator.device.type,
        dtype,
    )
    failed = FailedImages(out / "failed.jsonl", len(pairs.image_paths), config.max_failed_share)
    return Run(
        config,
        accelerator,
        pairs,
        method,
        model,
        optimizer,
        dtype,
        failed,
        MetricsLog(out / "metrics.jsonl"),
        state,
        clean,
        open_board(config) if accelerator.is_main_process else None,
    )


def start_accelerator(config: TrainConfig) -> tuple[Accelerator, torch.dtype]:
    """Join the other processes on the device, at the precision that was asked for."""
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.precision, device)
    if dtype == torch.float16 and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    compiler = (os.environ.get("CXX") or "g++").split()[0]  # "ccache g++" is two words
    if config.compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"--compile needs a C++ compiler ({compiler}) on a CPU; install one, or leave --compile out"
        )
    AcceleratorState._reset_state()  # accelerate keeps the precision of the process's first run otherwise
    return Accelerator(mixed_precision=MIXED[dtype], cpu=device.type == "cpu"), dtype


def find_run(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """Find the checkpoint to go on from, if any. Raises UsageError when --resume or other options do not allow it."""
    folder = Path(config.output_dir) / LAST
    if accelerator.is_main_process:
        find_folder(folder)
    accelerator.wait_for_everyone()
    if not folder.exists():
        return None
    if not config.resume:
        raise UsageError(
            f"{folder.parent} holds a run already; give another --output_dir, or --resume true to go on with it"
        )
    refuse_other_config(folder / "config.yaml", config)
    return folder


def open_pairs(config: TrainConfig) -> Pairs:
    """Open the training pairs of all datasets and caption files, packed under the cache folder."""

    def all_pairs() -> Iterator[tuple[str, str, str]]:
        datasets = (dataset_pairs(config.data_root, name) for name in config.train_datasets)
        files = caption_file_pairs(
            config.train_captions, config.train_images, config.person_is, cache, config.caption_images
        )
        return chain(*datasets, files if config.train_captions else ())

    cache = Path(config.cache_dir or Path(config.output_dir) / "cache")
    key = fingerprint(
        config.data_root,
        config.train_datasets,
        config.train_captions,
        str(config.train_images),
        str(config.data_root),
        config.person_is,
        config.caption_images,
        config.text_length,
    )
    pairs = pack_pairs(all_pairs, cache / f"pairs-{key}", config.text_length)
    if len(plan_of(config, pairs, 0)) == 0:
        raise UsageError(
            f"{len(pairs)} training pairs of {pairs.num_persons} persons do not fill one batch of "
            f"{config.batch_size} ({config.sampler} sampler); choose a smaller --batch_size"
        )
    return pairs


def plan_of(config: TrainConfig, pairs: Pairs, epoch: int) -> np.ndarray:
    """Give the epoch's batches, int64 [batches, batch_size]."""
    more = {"instances": config.instances} if config.sampler == "identity" else {}
    return SAMPLERS[config.sampler](pairs.person, config.batch_size, config.seed, epoch, **more)


def open_board(config: TrainConfig) -> Any:
    if not config.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'ham[train]'") from None
    return SummaryWriter(str(Path(config.output_dir) / "tensorboard"))
