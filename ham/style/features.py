"""Style features: one vector for each neutral text.

    clip    a CLIP text tower, EOT token, as in the paper
    hf      any local text encoder of Hugging Face's layout, mean over its tokens
    chars   character n-grams, function words and punctuation, TF-IDF and SVD: as in authorship attribution, offline

Every encoder maps texts to float32 [N, D]. Source: HAM, section 3.2 (style feature F_s of the text encoder).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ham.runtime import UsageError, derive_seed, log, progress, resolve_device
from ham.style.hub import check_model_name, loading_options
from ham.style.lexicon import function_words

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[^\w\s]")
MARK = re.compile(r"[^\w\s]|[A-Z]{2,}|[A-Z]|[a-z]+|[^\x00-\x7f]")


# ----------------------------------------------------------------------------------------------------------------- chars


def chars_features(
    texts: Sequence[str], dim: int = 256, seed: int = 0, max_ngrams: int = 20_000
) -> NDArray[np.float32]:
    """Encode texts by their surface: character 2- to 4-grams within words, sentence skeletons, punctuation and capitals.

    Three TF-IDF blocks (sublinear, unit rows) side by side, reduced by a truncated SVD to at most `dim` dimensions, rows
    scaled to length 1. Works for every alphabet; a text that shares nothing with any other has a row of zeros.
    Raises UsageError when there is nothing to count.
    """
    from scipy.sparse import hstack
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    least = 2 if len(texts) >= 100 else 1  # what occurs once describes no style
    common = {"sublinear_tf": True, "min_df": least, "dtype": np.float32}
    vectorizers = {
        "n-grams": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=max_ngrams, **common),
        "skeletons": TfidfVectorizer(analyzer=skeleton_of, max_features=max_ngrams // 4, **common),
        "marks": TfidfVectorizer(analyzer=marks_of, max_features=max_ngrams // 10, **common),
    }
    blocks = []
    for name, vectorizer in progress(vectorizers.items(), what="chars features", unit="blocks"):
        try:
            blocks.append(vectorizer.fit_transform(texts))
        except ValueError:  # an empty vocabulary
            log.warning("chars features: no %s in %d texts", name, len(texts))
    if not blocks:
        raise UsageError(
            f"chars features: {len(texts)} texts have nothing in common that could be counted; pass more captions"
        )
    counts = hstack(blocks, format="csr")
    dim = min(dim, min(counts.shape) - 1)
    if dim < 1:
        raise UsageError(
            f"chars features: {counts.shape[0]} texts with {counts.shape[1]} countable pieces; pass more captions"
        )
    reduced = TruncatedSVD(dim, random_state=derive_seed(seed, "svd") % 2**32).fit_transform(counts)
    return normalize(reduced).astype(np.float32)


def skeleton_of(text: str) -> list[str]:
    """Return the 1-, 2- and 3-grams of a sentence's skeleton: function words and marks as they are, any other word as "*"."""
    known = function_words()
    words = [word if word in known or not word[0].isalpha() else "*" for word in WORD.findall(text.lower())]
    pairs = [" ".join(pair) for pair in pairwise(words)]
    return words + pairs + [" ".join(three) for three in zip(words, words[1:], words[2:])]


def marks_of(text: str) -> list[str]:
    """Return the punctuation and capitals of a text, each with what precedes it, and its length in steps of six words."""
    kinds = [
        "Cc"[piece.islower()]
        if len(piece) == 1 and piece.isalpha()
        else "C" * 2
        if piece.isupper()
        else "c"
        if piece.isalpha()
        else piece
        for piece in MARK.findall(text)
    ]
    near = [before + after for before, after in zip(["^", *kinds], [*kinds, "$"]) if before + after != "cc"]
    return [*near, f"length {text.count(' ') // 6}"]


# ------------------------------------------------------------------------------------------------------- neural encoders


@torch.inference_mode()
def clip_features(
    texts: Sequence[str],
    source: str | Path,
    normalize: bool = True,
    batch_size: int = 256,
    device: str = "auto",
) -> NDArray[np.float32]:
    """Encode texts with the text tower of a CLIP (any source of ham.clip.load_clip): EOT token, length 1 if `normalize`.

    Texts beyond 77 tokens are cut. CLIP's byte-level vocabulary has tokens for every alphabet.
    """
    from ham.clip import load_clip, tokenize

    place = resolve_device(device)
    model = load_clip(source, image_size_px=None, stride_px=None).to(place).eval()
    rows = [
        model.encode_text(tokenize(batch).to(place)).float().cpu()
        for batch in batches(texts, batch_size, "clip features")
    ]
    features = torch.cat(rows)
    return (torch.nn.functional.normalize(features, dim=-1) if normalize else features).numpy()


@torch.inference_mode()
def hf_features(
    texts: Sequence[str],
    source: str,
    normalize: bool = True,
    batch_size: int = 128,
    device: str = "auto",
    max_length: int = 256,
) -> NDArray[np.float32]:
    """Encode texts with a Hugging Face text encoder: last hidden state, mean over tokens, length 1 if `normalize`.

    Raises UsageError when a text has no token that the encoder knows (an alphabet outside its vocabulary): its feature would
    mean nothing.
    """
    from transformers import AutoModel, AutoTokenizer

    place = resolve_device(device)
    check_model_name(source, "features.source")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **loading_options(source))
        model = AutoModel.from_pretrained(source, **loading_options(source)).to(place).eval()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"features.source {source}: transformers cannot load it as a text encoder: {error}"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_known_tokens(texts, tokenizer, source)
    rows = []
    for batch in batches(texts, batch_size, "hf features"):
        tokens = tokenizer(
            batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(place)
        hidden = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state.float()  # [B, T, D]
        mask = tokens.attention_mask[..., None]
        rows.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
    features = torch.cat(rows)
    return (torch.nn.functional.normalize(features, dim=-1) if normalize else features).numpy()


def check_known_tokens(texts: Sequence[str], tokenizer, source: str) -> None:
    """Raise UsageError when some text consists only of unknown and special tokens, or of none."""
    useless = set(tokenizer.all_special_ids)
    blank = [text for text in texts if not set(tokenizer(text, add_special_tokens=False).input_ids) - useless]
    if blank:
        raise UsageError(
            f"{source} has no tokens for {len(blank)} of {len(texts)} texts, such as {blank[0]!r:.80}; use an "
            "encoder that knows their alphabet, or features.encoder chars"
        )


def batches(texts: Sequence[str], batch_size: int, what: str) -> Iterator[list[str]]:
    """Yield lists of at most `batch_size` texts, with progress."""
    if not texts:
        raise UsageError(f"{what}: no captions to encode")
    starts = range(0, len(texts), batch_size)
    yield from (
        [*texts[start : start + batch_size]]
        for start in progress(starts, what=what, unit=f"x{batch_size} captions")
    )
