"""CLIP's byte-pair encoding with IRRA's vocabulary: the last merge gives way to `<|mask|>`.

The vocabulary file ships with open_clip. Captions become rows of ids; words that were seen before cost one dictionary look-up.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import ftfy
import open_clip
import regex
import torch

from ham.runtime import UsageError

PAD_ID, MASK_ID, SOT_ID, EOT_ID, VOCAB_SIZE = 0, 49405, 49406, 49407, 49408
SPECIAL_IDS = {"<|mask|>": MASK_ID, "<|startoftext|>": SOT_ID, "<|endoftext|>": EOT_ID}
NUM_MERGES = MASK_ID - 2 * 256
END = "</w>"
WORDS = regex.compile(
    r"<\|mask\|>|<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
MAX_CACHED_WORDS = 500_000


def byte_letters() -> dict[int, str]:
    """Return each byte the printable letter that stands for it in the vocabulary file, in the order of the first 256 ids."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def clean(text: str) -> str:
    """Repair wrongly decoded text, resolve HTML entities, squeeze white space, lower the case."""
    if (
        not (text.isascii() and text.isprintable()) or "&" in text
    ):  # for other text these three change nothing
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """Turn captions into CLIP token ids: 49405 mask, 49406 start, 49407 end, 0 padding, 49408 in all.

    Source: IRRA, utils/simple_tokenizer.py, SimpleTokenizer; datasets/bases.py, tokenize.
    """

    def __init__(self, vocabulary: str | Path | None = None) -> None:
        vocabulary = Path(vocabulary or Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz")
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
        # deviation: the reference keeps the merge "jekyll</w>" in its rank table but not in its vocabulary, so that the word
        # raises KeyError; here the merge is gone from both and "jekyll" becomes the two pieces that were to be merged.
        merges = [tuple(line.split()) for line in lines[1 : NUM_MERGES + 1]]
        self.letters = byte_letters()
        letters = list(self.letters.values())
        pieces = letters + [letter + END for letter in letters] + ["".join(merge) for merge in merges]
        self.ids = {piece: i for i, piece in enumerate(pieces)} | SPECIAL_IDS
        self.pieces = {i: piece for piece, i in self.ids.items()}
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.cache: dict[str, tuple[int, ...]] = {word: (i,) for word, i in SPECIAL_IDS.items()}

    def encode(self, caption: str) -> list[int]:
        """Return the ids of a caption's pieces, without start and end."""
        found: list[int] = []
        for word in WORDS.findall(clean(caption)):
            found.extend(self.cache.get(word) or self._encode_word(word))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; each word is followed by one space. Padding ids spell `!`: cut them off before."""
        byte_of = {letter: byte for byte, letter in self.letters.items()}
        text = bytes(byte_of[letter] for i in ids for letter in self.pieces[int(i)])
        return text.decode("utf-8", errors="replace").replace(END, " ")

    def __call__(self, captions: str | Sequence[str], text_length: int = 77) -> torch.LongTensor:
        """Return rows [start, ids, end, 0, ...] of `text_length`, int64 [B, T]; longer captions keep head and end."""
        if text_length < 2:
            raise UsageError(f"text_length is {text_length}; start and end alone need 2")
        captions = [captions] if isinstance(captions, str) else captions
        rows = []
        for caption in captions:
            row = [SOT_ID, *self.encode(caption)[: text_length - 2], EOT_ID]
            rows.append(row + [PAD_ID] * (text_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), text_length)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        letters = [self.letters[byte] for byte in word.encode("utf-8")]
        letters[-1] += END
        while len(letters) > 1:
            rank, best = min((self.ranks.get(pair, NUM_MERGES), pair) for pair in pairwise(letters))
            if rank == NUM_MERGES:
                break
            letters = merge_all(letters, best)
        ids = tuple(self.ids[letter] for letter in letters)
        if len(self.cache) < MAX_CACHED_WORDS:
            self.cache[word] = ids
        return ids


def merge_all(letters: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of two neighbours, from the left."""
    merged, i = [], 0
    while i < len(letters):
        both = tuple(letters[i : i + 2]) == pair
        merged.append("".join(pair) if both else letters[i])
        i += 2 if both else 1
    return merged


@lru_cache(maxsize=1)
def default_tokenizer() -> Tokenizer:
    """Return the process's one tokenizer, so that its cache of words is shared."""
    return Tokenizer()


def tokenize(captions: str | Sequence[str], text_length: int = 77) -> torch.LongTensor:
    """Tokenize captions with IRRA's vocabulary: int64 [B, text_length]; see `Tokenizer.__call__`."""
    return default_tokenizer()(captions, text_length)
