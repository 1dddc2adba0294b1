"""The training loop: pretraining on captions and fine-tuning on benchmarks, on any number of processes, resumable at any step.

Every random choice is a function of (seed, epoch, batch) over the global batch, so the same pairs meet with the same
augmentation for any number of processes, and a killed run continues exactly from its last checkpoint.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ham.distributed import gather_rows
from ham.reid.batch import make_batch
from ham.reid.checkpoints import (
    TEST_BEST,
    VAL_BEST,
    lock_output,
    save_best,
    save_last,
    trim_metrics,
    write_config,
)
from ham.reid.config import TrainConfig
from ham.reid.data import open_pairs, plan_of, require_datasets
from ham.reid.encode import EncodeSettings
from ham.reid.evaluate import Row, evaluate, format_table
from ham.reid.gpu_jpeg import check_gpu_jpeg
from ham.reid.loader import FailedImages, image_loader, num_workers
from ham.reid.optim import build_optimizer, set_lr_factor
from ham.reid.resume import find_run, refuse_other_data
from ham.reid.run import Progress, Run
from ham.reid.sampler import rank_slice
from ham.reid.schedule import lr_factor
from ham.reid.start import advise, finish_trackers, load_start, start_accelerator
from ham.reid.train_log import Meter, report
from ham.reid.trainer_state import read_state
from ham.runtime import MetricsLog, dist_info, log, progress, seed_everything


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; return the rows of the last evaluation and the best mean R1 by checkpoint name.

    Resumes a run that the same config started in the same output_dir. Raises UsageError for what the user can fix, WorkError
    for a non-finite loss, too many unreadable images or a checkpoint that cannot be saved.
    """
    check(config)
    with lock_output(config.output_dir):
        run = set_up(config)
        rows: list[Row] = []
        for epoch in range(run.state.epoch, config.epochs):
            if run.state.batch == 0:
                run.method.before_epoch(run, epoch)
            train_epoch(run, epoch)
            run.state = replace(run.state, epoch=epoch + 1, batch=0)
            if is_evaluated(config, epoch):
                rows = evaluate_run(run)
            save_last(run)
        finish_trackers(run.accelerator)
    if run.failed.seen:
        log.warning(
            "%d images could not be read; they are listed in %s", len(run.failed.seen), run.failed.path
        )
    return {"rows": rows, "best": run.state.best, "output_dir": str(config.output_dir)}


# ------------------------------------------------------------------------------------------------------------------ set-up


def check(config: TrainConfig) -> None:
    """Check options and data before anything is loaded."""
    config.check()
    place = dist_info()
    rank_slice(np.zeros(config.batch_size), place.rank, place.world_size, 0, config.accumulation_steps)
    config.check_groups(place.world_size)
    for names, split in (
        (config.train_datasets, "train"),
        (config.val_datasets, "val"),
        (config.test_datasets, "test"),
    ):
        require_datasets(config.data_root, names, split)


def set_up(config: TrainConfig) -> Run:
    """Build the run from its starting weights, or from the checkpoint that the same command left."""
    out, place = Path(config.output_dir), dist_info()
    accelerator, dtype = start_accelerator(config)
    with accelerator.main_process_first():
        last, config = find_run(config)
    with accelerator.local_main_process_first():
        pairs = open_pairs(config)
    data = pairs.digest(config.data_root, config.train_images)
    saved = None if last is None else read_state(last / "trainer_state")
    if saved is not None:
        refuse_other_data(saved.data, data, last)
    seed_everything(config.seed)
    method = load_start(config, last, pairs.num_persons)
    if saved is not None:
        saved.load_arrays_into(method, len(pairs))
    if config.gather and place.world_size > 1:
        method.gather = gather_rows
        if accelerator.device.type == "cuda":
            method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)
    advise(config, method)
    optimizer = build_optimizer(
        method,
        config.optimizer,
        config.lr,
        weight_decay=config.weight_decay,
        bias_lr_factor=config.bias_lr_factor,
        new_layer_lr_factor=config.new_layer_lr_factor,
        own_lr=method.lr_rules(),
    )
    model, optimizer = accelerator.prepare(torch.compile(method) if config.compile else method, optimizer)
    state = Progress()
    if saved is not None:
        state = saved.progress
        saved.load_into(optimizer, accelerator.scaler)
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
    metrics = MetricsLog(out / "metrics.jsonl")
    return Run(config, accelerator, pairs, method, model, optimizer, dtype, failed, metrics, state, data)


