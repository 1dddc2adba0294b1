"""Encode image files and captions with any retrieval model, in batches, divided among all ranks.

A model returns a list of feature tensors for each side (one for CLIP and IRRA, two for RDE: global and token selection). Its
score is the mean of their cosines, which is the dot product of the joined unit vectors; so one tensor per side is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ham.clip import tokenize
from ham.distributed import on_all_ranks
from ham.reid.batch import normalize
from ham.reid.images import SIZE_PX, ImageError, read_image
from ham.reid.protocol import RetrievalModel, joined
from ham.runtime import WorkError, log, progress

TEXT_LENGTH = 77  # tokens per caption, start and end included


@dataclass(frozen=True)
class EncodeSettings:
    """How to encode images and captions.

    Attributes:
        image_size_px: height and width of the input; None: the model's own, or 384x128 where it does not say
        text_length: tokens per caption; None: as many as the model reads
        batch_size: images or captions at a time
        workers: processes that decode images
        dtype: float32, or bfloat16 / float16 by autocast
        max_failed_share: a larger share of unreadable images stops the run
    """

    image_size_px: tuple[int, int] | None = None
    text_length: int | None = None
    batch_size: int = 128
    workers: int = 0
    dtype: torch.dtype = torch.float32
    max_failed_share: float = 0.01

    def for_model(self, model: RetrievalModel) -> EncodeSettings:
        """Return these settings with the model's own image size and text length where none is set."""
        config = getattr(getattr(model, "base_model", model), "config", None)
        size = self.image_size_px or getattr(config, "image_size_px", None) or SIZE_PX
        length = self.text_length or getattr(config, "context_length", TEXT_LENGTH)
        return replace(self, image_size_px=tuple(size), text_length=length)


DEFAULTS = EncodeSettings()


@dataclass
class EncodedImages:
    """Features [N, D] of the readable images on the CPU, their positions in the list, and the failures with reasons."""

    feats: Tensor
    places: list[int]
    failed: list[dict[str, str]] = field(default_factory=list)


def encode_images(
    model: RetrievalModel,
    paths: Sequence[str | Path],
    settings: EncodeSettings = DEFAULTS,
    what: str = "images",
) -> EncodedImages:
    """Encode image files. An unreadable one is left out and reported; too large a share of them raises WorkError.

    With torch.distributed running, every rank encodes a slice and all get everything.
    """
    settings = settings.for_model(model)

    def encode(mine: range) -> EncodedImages:
        loader = DataLoader(
            _ImageFiles([paths[place] for place in mine], settings.image_size_px),
            settings.batch_size,
            num_workers=settings.workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
        )
        part = EncodedImages(torch.empty(0), [])
        feats = []
        for places, pixels, failed in progress(loader, what=f"encoding {what}", unit="batch"):
            part.failed += failed
            part.places += [mine[place] for place in places]
            if places:
                images = normalize(pixels.to(device, non_blocking=True))
                with _precision(device, settings.dtype):
                    feats.append(_joined_rows(model.image_features(images)))
        part.feats = torch.cat(feats) if feats else part.feats
        return part

    device = _device_of(model)
    with evaluation_mode(model):
        parts = on_all_ranks(encode, len(paths))
    whole = EncodedImages(
        torch.cat([part.feats for part in parts if part.places] or [torch.empty(0, 0)]),
        [place for part in parts for place in part.places],
        [row for part in parts for row in part.failed],
    )
    _check_failures(whole.failed, len(paths), settings.max_failed_share, what)
    return whole


def encode_texts(
    model: RetrievalModel,
    captions: Sequence[str],
    settings: EncodeSettings = DEFAULTS,
    what: str = "captions",
) -> Tensor:
    """Encode captions of any length and alphabet, none included: float32 [N, D] on the CPU, joined unit features."""
    settings = settings.for_model(model)

    def encode(mine: range) -> Tensor:
        starts = range(mine.start, mine.stop, settings.batch_size)
        feats = []
        for start in progress(starts, what=f"encoding {what}", unit="batch"):
            batch = list(captions[start : min(start + settings.batch_size, mine.stop)])
            ids = tokenize(batch, settings.text_length).to(device)
            with _precision(device, settings.dtype):
                feats.append(_joined_rows(model.text_features(ids)))
        return torch.cat(feats) if feats else torch.empty(0)

    device = _device_of(model)
    with evaluation_mode(model):
        parts = on_all_ranks(encode, len(captions))
    return torch.cat([part for part in parts if part.numel()] or [torch.empty(0, 0)])


@contextmanager
def evaluation_mode(model: RetrievalModel) -> Iterator[None]:
    """Run without gradients and in eval mode, and restore every module's mode afterwards (RDE's first release forgot to)."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


# ------------------------------------------------------------------------------------------------------------------- parts


def _joined_rows(features: Sequence[Tensor]) -> Tensor:
    return joined([branch.float() for branch in features]).cpu()


class _ImageFiles(Dataset):
    def __init__(self, paths: Sequence[str | Path], size_px: tuple[int, int]) -> None:
        self.paths, self.size_px = paths, size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[int, Tensor | None, dict[str, str] | None]:
        try:
            return place, torch.from_numpy(read_image(self.paths[place], self.size_px)), None
        except ImageError as error:
            return place, None, {"image": error.path, "reason": error.reason}


def _collate(
    samples: list[tuple[int, Tensor | None, dict[str, str] | None]],
) -> tuple[list[int], Tensor, list[dict[str, str]]]:
    """Join a batch: the places that could be read, their pixels uint8 [b, 3, H, W], and the failures."""
    good = [(place, pixels) for place, pixels, _ in samples if pixels is not None]
    stacked = torch.stack([pixels for _, pixels in good]).permute(0, 3, 1, 2) if good else torch.empty(0)
    return [place for place, _ in good], stacked, [failed for _, _, failed in samples if failed is not None]


def _check_failures(failed: list[dict[str, str]], count: int, max_share: float, what: str) -> None:
    if not failed:
        return
    first = f"the first: {failed[0]['image']}: {failed[0]['reason']}"
    first = first.encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8 cannot be printed
    if len(failed) > max_share * count:
        raise WorkError(
            f"{len(failed)} of {count} {what} cannot be read, more than the accepted {max_share:.1%}; "
            f"{first}; --max-failed-share accepts more"
        )
    log.warning("%d of %d %s cannot be read and are left out; %s", len(failed), count, what, first)


def _device_of(model: RetrievalModel) -> torch.device:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next(parameters, torch.empty(0)).device


def _precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(
        device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32
    )
