"""JPEG decoding on a GPU, through torchvision (nvJPEG): workers then only copy the bytes of packed images.

torchvision 0.29 announces that these functions will move to torchcodec; where they are gone, the check says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from ham.datasets.image_pack import find_pack
from ham.runtime import UsageError


def check_gpu_jpeg(device: torch.device, first_image: str | Path) -> None:
    """Check that images can be decoded on a device, and that the first is in a pack. Raises UsageError."""
    if device.type != "cuda":
        raise UsageError(f"--decode_jpeg_on gpu needs a GPU; the run is on {device}; use cpu")
    if find_pack(first_image) is None:
        raise UsageError(
            f"--decode_jpeg_on gpu needs packed images, but {first_image} is in no pack; pack them first: "
            "python -m ham.datasets pack"
        )
    try:
        decode_jpegs([torchvision.io.encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))], device)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--decode_jpeg_on gpu: torchvision {torchvision.__version__} cannot decode JPEGs on {device} "
            f"({str(error).splitlines()[0]}); use cpu"
        ) from None


def decode_jpegs(jpegs: Sequence[Tensor], device: torch.device) -> Tensor:
    """Decode JPEGs of one size, each uint8 [n] on the host. Returns uint8 [B, H, W, 3] on the device."""
    mode = torchvision.io.ImageReadMode.RGB
    images = torchvision.io.decode_jpeg(list(jpegs), mode=mode, device=device)
    return torch.stack(images).permute(0, 2, 3, 1)
