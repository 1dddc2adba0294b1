"""CLIP's byte-pair encoding with IRRA's vocabulary: the last merge is replaced by `<|mask|>`.

open_clip's tokenizer with another vocabulary. Captions become rows of ids; a known word costs one dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex
import torch
from open_clip.tokenizer import SimpleTokenizer, basic_clean

from ham.runtime import UsageError

PAD_ID, MASK_ID, SOT_ID, EOT_ID, VOCAB_SIZE = 0, 49405, 49406, 49407, 49408
SPECIAL_IDS = {"<|mask|>": MASK_ID, "<|startoftext|>": SOT_ID, "<|endoftext|>": EOT_ID}
WORDS = regex.compile(
    r"<\|mask\|>|<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
MAX_CACHED_WORDS = 500_000


def clean(text: str) -> str:
    """Repair wrongly decoded text, resolve HTML entities, collapse white space, lower the case."""
    if not (text.isascii() and text.isprintable()) or "&" in text:  # other text is clean already
        text = basic_clean(text)
    return " ".join(text.split()).lower()


class Tokenizer(SimpleTokenizer):
    """Convert captions to CLIP token ids: 49405 mask, 49406 start, 49407 end, 0 padding, 49408 in all.

    deviation: the reference keeps the merge "jekyll</w>" in its rank table but not in its vocabulary, so that the word raises
    KeyError; here the merge is gone from both and "jekyll" becomes the two pieces that were to be merged.
    Source: IRRA, utils/simple_tokenizer.py, SimpleTokenizer; datasets/bases.py, tokenize.
    """

    def __init__(self) -> None:
        super().__init__()
        last = max(self.bpe_ranks, key=self.bpe_ranks.__getitem__)
        del self.bpe_ranks[last]
        pieces = [piece for piece, i in self.encoder.items() if i < MASK_ID]
        self.encoder = {piece: i for i, piece in enumerate(pieces)} | SPECIAL_IDS
        self.decoder = {i: piece for piece, i in self.encoder.items()}
        self.pat, self.cache = WORDS, {}
        self.ids_of_word: dict[str, tuple[int, ...]] = {word: (i,) for word, i in SPECIAL_IDS.items()}

    def encode(self, caption: str) -> list[int]:
        """Return the ids of a caption's pieces, without start and end."""
        found: list[int] = []
        for word in WORDS.findall(clean(caption)):
            found.extend(self.ids_of_word.get(word) or self._encode_word(word))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; each word is followed by one space. Padding ids decode to `!`: cut them off before."""
        return super().decode([int(i) for i in ids])

    def __call__(self, captions: str | Sequence[str], text_length: int = 77) -> torch.LongTensor:
        """Return rows [start, ids, end, 0, ...] of `text_length`, int64 [B, T]; long captions are cut before the end token."""
        if text_length < 2:
            raise UsageError(f"text_length is {text_length}; start and end alone need 2")
        captions = [captions] if isinstance(captions, str) else captions
        rows = []
        for caption in captions:
            row = [SOT_ID, *self.encode(caption)[: text_length - 2], EOT_ID]
            rows.append(row + [PAD_ID] * (text_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), text_length)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        letters = "".join(self.byte_encoder[byte] for byte in word.encode("utf-8", "surrogatepass"))
        ids = tuple(self.encoder[piece] for piece in self.bpe(letters).split(" "))
        self.cache.clear()  # the library's own cache of words; the one below is enough
        if len(self.ids_of_word) < MAX_CACHED_WORDS:
            self.ids_of_word[word] = ids
        return ids


@lru_cache(maxsize=1)
def default_tokenizer() -> Tokenizer:
    """Return the process's one tokenizer, so that its cache of words is shared."""
    return Tokenizer()


def tokenize(captions: str | Sequence[str], text_length: int = 77) -> torch.LongTensor:
    """Tokenize captions with IRRA's vocabulary: int64 [B, text_length]; see `Tokenizer.__call__`."""
    return default_tokenizer()(captions, text_length)
