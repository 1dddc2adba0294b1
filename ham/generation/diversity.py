"""How varied a set of captions is: distinct-1/2, self-BLEU, lengths. Pure functions of the texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from ham.runtime import numpy_generator


def words_of(caption: str) -> list[str]:
    """Split a caption into lower-case words; punctuation falls away."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower())


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return the share of different n-grams among all n-grams, in percent; 0 when there are none.

    It falls as the set grows: compare sets of one size only.
    """
    grams = Counter(gram for words in texts for gram in _ngrams(words, n))
    return 100.0 * len(grams) / max(grams.total(), 1)


def bleu(
    candidate: Sequence[str], references: Sequence[Counter], lengths: Sequence[int], longest: int = 4
) -> float:
    """Return BLEU-4 in percent of words against references' n-gram counts (all orders in one Counter each).

    Orders above 1 are smoothed by adding one to both counts (Lin and Och 2004), so that a short caption is not 0 at once.
    """
    if not candidate:
        return 0.0
    log_precision = 0.0
    for n in range(1, longest + 1):
        grams = Counter(_ngrams(candidate, n))
        hits = sum(
            min(count, max(reference[gram] for reference in references)) for gram, count in grams.items()
        )
        smooth = int(n > 1)
        if hits + smooth == 0:
            return 0.0
        log_precision += math.log((hits + smooth) / (grams.total() + smooth)) / longest
    closest = min(lengths, key=lambda length: (abs(length - len(candidate)), length))
    brevity = min(0.0, 1.0 - closest / len(candidate))
    return 100.0 * math.exp(log_precision + brevity)


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Return the mean BLEU-4, in percent, of each text against all the others: the lower, the more varied."""
    counts = [Counter(gram for n in range(1, 5) for gram in _ngrams(words, n)) for words in texts]
    lengths = [len(words) for words in texts]
    scores = [
        bleu(words, counts[:i] + counts[i + 1 :], lengths[:i] + lengths[i + 1 :])
        for i, words in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def measure(captions: Sequence[str], seed: int = 0, self_bleu_texts: int = 200) -> dict[str, float | int]:
    """Measure a set of captions; self-BLEU on `self_bleu_texts` drawn from it, as it costs their square.

    Returns: captions, distinct_1, distinct_2 and self_bleu in percent, different (share of different captions, percent),
    words_mean, words_p5, words_p95. Just `captions` when there are fewer than two.
    """
    if len(captions) < 2:
        return {"captions": len(captions)}
    texts = [words_of(caption) for caption in captions]
    lengths = sorted(map(len, texts))
    chosen = numpy_generator(seed, "self_bleu").permutation(len(texts))[:self_bleu_texts].tolist()
    return {
        "captions": len(texts),
        "different": round(100.0 * len(set(captions)) / len(captions), 2),
        "distinct_1": round(distinct_n(texts, 1), 3),
        "distinct_2": round(distinct_n(texts, 2), 3),
        "self_bleu": round(self_bleu([texts[index] for index in chosen]), 2),
        "words_mean": round(sum(lengths) / len(lengths), 2),
        "words_p5": lengths[int(0.05 * (len(lengths) - 1))],
        "words_p95": lengths[int(0.95 * (len(lengths) - 1))],
    }


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
