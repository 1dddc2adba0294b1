"""Hugging Face's Trainer for a network of which few parameters train: only they are saved, gathered and restored.

A training checkpoint `checkpoint-N/` is an adapter (see `ham.captioner.checkpoint`) with Trainer's own optimizer, scheduler,
random state and step beside it. Under DeepSpeed the engine's state is kept without the frozen weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer import SCHEDULER_NAME

from ham.captioner.epoch_sampler import EpochSampler
from ham.captioner.resume import UNFINISHED, newest_whole, put_in_place
from ham.captioner.trainer_compat import trainer
from ham.runtime import MetricsLog, WorkError, dist_info


class EpochSetter(TrainerCallback):
    """Set the sampler's epoch: when a run resumes inside an epoch, accelerate's wrappers do not pass it on."""

    def __init__(self, trainer: CaptionerTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))


class CaptionerTrainer(trainer()):
    """Trainer over a captioner's model. save_adapter(folder, tensors) writes one, load_adapter(folder) reads one.

    Raises WorkError at the first non-finite loss, naming the step.
    """

    def __init__(
        self,
        *words: Any,
        save_adapter: Callable[[Path, dict[str, torch.Tensor]], None],
        load_adapter: Callable[[Path], dict[str, torch.Tensor]],
        **options: Any,
    ) -> None:
        super().__init__(*words, **options)
        self.save_adapter = save_adapter
        self.load_adapter = load_adapter
        self.sampler: EpochSampler
        self.unfinished: Path | None = None  # where a checkpoint is being written
        self.add_callback(EpochSetter(self))
        self.model.register_load_state_dict_post_hook(frozen_may_be_missing)
        self.model_accepts_loss_kwargs = (
            False  # the reference's loss: the mean over each process's own targets
        )
        self.prompts_at_start = {
            name: parameter.detach().float().cpu().clone() for name, parameter in self.prompt_parameters()
        }
        self.metrics_log = (
            MetricsLog(Path(self.args.output_dir) / "metrics.jsonl") if dist_info().is_main else None
        )

    def prompt_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (name, parameter)
            for name, parameter in self.trained_parameters().items()
            if name.startswith("style_bank.")
        ]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }

    # ------------------------------------------------------------------------------------------------------------- order

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = dataset.lengths.tolist() if self.args.group_by_modality_length else None
        global_batch = (
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        groups = dataset.image_ids if self.args.share_prefix and hasattr(dataset, "image_ids") else None
        self.sampler = EpochSampler(len(dataset), seed, global_batch, lengths, groups)
        return self.sampler

    # --------------------------------------------------------------------------------------------------------- optimizer

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Build Trainer's optimizer with one group per learning rate: style prompts, projector, the rest (LoRA)."""
        if self.optimizer is None:
            args = self.args
            rates = {"style_bank": args.style_prompt_lr, "projector": args.mm_projector_lr}
            groups: dict[str, list[nn.Parameter]] = {}
            for name, parameter in self.trained_parameters().items():
                part = name.split(".")[0]
                groups.setdefault(part, []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(args)
            rate = options.pop("lr")
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "lr": rate if rates.get(part) is None else rates[part],
                        "weight_decay": args.weight_decay,
                    }
                    for part, parameters in groups.items()
                ],
                lr=rate,
                **options,
            )
        return self.optimizer

    # ---------------------------------------------------------------------------------------------------------- accounts

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, *rest)
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise WorkError(f"the loss is {loss.item()} at step {step}; {self.advice()}")
        return loss

    def advice(self) -> str:
        """Return what to do after a loss or weight that is not finite.

        A run's learning rate is part of its checkpoints, so a lower one needs a new run.
        """
        if self.state.global_step == 0:
            return (
                "no step was made yet, so the learning rate is not the cause: check the base model, and use bf16 or float32 "
                "in place of fp16"
            )
        whole = newest_whole(Path(self.args.output_dir), self.args.world_size)
        if whole is None:
            return (
                "no checkpoint was written yet: start again with a lower --learning_rate and --resume never"
            )
        return (
            f"the weights of {whole} are finite; resuming would keep the learning rate, so start a new run from them with a "
            f"lower one: --model_name_or_path {whole} --output_dir NEW --learning_rate LOWER"
        )

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Log, and add how far the style prompts moved from their start (root mean square over that of the start)."""
        if "loss" in logs:
            logs["style_moved"] = self.style_moved()
        super().log(logs, *rest)
        if self.metrics_log is not None:
            self.metrics_log.write(step=self.state.global_step, **logs)

    def style_moved(self) -> float:
        moved, scale = 0.0, 0.0
        with gathered([parameter for _, parameter in self.prompt_parameters()]):
            for name, parameter in self.prompt_parameters():
                start = self.prompts_at_start[name]
                if parameter.shape == start.shape:
                    moved += (parameter.detach().float().cpu() - start).square().sum().item()
                    scale += start.square().sum().item()
        return (moved / scale) ** 0.5 if scale else 0.0

    # ------------------------------------------------------------------------------------------------------- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter: the trained parameters, whole, whatever the sharding. Every rank must call this.

        Raises WorkError when they are not finite, so that no checkpoint is useless.
        """
        parameters = self.trained_parameters()
        with gathered(list(parameters.values())):
            tensors = {
                name: parameter.detach().float().cpu().clone() for name, parameter in parameters.items()
            }
        broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise WorkError(
                f"'{broken[0]}' is not finite after step {self.state.global_step}, so it is not saved; {self.advice()}"
            )
        if self.args.should_save:
            self.save_adapter(Path(output_dir or self.args.output_dir), tensors)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.unfinished or super()._get_output_dir(trial))

    def _save_checkpoint(self, *words: Any, **options: Any) -> None:
        """Write a checkpoint beside its place, then rename it: a kill or a full disk leaves no half-written one."""
        output_dir = Path(self.args.output_dir)
        self.unfinished = output_dir / UNFINISHED
        if self.args.should_save:
            shutil.rmtree(self.unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(*words, **options)
        finally:
            unfinished, self.unfinished = self.unfinished, None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            put_in_place(unfinished / name, output_dir / name, self.args.save_total_limit)
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_deepspeed_enabled:
            return  # the engine restores its own shards
        tensors = self.load_adapter(Path(resume_from_checkpoint))
        with torch.no_grad():
            for name, parameter in self.trained_parameters().items():
                parameter.copy_(tensors[name])


def frozen_may_be_missing(model: nn.Module, keys: Any) -> None:
    """Accept a state of DeepSpeed without the frozen weights: they come from the base model."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]


@contextmanager
def gathered(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gather ZeRO-3's shards inside the block; does nothing where parameters are whole already."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters):
            yield
    else:
        yield
