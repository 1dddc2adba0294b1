"""The training loop: pretraining on captions and finetuning on benchmarks, on any number of processes, resumable at any step.

`train(config)` is the whole story. Every random choice is a function of (seed, epoch, batch) over the global batch, so the same
pairs meet with the same augmentation whatever the number of processes, and a killed run goes on where it was saved.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ham.distributed import no_gather, sum_over_ranks
from ham.records import write_json
from ham.reid.batch import augment_images, draw_images, normalize
from ham.reid.checkpoints import LAST, TEST_BEST, VAL_BEST, save_folder, write_config, write_state
from ham.reid.config import TrainConfig
from ham.reid.data import image_loader
from ham.reid.encode import EncodeSettings, evaluation_mode
from ham.reid.evaluate import Row, evaluate, format_table
from ham.reid.mlm import augment_batch, mask_batch
from ham.reid.optim import set_lr_factor
from ham.reid.rde_division import divide, mixture_settings
from ham.reid.run import Run, plan_of, set_up
from ham.reid.sampler import rank_slice
from ham.reid.schedule import lr_factor
from ham.reid.train_log import Meter, report
from ham.reid.weights import save_method
from ham.runtime import dist_info, log, numpy_generator, progress


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; give the rows of the last evaluation and the best mean R1 by checkpoint name.

    Resumes a run that the same config started in the same output_dir. Raises UsageError for what the user can mend, WorkError
    for a non-finite loss, too many broken images or a checkpoint that cannot be saved.
    """
    run = set_up(config)
    rows: list[Row] = []
    for epoch in range(run.state.epoch, config.epochs):
        if run.method.kind == "rde" and config.ccd and run.state.batch == 0:
            run.clean = divide_pairs(run, epoch)
        train_epoch(run, epoch)
        run.state = replace(run.state, epoch=epoch + 1, batch=0)
        is_last = epoch + 1 == config.epochs
        if is_last or (config.eval_every and (epoch + 1) % config.eval_every == 0):
            rows = evaluate_run(run)
        save_last(run)
    if run.failed.seen:
        log.warning(
            "%d images could not be read; they are listed in %s", len(run.failed.seen), run.failed.path
        )
    return {"rows": rows, "best": run.state.best, "output_dir": str(config.output_dir)}


