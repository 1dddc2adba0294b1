"""What differs between versions of transformers in its Trainer and the Trainer's options."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import transformers

from ham.llava.transformers_compat import IS_LEGACY, too_old
from ham.runtime import UsageError

PACKAGES_OF_TRACKERS = {"comet_ml": "comet-ml", "dvclive": "dvclive", "azure_ml": "azureml-core"}


def training_arguments() -> type:
    """Return Trainer's options, a dataclass to extend, under the names of transformers 5 as far as style tuning uses them."""
    return LegacyTrainingArguments if IS_LEGACY else transformers.TrainingArguments


def trainer() -> type:
    """Return the Trainer to extend."""
    return LegacyTrainer if IS_LEGACY else transformers.Trainer


def check_trackers(report_to: Any) -> None:
    """Raise UsageError for an experiment tracker that is not known or not installed."""
    from transformers.integrations import get_available_reporting_integrations

    try:
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    except ImportError:  # 4.31, where integrations are one file
        from transformers.integrations import INTEGRATION_TO_CALLBACK

    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(
                f"--report_to {name}: not known; use none, {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        if name not in get_available_reporting_integrations():
            raise UsageError(
                f"--report_to {name}: the package is not installed; pip install {PACKAGES_OF_TRACKERS.get(name, name)}, "
                "or use --report_to none"
            )


def set_warmup_ratio(args: transformers.TrainingArguments, ratio: float) -> None:
    """Request a warm-up of a share of all steps. Newer Trainers have no option for it: `warmup_steps` takes a fraction."""
    if ratio and "warmup_ratio" not in {option.name for option in fields(transformers.TrainingArguments)}:
        args.warmup_steps = ratio


if IS_LEGACY:

    @dataclass
    class LegacyTrainingArguments(transformers.TrainingArguments):
        """The options of 4.31 with what later versions renamed; raises UsageError for what they cannot do."""

        use_cpu: bool = field(default=False, metadata={"help": "train on the CPU even where there is a GPU"})
        optim: str = field(
            default="adamw_torch_fused", metadata={"help": "the optimizer, by transformers' name"}
        )

        def __post_init__(self) -> None:
            if self.deepspeed:
                raise too_old(
                    "is supported without DeepSpeed: leave --deepspeed out (finetune_task.sh: DEEPSPEED=none)"
                )
            self.no_cuda = self.no_cuda or self.use_cpu
            if (
                self.report_to is None
            ):  # transformers 5's default; 4.31 would take every tracker that is installed
                self.report_to = "none"
            super().__post_init__()

    class LegacyTrainer(transformers.Trainer):
        """The Trainer of 4.31 where torch has changed since."""

        def _load_rng_state(self, checkpoint: str | None) -> None:
            """Leave the random state: torch no longer reads the file, and nothing in style tuning draws from it."""
