"""Instruction data for style tuning: records in the LLaVA format, each with the style (`class_id`) it is written in.

A record is {"id", "image", "conversations", "style_id", "class_id"}; `class_id` picks the style prompt's row. The released
files of the reference load unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ham.captioner.shared_prefix import first_of_each, group_images
from ham.images import WHITE, ImageError, open_image
from ham.llava.conversation import IGNORE_INDEX, Template, encode_conversation
from ham.llava.preprocess import PAD_COLOR, preprocess
from ham.records import path_below, read_json
from ham.runtime import UsageError, WorkError

MAX_STYLES = 1_000_000  # a larger class_id is a mistake, not a style


class InstructionFile:
    """The records of an instruction file as one block of bytes: nothing for forked workers to copy.

    words [N] int64: words of all turns, the length by which samples are grouped (negative without an image).
    style_ids [N] int64: the style of each record, -1 where it names none.
    image_ids [N] int64: equal for records of one image.
    Source of `words`: HAM, llava/train/train.py, LazySupervisedDataset.modality_lengths.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        records = read_json(path)
        if not isinstance(records, list) or not records:
            found = "an empty list" if records == [] else type(records).__name__
            raise UsageError(f"{path}: expected a JSON list of LLaVA records, found {found}")
        self.style_ids = np.array([style_id_of(record) for record in records], dtype=np.int64)
        self.words = np.array([count_words(record) for record in records], dtype=np.int64)
        images = [str(record.get("image", "")) if isinstance(record, dict) else "" for record in records]
        self.image_ids = np.unique(images, return_inverse=True)[1].astype(np.int64)
        rows = [json.dumps(record, ensure_ascii=False).encode() for record in records]
        self.ends = np.cumsum([0, *map(len, rows)])
        self.block = np.frombuffer(b"".join(rows), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return json.loads(self.block[self.ends[index] : self.ends[index + 1]].tobytes())

    def open_image(
        self, index: int, image_folder: str | Path, backdrop: tuple[int, int, int] = WHITE
    ) -> Image.Image:
        """Read the image of a record; backdrop: color behind transparent pixels. Raises WorkError naming the record."""
        try:
            return open_image(path_below(image_folder, self[index]["image"]), backdrop)
        except ImageError as error:
            raise WorkError(
                f"{self.path}, record {index}: {error}; fix the image and run the same command again"
            ) from None

    def unused_styles(self, num_styles: int) -> list[int]:
        """List the styles below `num_styles` that no record is written in."""
        used = np.unique(self.style_ids)
        return np.setdiff1d(np.arange(num_styles), used).tolist()

    def styles_needed(self) -> int:
        """Count the style prompts that the highest `class_id` asks for."""
        return int(self.style_ids.max()) + 1


def style_id_of(record: Any) -> int:
    """Return a record's style; -1 where there is none that a style bank could have (`ham.captioner.check` reports it)."""
    value = record.get("class_id") if isinstance(record, dict) else None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < MAX_STYLES else -1


def count_words(record: Any) -> int:
    turns = record.get("conversations") if isinstance(record, dict) else None
    words = sum(len(str(turn.get("value", "")).split()) for turn in turns or [] if isinstance(turn, dict))
    return words if isinstance(record, dict) and "image" in record else -words


class InstructionDataset(Dataset[dict[str, Any]]):
    """Records as tensors: input_ids [T], labels [T], pixels float32 [3, s, s], style_id. Made in the workers, lazily."""

    def __init__(
        self,
        file: InstructionFile,
        image_folder: str | Path,
        tokenizer: Any,
        template: Template,
        image_size_px: int,
    ) -> None:
        self.file = file
        self.image_folder = Path(image_folder)
        self.tokenizer = tokenizer
        self.template = template
        self.image_size_px = image_size_px
        self.lengths, self.image_ids = file.words, file.image_ids

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.file[index]
        image = self.file.open_image(index, self.image_folder, PAD_COLOR)
        input_ids, labels = encode_conversation(self.tokenizer, record["conversations"], self.template)
        return {
            "input_ids": input_ids,
            "labels": labels,
            "pixels": preprocess(image, self.image_size_px),
            "style_id": self.file.style_ids[index],
            "image": record["image"],
        }


class Collator:
    """Pad samples on the right and stack them into what the model's forward takes.

    share_prefix: give each image of the batch once, with `image_index`, where an image occurs in several samples.
    deviation: the attention mask comes from the lengths; the reference masks every position that holds the padding id.
    """

    def __init__(self, pad_id: int, share_prefix: bool = False) -> None:
        self.pad_id, self.share_prefix = pad_id, share_prefix

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        index = group_images(samples) if self.share_prefix else None
        images = samples if index is None else [samples[first] for first in first_of_each(index)]
        shared = {} if index is None else {"image_index": index}  # [B]
        ids, labels = ([sample[name] for sample in samples] for name in ("input_ids", "labels"))
        lengths = torch.tensor([len(one) for one in ids])
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(ids, batch_first=True, padding_value=self.pad_id)  # [B, T]
        return {
            "input_ids": input_ids,
            "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX),  # [B, T]
            "attention_mask": torch.arange(input_ids.shape[1])[None] < lengths[:, None],  # [B, T]
            "images": torch.stack([sample["pixels"] for sample in images]),  # [B or N, 3, s, s]
            "style_ids": torch.tensor([int(sample["style_id"]) for sample in samples]),  # [B]
            **shared,
        }
