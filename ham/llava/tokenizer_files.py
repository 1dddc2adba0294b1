"""Checks of a tokenizer's files before a library reads them, and of the ids that it then makes.

The libraries' own messages about a damaged file name the wrong cause (a missing package), and some tokenizers give other ids in
the slow tokenizer of LLaVA's time than in today's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece

from ham.llava.tokenizer import chunk_ids
from ham.records import read_json
from ham.runtime import UsageError, log
from ham.tensor_files import read_settings

LFS = b"version https://git-lfs"
PROBES = ("x", " x", "two  blanks", "a line\nand another", " USER: ", "3 bags, 21 shoes.", "naïve café")


def check_files(folder: Path) -> dict[str, Any]:
    """Check a checkpoint's tokenizer files and return tokenizer_config.json, {} where there is none.

    Raises UsageError for files that are missing, empty, cut, a Git LFS pointer or not JSON.
    """
    model = folder / "tokenizer.model"
    fast = folder / "tokenizer.json"
    if not model.is_file() and not fast.is_file():
        raise UsageError(
            f"{folder}: no tokenizer.model and no tokenizer.json; copy the base model's tokenizer files there"
        )
    if model.is_file():
        read_model(model)
    elif not isinstance(read_settings(fast).get("model"), dict):
        raise UsageError(f"{fast}: not a tokenizer: no object 'model'; copy the file again")
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return {}
    if settings.read_bytes().startswith(b"\xef\xbb\xbf"):
        raise UsageError(
            f"{settings}: begins with a byte order mark, which tokenizer libraries refuse; save it as UTF-8 without one"
        )
    content = read_json(settings)
    if not isinstance(content, dict):
        raise UsageError(f"{settings}: expected a JSON object")
    return content


def read_model(file: Path) -> sentencepiece.SentencePieceProcessor:
    """Open a sentencepiece model. Raises UsageError for a file that is none."""
    start = file.read_bytes()[: len(LFS)]
    again = "copy or download the file again"
    if not start:
        raise UsageError(f"{file}: is empty; {again}")
    if start == LFS:
        raise UsageError(f"{file}: is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(file))
    except (RuntimeError, OSError):
        raise UsageError(f"{file}: is not a sentencepiece model, or was cut; {again}") from None
    if model.GetPieceSize() == 0:
        raise UsageError(f"{file}: is a sentencepiece model without pieces; {again}")
    return model


def warn_of_other_ids(folder: Path, tokenizer: Any) -> None:
    """Log a warning when the ids of a text depend on the library: LLaVA's slow tokenizer reads sentencepiece itself.

    The usual cause is a sentencepiece model that removes extra blanks, which Llama's does not and today's tokenizers ignore.
    """
    file = folder / "tokenizer.model"
    if not file.is_file():
        return
    model = read_model(file)
    different = [text for text in PROBES if model.EncodeAsIds(text) != chunk_ids(tokenizer, text)]
    blanks = "two  blanks"
    if (
        model.DecodeIds(model.EncodeAsIds(blanks)) != blanks
    ):  # seen on the slow tokenizer too, which agrees with itself
        different.append(blanks)
    if different:
        log.warning(
            "%s: the ids of a text depend on the library that reads this file, for example those of %r: sentencepiece, which "
            "LLaVA's own tokenizer uses, changes blanks that today's tokenizers keep, so captions of the two will differ. "
            "Llama's tokenizer is made with remove_extra_whitespaces=False and add_dummy_prefix=True",
            file,
            different[0],
        )