# ---------------------------------------------------------------------------------------------------------------- an epoch


def train_epoch(run: Run, epoch: int) -> None:
    """Run one optimizer step for each batch of the epoch that is not done yet."""
    config = run.config
    parts = run.config.accumulation_steps
    place = dist_info()
    plan = plan_of(config, run.pairs, epoch)
    todo = range(run.state.batch, len(plan))
    slices = [rank_slice(plan[0], place.rank, place.world_size, part, parts) for part in range(parts)]
    as_jpeg = config.decode_jpeg_on == "gpu"
    if as_jpeg:
        check_gpu_jpeg(run.accelerator.device, run.pairs.image_paths[0])
    loaded = iter(
        image_loader(
            run.pairs,
            [plan[number][rows] for number in todo for rows in slices],
            config.image_size_px,
            num_workers(config),
            pin_memory=run.accelerator.device.type == "cuda",
            as_jpeg=as_jpeg,
        )
    )
    meter = Meter(config)
    run.model.train()
    for number in progress(todo, what=f"epoch {epoch + 1}/{config.epochs}", unit="step"):
        factor = lr_of(config, epoch + number / len(plan) if config.lr_per == "step" else epoch)
        set_lr_factor(run.optimizer, factor)
        values: dict[str, Tensor] = {}
        for part, rows in enumerate(slices):
            waited = time.perf_counter()
            pixels, index, failures = next(loaded)
            meter.waited_s += time.perf_counter() - waited
            run.failed.add(failures)
            batch = make_batch(run, pixels, index, plan[number], rows, part, epoch, number)
            with run.accelerator.no_sync(run.model) if part < parts - 1 else nullcontext():
                results = run.model(batch)
                loss = sum(value for name, value in results.items() if name.endswith("_loss"))
                run.accelerator.backward(loss / parts)
            for name, value in results.items():
                values[name] = values.get(name, 0) + value.detach().float() / parts
        if config.clip_grad_norm is not None:
            run.accelerator.clip_grad_norm_(run.model.parameters(), config.clip_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.state = replace(run.state, batch=number + 1, step=run.state.step + 1)
        meter.add(run.state.step, values)
        is_last = number + 1 == len(plan)
        if run.state.step % config.log_every == 0 or is_last:
            report(run, meter, epoch, factor)
            meter = Meter(config)
        if config.save_every_steps and run.state.step % config.save_every_steps == 0 and not is_last:
            meter.check()
            save_last(run)


def lr_of(config: TrainConfig, epoch: float) -> float:
    """Return the factor on the learning rates at an epoch, or a fraction of one."""
    return lr_factor(
        epoch,
        config.epochs,
        config.warmup_epochs,
        config.warmup_factor,
        config.lr_mode,
        milestones=config.milestones,
    )


# -------------------------------------------------------------------------------------------------------------- evaluation


def is_evaluated(config: TrainConfig, epoch: int) -> bool:
    """Return whether the epoch (from 0) ends with an evaluation."""
    every = config.eval_every
    return epoch + 1 == config.epochs or (every > 0 and (epoch + 1) % every == 0)


def evaluate_run(run: Run) -> list[Row]:
    """Evaluate the val and test sets, write the figures, and save the best checkpoint of each; return all rows."""
    config = run.config
    all_rows: list[Row] = []
    settings = EncodeSettings(
        config.image_size_px,
        config.text_length,
        workers=num_workers(config),
        dtype=run.dtype,
        max_failed_share=config.max_failed_share,
    )
    for split, names, keep in (
        ("val", config.val_datasets, VAL_BEST),
        ("test", config.test_datasets, TEST_BEST),
    ):
        if not names:
            continue
        rows, _ = evaluate(
            run.method, config.data_root, names, split, settings=settings, device=run.accelerator.device
        )
        all_rows += rows
        mean = sum(row["R1"] for row in rows) / len(rows)
        if dist_info().is_main:
            log.info("evaluation, %s\n%s", split, format_table(rows))
            for row in rows:
                run.metrics.write(event="eval", step=run.state.step, epoch=run.state.epoch, **row)
        run.accelerator.log(
            {f"{split}/{row['dataset']}/{name}": row[name] for row in rows for name in ("R1", "mAP")},
            step=run.state.step,
        )
        if mean > run.state.best.get(keep, -math.inf):
            run.state.best[keep] = mean
            save_best(run, keep, rows)
    return all_rows
