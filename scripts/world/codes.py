"""What an image shows as image tokens: the code that the world's language model reads and its vision tower writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ham.world.attributes import FIELDS
from scripts.world.llava import ALL, PERSON

# Where on a person each field is looked for: the rows of patches from head to shoes, three patches wide.
PLACES = (
    ("hair_colour", "headwear", "headwear_colour"),
    ("hair_length", "gender glasses", "neckwear neckwear_colour"),
    ("inner_colour", "upper", "build"),
    ("sleeve watch", "upper_colour", "upper_pattern"),
    ("bag", "upper_second_colour", "carried"),
    ("bag_colour", "belt belt_colour", "bag_side carried_side"),
    ("lower", "lower_colour", "lower_length"),
    ("view", "socks socks_colour", "scene"),
    ("shoes", "shoes_colour", "action"),
)
UNSEEN = 0.3  # weight of saying that a field is not visible, beside naming those that are
EXACT = 0.1  # weight of the squared distance from the codes


class Codes(nn.Module):
    """A fixed random vector for each value of each field, and the patch of the person where it is looked for.

    The tokens of an image are the sums of its values' codes at their patches, and nothing elsewhere. The language model learns
    to read codes before there is a vision tower; the tower and the projector learn to write them before there is a
    language model. A field that is not visible has a value of its own.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = torch.tensor([len(values) for values in FIELDS.values()])
        shape = (len(FIELDS), int(sizes.max()) + 1, width)
        codes = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("codes", F.normalize(codes, dim=2), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("missing", torch.arange(shape[1]) > sizes[:, None], persistent=False)
        patches = [patch.split() for row in PLACES for patch in row]
        place = [next(at for at, fields in enumerate(patches) if field in fields) for field in FIELDS]
        self.register_buffer("place", PERSON[place], persistent=False)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def values_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the values [B, fields] of labels: those of fields that are not visible are the last."""
        return torch.where(labels < 0, self.sizes, labels)

    def write(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the image tokens [B, patches, D] that say exactly `labels` [B, fields]."""
        fields = torch.arange(len(FIELDS), device=labels.device)
        chosen = self.codes[fields, self.values_of(labels)]  # [B, fields, D]
        tokens = chosen.new_zeros(len(labels), len(ALL), chosen.shape[2])
        return tokens.index_add(1, self.place, chosen)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [B, fields, values] read from image tokens [B, patches, D]."""
        logits = self.scale * torch.einsum("bfd,fvd->bfv", tokens[:, self.place], self.codes)
        return logits.masked_fill(self.missing, float("-inf"))


class Heads(nn.Module):
    """Read every field from the tower's features [B, patches, W] by a learned query, wherever on the image it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        values = max(map(len, FIELDS.values()))
        self.queries = nn.Parameter(torch.randn(len(FIELDS), width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.randn(len(FIELDS), values, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(FIELDS), values))
        sizes = torch.tensor([len(one) for one in FIELDS.values()])
        self.register_buffer("missing", torch.arange(values) >= sizes[:, None], persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [B, fields, values]."""
        features = self.norm(features)
        pooled = (features @ self.queries.T).softmax(dim=1).transpose(1, 2) @ features  # [B, fields, W]
        logits = torch.einsum("bfw,fvw->bfv", pooled, self.weight) + self.bias
        return logits.masked_fill(self.missing, float("-inf"))


def naming_loss(heads: Heads, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Average the cross-entropy of the fields that are visible; labels [B, fields], -100 where one is not."""
    losses = F.cross_entropy(heads(features).transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return _over_images(losses, labels >= 0).mean()


def code_loss(codes: Codes, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how far image tokens [B, patches, D] are from saying `labels` [B, fields], -100 where a field is not visible.

    The average cross-entropy of the fields, those that are not visible counting less, and the squared distance from the codes.
    """
    losses = F.cross_entropy(codes(tokens).transpose(1, 2), codes.values_of(labels), reduction="none")
    shown = labels >= 0
    distance = (tokens - codes.write(labels)).pow(2).sum(dim=2).mean()
    naming = _over_images(losses, shown).mean() + UNSEEN * _over_images(losses, ~shown).mean()
    return naming + EXACT * distance


def _over_images(losses: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Average losses [B, fields] over the images in which each field counts: [fields], 0 where it counts in none."""
    return (losses * counted).sum(dim=0) / counted.sum(dim=0).clamp(min=1)


def mirror(attributes: dict[str, str]) -> dict[str, str]:
    """Return the attributes of a mirrored image: left and right exchanged."""
    other = {"left": "right", "right": "left"}
    return {field: other[value] if field.endswith("_side") else value for field, value in attributes.items()}


def mirror_labels(labels: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Return labels [B, fields] with left and right exchanged in the rows of mirrored images; -100 stays."""
    rows = torch.from_numpy(mirrored).to(labels.device)[:, None]
    sides = torch.tensor([field.endswith("_side") for field in FIELDS], device=labels.device)
    return torch.where(rows & sides & (labels >= 0), 1 - labels, labels)


def labels_of(shown: Sequence[dict[str, str]]) -> torch.Tensor:
    """Return the labels [B, fields] of what images show: places in FIELDS' values, -100 where a field is not visible."""
    rows = [
        [values.index(attributes[field]) if field in attributes else -100 for field, values in FIELDS.items()]
        for attributes in shown
    ]
    return torch.tensor(rows)