def train_epoch(run: Run, epoch: int) -> None:
    """Make one optimizer step for each batch of the epoch that is still to do."""
    config, parts, place = run.config, run.config.accumulation_steps, dist_info()
    plan = plan_of(config, run.pairs, epoch)
    todo = range(run.state.batch, len(plan))
    shares = [rank_slice(plan[0], place.rank, place.world_size, part, parts) for part in range(parts)]
    loaded = iter(
        image_loader(
            run.pairs,
            [plan[number][share] for number in todo for share in shares],
            config.image_size_px,
            num_workers(config),
            pin_memory=run.accelerator.device.type == "cuda",
        )
    )
    meter = Meter()
    run.model.train()
    for number in progress(todo, what=f"epoch {epoch + 1}/{config.epochs}", unit="step"):
        factor = lr_of(config, epoch + number / len(plan) if config.lr_per == "step" else epoch)
        set_lr_factor(run.optimizer, factor)
        values: dict[str, Tensor] = {}
        for part, share in enumerate(shares):
            waited = time.perf_counter()
            pixels, index, failures = next(loaded)
            meter.waited_s += time.perf_counter() - waited
            run.failed.add(failures)
            batch, mlm_factor = make_batch(run, pixels, index, plan[number], share, part, epoch, number)
            with run.accelerator.no_sync(run.model) if part < parts - 1 else nullcontext():
                results = run.model(batch)
                results |= {
                    name: value * mlm_factor for name, value in results.items() if name.startswith("mlm_")
                }
                loss = sum(value for name, value in results.items() if name.endswith("_loss"))
                run.accelerator.backward(loss / parts)
            values = {
                name: values.get(name, 0) + value.detach().float() / parts for name, value in results.items()
            }
        if config.clip_grad_norm is not None:
            run.accelerator.clip_grad_norm_(run.model.parameters(), config.clip_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.state = replace(run.state, batch=number + 1, step=run.state.step + 1)
        meter.add(run.state.step, values)
        if run.state.step % config.log_every == 0 or number + 1 == len(plan):
            report(run, meter, epoch, factor)
            meter = Meter()
        if (
            config.save_every_steps
            and run.state.step % config.save_every_steps == 0
            and number + 1 < len(plan)
        ):
            meter.check()
            save_last(run)


def make_batch(
    run: Run,
    pixels: Tensor,
    index: Tensor,
    planned: np.ndarray,
    share: slice,
    part: int,
    epoch: int,
    number: int,
) -> tuple[dict[str, Tensor], float]:
    """Augment this process's share of a batch and put it on the device; also the factor on MLM's figures (1 alone).

    planned: the pairs of the whole global batch: all draws are made for it and cut, so that they do not depend on the number of
    processes. MLM's loss is a mean over masked words, of which the processes have unequal numbers: the factor makes the mean
    over the processes the mean over all words.
    """
    config, device = run.config, run.accelerator.device
    rows = run.pairs.rows(index.numpy())
    ids = run.pairs.rows(planned)["caption_ids"]  # [global B, T]
    ids[share] = rows["caption_ids"]
    scramble = run.method.kind == "rde" if config.scramble_words is None else config.scramble_words
    if scramble:
        ids = augment_batch(ids, numpy_generator(config.seed, "scrambled words", epoch, number))
        rows["caption_ids"] = ids[share]
    mlm_factor = 1.0
    if "mlm" in getattr(run.method, "losses", ()):
        masked, labels = mask_batch(ids, numpy_generator(config.seed, "masked words", epoch, number))
        rows |= {"mlm_ids": masked[share], "mlm_labels": labels[share]}
        if config.mask_all_losses:
            rows["caption_ids"] = masked[share]
        if config.gather and (world := dist_info().world_size) > 1:
            size = len(planned) // config.accumulation_steps
            in_part = np.count_nonzero(labels[part * size : (part + 1) * size])
            mlm_factor = np.count_nonzero(labels[share]) * world / max(1, in_part)
    batch = {name: torch.from_numpy(np.ascontiguousarray(values)).to(device) for name, values in rows.items()}
    if run.clean is not None:
        batch["label_hat"] = torch.from_numpy(run.clean[rows["index"]]).to(device)
    pixels = pixels.to(device, non_blocking=True)
    if config.augment_images:
        generator = numpy_generator(config.seed, "images", epoch, number)
        draws = draw_images(len(planned), config.image_size_px, generator, config.pad_px)
        batch["images"] = augment_images(pixels, draws[share], config.pad_px)
    else:
        batch["images"] = normalize(pixels.permute(0, 3, 1, 2))
    return batch, mlm_factor


def divide_pairs(run: Run, epoch: int) -> np.ndarray:
    """Run RDE's CCD: the loss of every training pair in eval mode, then clean labels, float32 [N pairs].

    Pairs meet in shuffled batches of one process each, whole, whatever the number of processes.
    deviation: images and captions are not augmented here; the reference takes its training loader as it is.
    """
    config, place, total = run.config, dist_info(), len(run.pairs)
    size = min(config.batch_size // config.accumulation_steps, total)
    order = numpy_generator(config.seed, "ccd order", epoch).permutation(total)
    batches = np.resize(order, (-(-total // size), size))  # the last one is filled from the start
    mine = range(place.rank, len(batches), place.world_size)
    losses = torch.zeros(2, total, dtype=torch.float64)
    loader = image_loader(
        run.pairs, [batches[number] for number in mine], config.image_size_px, num_workers(config)
    )
    gather, run.method.gather = run.method.gather, no_gather
    with evaluation_mode(run.method), run.accelerator.autocast():
        for number, (pixels, index, failures) in zip(mine, progress(loader, what="CCD", unit="batch")):
            run.failed.add(failures)
            batch = {
                name: torch.from_numpy(values).to(run.accelerator.device)
                for name, values in run.pairs.rows(index.numpy()).items()
            }
            batch["images"] = normalize(pixels.to(run.accelerator.device).permute(0, 3, 1, 2))
            kept = min(size, total - number * size)
            losses[:, batches[number][:kept]] = (
                torch.stack(run.method.per_pair(batch))[:, :kept].double().cpu()
            )
    run.method.gather = gather
    losses = sum_over_ranks(losses.to(run.accelerator.device)).cpu()
    dataset = "RSTPReid" if "RSTPReid" in config.train_datasets else ""
    division = divide(*losses.numpy(), mixture_settings(dataset, config.noise_rate), config.seed, epoch)
    log.info(
        "CCD: %d of %d pairs are clean; BGE and TSE disagree on %d",
        division.clean.sum(),
        total,
        division.disagree,
    )
    return division.clean


def evaluate_run(run: Run) -> list[Row]:
    """Measure the val and test sets, write the figures, keep the best checkpoint of each; give all rows."""
    config, all_rows = run.config, []
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
        if mean > run.state.best.get(keep, -math.inf):
            run.state.best[keep] = mean
            save_best(run, keep, rows)
    return all_rows


# ----------------------------------------------------------------------------------------------------------------- saving


def save_last(run: Run) -> None:
    """Save model and trainer state for an exact resume; all processes wait."""

    def write(folder: Path) -> None:
        save_method(run.method, folder)
        write_config(folder / "config.yaml", run.config)
        scaler = run.accelerator.scaler
        write_state(
            folder / "trainer_state",
            run.state,
            run.optimizer.state_dict(),
            scaler and scaler.state_dict(),
            run.clean,
        )

    if run.accelerator.is_main_process:
        save_folder(Path(run.config.output_dir) / LAST, write)
    run.accelerator.wait_for_everyone()


def save_best(run: Run, name: str, rows: list[Row]) -> None:
    def write(folder: Path) -> None:
        save_method(run.method, folder)
        write_config(folder / "config.yaml", run.config)
        note = (
            "chosen on the val split"
            if name == VAL_BEST
            else "chosen on the TEST split: an upper bound, not a result; report `last` or `val-best`"
        )
        write_json(
            folder / "results.json",
            {"note": note, "epoch": run.state.epoch, "step": run.state.step, "rows": rows},
        )

    if run.accelerator.is_main_process:
        save_folder(Path(run.config.output_dir) / name, write)


def lr_of(config: TrainConfig, epoch: float) -> float:
    return lr_factor(
        epoch,
        config.epochs,
        config.warmup_epochs,
        config.warmup_factor,
        config.lr_mode,
        milestones=config.milestones,
    )


def num_workers(config: TrainConfig) -> int:
    return min(
        config.num_workers,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
