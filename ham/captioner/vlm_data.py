"""Instruction data for models of the `vlm` family: prompt, image and caption through the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ham.captioner.data import InstructionFile
from ham.records import IMAGE_TEXT
from ham.runtime import WorkError
from ham.vlm.prompts import IGNORE_INDEX, PromptWriter


class VlmInstructionDataset(Dataset[dict[str, torch.Tensor]]):
    """Records as a processor's tensors with `labels`, batch size 1 each; read in the workers.

    max_length: most tokens of a record, image included. A longer one raises WorkError: cut, its image tokens would not fit
    its image, or its caption would have no end.
    """

    def __init__(
        self, file: InstructionFile, image_folder: str | Path, writer: PromptWriter, max_length: int
    ) -> None:
        self.file = file
        self.image_folder = Path(image_folder)
        self.writer = writer
        self.max_length = max_length
        self.lengths = file.words

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record = self.file[index]
        image = self.file.open_image(index, self.image_folder)
        question = record["conversations"][0]["value"]
        answer = record["conversations"][1]["value"]
        style = int(self.file.style_ids[index])
        example = self.writer.encode_example(image, question.replace(IMAGE_TEXT, "").strip(), style, answer)
        length = example["input_ids"].shape[1]
        if length > self.max_length:
            raise WorkError(
                f"{self.file.path}, record {index}: {length} tokens with its image of {image.width}x{image.height} pixels, "
                f"more than --model_max_length {self.max_length}; raise it, or lower --max_pixels where the model has "
                "variable resolution"
            )
        return example


class VlmCollator:
    """Join samples into one batch: sequences are padded on the right, image tensors are concatenated.

    Models differ in how many tokens an image takes and in which tensors they want; whatever has the length of the
    sequence is padded, everything else is a list of images along dimension 0.
    """

    def __init__(self, pad_id: int) -> None:
        self.padding = {"input_ids": pad_id, "labels": IGNORE_INDEX}

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        lengths = [sample["input_ids"].shape[1] for sample in samples]
        batch = {}
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if all(value.shape == (1, length) for value, length in zip(values, lengths, strict=True)):
                rows = [value[0] for value in values]
                padding = self.padding.get(name, 0)
                batch[name] = torch.nn.utils.rnn.pad_sequence(
                    rows, batch_first=True, padding_value=padding
                )  # [B, T]
            else:
                batch[name] = torch.cat(values)
        return batch
