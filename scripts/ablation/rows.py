"""The rows of the table and what each is made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One way to get captions.

    label: as the table says it. clustering: whose tuned captioner writes, None where no captioner is tuned. writes: how
    (scripts/ablation/captions.py). is_control: not a row of the paper's Table 1.
    """

    label: str
    clustering: str | None = None
    writes: str = "styles"
    is_control: bool = False


CLUSTERINGS = ("one_style", "kmeans", "ups", "both", "random_clusters")

# In the order in which they are worked on.
ROWS: dict[str, Row] = {
    "none": Row("no pretraining", writes="nothing"),
    "static": Row("static, untuned, greedy", writes="static"),
    "both": Row("KMeans + UPS", "both"),
    "ceiling": Row("true human captions (ceiling)", writes="humans", is_control=True),
    "kmeans": Row("KMeans", "kmeans"),
    "ups": Row("UPS", "ups"),
    "random_clusters": Row("random clusters", "random_clusters", is_control=True),
    "one_style": Row("tuned, one style", "one_style"),
    "templates": Row("templates (textual hints)", writes="templates"),
    "static_sampled": Row("static, temperature 1", writes="sampled", is_control=True),
    "random_prompts": Row("untrained random prompts", "both", writes="random_prompts", is_control=True),
    "one_caption": Row("KMeans + UPS, one caption an image", "both", writes="first_of_both", is_control=True),
}
# In the order in which they are shown.
SHOWN = (
    "none",
    "static",
    "static_sampled",
    "templates",
    "one_style",
    "kmeans",
    "ups",
    "both",
    "random_prompts",
    "random_clusters",
    "one_caption",
    "ceiling",
)
# Paired differences: of all rows against `static`, and of `both` against each of these.
REFERENCE, HERO = "static", "both"
AGAINST_HERO = (
    "kmeans",
    "ups",
    "one_style",
    "templates",
    "static_sampled",
    "random_prompts",
    "random_clusters",
    "one_caption",
    "ceiling",
)
