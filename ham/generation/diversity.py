"""How varied a set of captions is: distinct-1/2, self-BLEU, lengths. Pure functions of the texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sacrebleu.metrics import BLEU

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


def bleu(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute BLEU-4 in percent of words against references, with sacrebleu.

    Orders above 1 are smoothed by adding one to both counts (Lin and Och 2004), so that a short caption is not 0 at once.
    """
    return _metric().sentence_score(" ".join(candidate), [" ".join(words) for words in references]).score


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Compute the mean BLEU-4, in percent, of each text against all the others: the lower, the more varied."""
    lines = [" ".join(words) for words in texts]
    metric = _metric()
    scores = [
        metric.sentence_score(line, lines[:place] + lines[place + 1 :]).score
        for place, line in enumerate(lines)
    ]
    return sum(scores) / len(scores)


def _metric() -> BLEU:
    return BLEU(tokenize="none", smooth_method="add-k", smooth_value=1, effective_order=True)


def measure(captions: Sequence[str], seed: int = 0, self_bleu_texts: int = 200) -> dict[str, float | int]:
    """Measure a set of captions; self-BLEU on `self_bleu_texts` drawn from it, because it costs their square.

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
