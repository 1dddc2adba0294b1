"""Text to ids as LLaVA's slow Llama tokenizer makes them, whichever tokenizer class is at hand.

Knows nothing of conversations. LLaVA tokenizes a prompt in chunks: it is cut at every `<image>`, and each chunk is tokenized by
itself. Sentencepiece puts a dummy space before each chunk, even one that starts with a space; the tokenizers of transformers 5
leave it out there. The functions below add it, so that ids never depend on the library.
"""

from __future__ import annotations

from typing import Any

from ham.records import IMAGE_TEXT

IMAGE_TOKEN_INDEX = -200
WORD_START = "▁"


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of `text` as the tokenizer makes them, without the start and end tokens."""
    return tokenizer(text, add_special_tokens=False).input_ids if text else []


def has_dummy_prefix(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts a space of its own before a text, as sentencepiece does and byte-level BPE does not."""
    return tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "x"))[0].startswith(WORD_START)


def chunk_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a chunk that starts a prompt or follows an image.

    Source: HAM, llava/mm_utils.py, tokenizer_image_token (with the slow tokenizer of transformers 4.31).
    """
    swallows_a_space = text.startswith(" ") and plain_ids(tokenizer, "x") == plain_ids(tokenizer, " x")
    return plain_ids(tokenizer, " " + text if swallows_a_space else text)


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text that continues a prompt after a space: `text` comes without that space."""
    return chunk_ids(tokenizer, text) if has_dummy_prefix(tokenizer) else plain_ids(tokenizer, " " + text)


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of a prompt: the start token once, then the chunks, with IMAGE_TOKEN_INDEX (-200) for every `<image>`.

    Source: HAM, llava/mm_utils.py, tokenizer_image_token.
    """
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for number, chunk in enumerate(prompt.split(IMAGE_TEXT)):
        ids += ([IMAGE_TOKEN_INDEX] if number else []) + chunk_ids(tokenizer, chunk)
    return ids
