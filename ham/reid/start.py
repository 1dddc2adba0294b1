"""Start a training run: the accelerator with its trackers, the weights, and checks that need them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from ham.reid.checkpoints import non_finite, plain
from ham.reid.config import TrainConfig
from ham.reid.protocol import RetrievalMethod
from ham.reid.weights import start_method
from ham.runtime import UsageError, log, resolve_device, resolve_dtype

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
LARGE_WIDTH = 1024  # of ViT-L's vision tower
LARGE_LR = 5e-6


def start_accelerator(config: TrainConfig) -> tuple[Accelerator, torch.dtype]:
    """Start the process group and the trackers; return the accelerator and the dtype of autocast.

    Raises UsageError for a precision or a tracker that is not available here.
    """
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.precision, device)
    if dtype == torch.float16 and device.type != "cuda":
        raise UsageError("--precision fp16 needs a GPU: half-precision gradients are scaled on CUDA alone")
    compiler = (os.environ.get("CXX") or "g++").split()[0]  # "ccache g++" is two words
    if config.compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"--compile needs a C++ compiler ({compiler}) on a CPU; install one, or leave --compile out"
        )
    trackers = [build_tracker(name, config) for name in config.trackers]
    AcceleratorState._reset_state(reset_partial_state=False)  # allows several runs in one process
    accelerator = Accelerator(
        mixed_precision=MIXED[dtype], cpu=device.type == "cpu", log_with=trackers or None
    )
    if trackers:
        start_trackers(accelerator)
    return accelerator, dtype


def build_tracker(name: str, config: TrainConfig) -> GeneralTracker:
    """Build accelerate's tracker, not yet started. Raises UsageError when its package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"--trackers {name} needs the package {name}: pip install 'ham[train]'")
    out = Path(config.output_dir)
    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", logging_dir=str(out))
    return WandBTracker("ham-reid", name=out.name, dir=str(out), config=plain(config))


def start_trackers(accelerator: Accelerator) -> None:
    """Start the trackers. Raises UsageError when a service refuses, for example without a login."""
    try:
        accelerator.init_trackers("ham-reid")
    except Exception as error:  # each service raises types of its own
        first_line = str(error).strip().split("\n")[0]
        raise UsageError(
            f"the trackers could not be started: {first_line}; log in, set WANDB_MODE=offline, or leave --trackers out"
        ) from None


def finish_trackers(accelerator: Accelerator) -> None:
    """Flush and close the trackers; unlike `end_training` this keeps the process group."""
    for tracker in accelerator.trackers:
        tracker.finish()


def load_start(config: TrainConfig, last: Path | None, num_persons: int) -> RetrievalMethod:
    """Load the method from a run's checkpoint, or from the weights to start from. Raises UsageError for NaN weights."""
    source = config.weights if last is None else last
    method = start_method(
        config.method,
        source,
        num_persons,
        config.image_size_px,
        config.stride_px,
        config.text_length,
        config.heads if last is None else None,
        config.ignore_tensors if last is None else (),
        resume=last is not None,
        **config.method_options,
    )
    method.base_model.set_gradient_checkpointing(config.gradient_checkpointing)
    broken = non_finite(method)
    if broken:
        raise UsageError(
            f"{source}: {broken} holds values that are not finite (NaN or infinity); use other weights"
        )
    return method


def advise(config: TrainConfig, method: RetrievalMethod) -> None:
    """Log a warning where the options are known to fail for the model's size."""
    width = method.base_model.config.vision_width
    if width >= LARGE_WIDTH and config.lr > LARGE_LR:
        log.warning(
            "the vision tower is %d wide (ViT-L) and --lr is %g, a rate for ViT-B/16: larger towers diverge at it; use at "
            "most %g, with --clip_grad_norm 1",
            width,
            config.lr,
            LARGE_LR,
        )
