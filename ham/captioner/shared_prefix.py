"""Style tuning with an image's prefix computed once for all its records in a batch.

    separate   [text | image | style 1 | text 1], [text | image | style 2 | text 2], ...
    shared     [text | image | style 1 | text 1 | style 2 | text 2 | ...]

In the shared sequence a record sees the prefix and itself, at the positions that it has alone. Loss and gradients are those of
the separate sequences (tests/test_shared_prefix.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from ham.llava.conversation import IGNORE_INDEX
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.runtime import UsageError

if TYPE_CHECKING:
    from ham.captioner.model import CaptionerModel

MULTIPLE = 8  # the length of sequences: fused attention wants a mask whose rows are aligned


class Shared(NamedTuple):
    """The language model's input: one sequence per image.

    embeddings [N, L, D]; labels [N, L]; position_ids [N, L]; mask [N, 1, L, L], 0 where a position is seen, else the lowest
    number of the embeddings' dtype.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor


def group_images(samples: Sequence[dict[str, Any]]) -> torch.Tensor | None:
    """Return which of the batch's images each sample belongs to, [B], numbered in order of appearance.

    Samples belong together when image and text up to the image are equal. None where a sample has not exactly one image
    placeholder, or where no image occurs twice: then nothing is shared.
    """
    groups: dict[Hashable, int] = {}
    index = []
    for sample in samples:
        places = (sample["input_ids"] == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
        if len(places) != 1:
            return None
        key = (sample["image"], *sample["input_ids"][: places[0]].tolist())
        index.append(groups.setdefault(key, len(groups)))
    return None if len(groups) == len(samples) else torch.tensor(index)


def first_of_each(index: torch.Tensor) -> list[int]:
    """Return the first sample of each image, in the order of the images."""
    return [index.tolist().index(image) for image in range(int(index.max()) + 1)]


def splice_shared(
    model: CaptionerModel,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor,
    images: torch.Tensor,
    style_ids: torch.Tensor | None,
    image_index: torch.Tensor,
) -> Shared:
    """Build one sequence per image.

    input_ids, labels, attention_mask: [B, T]; images: [N, 3, s, s]; style_ids, image_index: [B].
    """
    features = model.encode_images(images)  # [N, P, D]
    styles = None if style_ids is None else model.styles(style_ids)  # [B, K, D]
    text = model.embed(input_ids.clamp(min=0))  # [B, T, D]
    ends = attention_mask.sum(1).tolist()
    places = (input_ids == IMAGE_TOKEN_INDEX).int().argmax(1).tolist()
    members: list[list[int]] = [[] for _ in range(len(images))]
    for record, image in enumerate(image_index.tolist()):
        members[image].append(record)
    rows = []
    for image, records in enumerate(members):
        if not records:
            raise UsageError(f"image {image} of the batch belongs to no record")
        prefix = torch.cat([text[records[0], : places[records[0]]], features[image]])
        space = None if model.max_length is None else max(0, model.max_length - len(prefix))
        pieces = [_Piece(prefix, labels.new_full((len(prefix),), IGNORE_INDEX), 0, 0)]
        for number, record in enumerate(records, 1):
            own = slice(places[record] + 1, ends[record])
            style = None if styles is None else styles[record]
            piece = _record_piece(text[record, own], labels[record, own], style, space)
            pieces.append(_Piece(*piece, len(prefix), number))
        rows.append(pieces)
    device = text.device
    embeddings = _padded([torch.cat([one.embeddings for one in row]) for row in rows], 0.0)
    target = _padded([torch.cat([one.labels for one in row]) for row in rows], IGNORE_INDEX)
    position = [torch.cat([torch.arange(len(one.labels)) + one.start for one in row]) for row in rows]
    block = [torch.cat([torch.full((len(one.labels),), one.block) for one in row]) for row in rows]
    mask = block_mask(_padded(block, -1).to(device), embeddings.dtype)
    return Shared(embeddings, target, _padded(position, 0).to(device), mask)


class _Piece(NamedTuple):
    """A prefix (block 0) or a record of it: embeddings [T, D], labels [T], and the position of its first token."""

    embeddings: torch.Tensor
    labels: torch.Tensor
    start: int
    block: int


def _record_piece(
    text: torch.Tensor, labels: torch.Tensor, style: torch.Tensor | None, space: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings and labels of [style | text], cut to `space` positions."""
    if style is not None:
        text = torch.cat([style, text])
        labels = torch.cat([labels.new_full((len(style),), IGNORE_INDEX), labels])
    text, labels = text[:space], labels[:space].clone()
    labels[:1] = IGNORE_INDEX  # the position before a record's first token is another record's
    return text, labels


def block_mask(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Build the additive mask [N, 1, L, L]: a position sees earlier ones of its own block and of block 0, the prefix."""
    length = blocks.shape[1]
    query, key = blocks[:, :, None], blocks[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    seen = causal & ((key == query) | (key == 0))
    mask = torch.zeros(seen.shape, dtype=dtype, device=blocks.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _padded(rows: list[torch.Tensor], value: float) -> torch.Tensor:
    """Stack rows of different lengths, padded at the end to a multiple of MULTIPLE."""
    stacked = pad_sequence(rows, batch_first=True, padding_value=value)
    missing = -stacked.shape[1] % MULTIPLE
    size = (stacked.shape[0], missing, *stacked.shape[2:])
    return torch.cat([stacked, stacked.new_full(size, value)], dim=1)
