"""Measure image packs: size per image, and images a core reads per second, against reading the files.

    python scripts/bench/pack.py

The images have the spectrum of photographs (amplitude 1/f, correlated colors) at the size of pedestrian crops, packed at
384x128.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham.datasets.image_pack import ImagePack, simplejpeg
from ham.datasets.pack import PackJob, pack_images
from ham.reid.images import SIZE_PX, read_image
from ham.runtime import numpy_generator

CROPS_PX = {"64x128 (Market-1501)": (64, 128), "100x250": (100, 250), "128x384": (128, 384)}  # width, height
COLOR_SHARE = 0.25  # of the contrast that differs between the color channels


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400, help="of each crop size")
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args(words)
    figures = {name: measure(size, options.images, options.quality) for name, size in CROPS_PX.items()}
    for name, row in figures.items():
        print(name, ", ".join(f"{key} {value}" for key, value in row.items()), sep=": ")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(size: tuple[int, int], count: int, quality: int) -> dict[str, Any]:
    """Pack images of one crop size and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        photos, out = Path(folder, "photos"), Path(folder, "pack")
        photos.mkdir()
        for number in range(count):
            photograph(size, number).save(photos / f"{number:06d}.jpg", quality=90)
        images = tuple(sorted(path.name for path in photos.iterdir()))
        pack_images(PackJob(images, photos, out, SIZE_PX, quality))
        pack = ImagePack(out)
        order = numpy_generator(0, "bench pack").permutation(count).tolist()
        packed = rate(lambda: [read_image(out / images[row]) for row in order], count)
        plain = rate(lambda: [read_image(photos / images[row]) for row in order], count)
        errors = [
            np.abs(pack.read(image).astype(int) - read_image(photos / image).astype(int)).mean()
            for image in images[:50]
        ]
        size_bytes = sum(file.stat().st_size for file in out.iterdir())
    return {
        "decoder": "simplejpeg" if simplejpeg is not None else "Pillow",
        "GB per million": round(size_bytes / count / 1000, 1),
        "images/s a core, packed": round(packed),
        "images/s a core, files": round(plain),
        "mean difference in gray levels": round(float(np.mean(errors)), 2),
    }


def photograph(size: tuple[int, int], number: int) -> Image.Image:
    """Return random pixels with the spectrum of photographs."""
    width, height = size
    draw = numpy_generator(0, "bench pack", number)
    spectrum = np.fft.rfft2(draw.standard_normal((4, height, width)))
    across = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    planes = np.fft.irfft2(spectrum / np.maximum(across, 1 / max(size)), (height, width))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    channels = (1 - COLOR_SHARE) * planes[:1] + COLOR_SHARE * planes[1:]
    return Image.fromarray(np.clip(channels * 55 + 120, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def rate(work: Any, count: int, times: int = 5) -> float:
    """Return items per CPU second, the best of several runs."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return count / best


if __name__ == "__main__":
    sys.exit(main())
