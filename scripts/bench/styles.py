"""How fast stage 1 is at the paper's size: neutral texts per second, then KMeans 1000 + UPS 1000 on 68,126 x 512 features.

    python -m scripts.bench.styles [--captions 68126 --dim 512 --styles 1000]

The target is 5,000 captions per second, and both clusterings in 3 minutes and 2 GB on 2 cores. Prints one JSON line per figure.
"""

from __future__ import annotations

import json
import os
import resource
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from jsonargparse import ArgumentParser

from ham.runtime import exit_code_of, numpy_generator, set_up_logging
from ham.style.cluster import kmeans_clusters, ups_clusters
from ham.style.features import chars_features
from ham.style.neutral import neutral_text
from ham.world.annotators import annotator_population
from ham.world.wardrobe import sample_person, sample_wardrobe


def captions_of_the_world(count: int, seed: int = 0) -> list[str]:
    """Write captions by many annotators about random persons."""
    generator = numpy_generator(seed, "bench styles")
    people, wardrobe = annotator_population(seed, "CUHK-PEDES", 200), sample_wardrobe(generator, "mixed", 1.0)
    return [
        people[index % len(people)].describe(sample_person(generator, wardrobe), generator).text
        for index in range(count)
    ]


def style_like_features(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Make unit rows around 3000 centres, as many as the released model has styles."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((3000, dim), np.float32)
    features = centres[generator.integers(3000, size=rows)] + 0.7 * generator.standard_normal(
        (rows, dim), np.float32
    )
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def report(what: str, start: tuple[float, float], **facts) -> None:
    """Print seconds by the wall and of CPU, and the process's largest memory so far."""
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    row = {
        "what": what,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gib": round(peak_gib, 2),
    }
    print(json.dumps(row | facts), flush=True)


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    parser = ArgumentParser(prog="bench/styles.py", description=__doc__)
    parser.add_argument("--captions", type=int, default=68_126)
    parser.add_argument(
        "--texts", type=int, default=10_000, help="captions that are made neutral and encoded"
    )
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--styles", type=int, default=1000, help="K1 and K2")
    parser.add_argument("--nearest", type=int, default=200)
    options = parser.parse_args()
    set_up_logging()

    captions = captions_of_the_world(options.texts)
    neutral_text("a warm-up: loads the tagger and the lists")
    start = now()
    texts = [neutral_text(caption) for caption in captions]
    words = sum(caption.count(" ") + 1 for caption in captions) / len(captions)
    report(
        "neutral texts (lexicon)",
        start,
        captions_per_second=round(len(captions) / (time.perf_counter() - start[0])),
        captions_per_cpu_second=round(len(captions) / (time.process_time() - start[1])),
        words_per_caption=round(words, 1),
    )
    start = now()
    report("chars features", start, shape=list(chars_features(texts, 256).shape))
    features = style_like_features(options.captions, options.dim)
    start = now()
    clusters = kmeans_clusters(features, options.styles, seed=0)
    report("KMeans", start, rows=options.captions, dim=options.dim, clusters=len(clusters))
    start = now()
    clusters = ups_clusters(features, options.styles, nearest=options.nearest, seed=0)
    report("UPS", start, rows=options.captions, dim=options.dim, clusters=len(clusters))


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
