"""The rows of the table: where the captions of each come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One source of captions.

    Attributes:
        label: name in tables and plots
        source: how the captions are made (captions.py); "" for none
        clustering: the style clusters of the tuned captioner that writes them; None: the captioner is not tuned
        captions_of: another row; the first caption of each of its images is used
        is_control: not a row of the paper's Table 1
        paper: Rank-1 of direct transfer on CUHK-PEDES, ICFG-PEDES and RSTPReid in the paper's ablation of its captions
    """

    label: str
    source: str
    clustering: str | None = None
    captions_of: str | None = None
    is_control: bool = False
    paper: tuple[float, float, float] | None = None


CLUSTERINGS = ("one_style", "kmeans", "ups", "both", "random_clusters")

# In the order of the tables. `one_style` is the paper's adapter tuned on human captions as templates.
ROWS: dict[str, Row] = {
    "none": Row("no pretraining", ""),
    "static": Row("static, untuned, greedy", "static", paper=(36.60, 21.38, 39.75)),
    "static_sampled": Row("static, temperature 1", "sampled", is_control=True),
    "templates": Row("templates (textual hints)", "templates", paper=(39.73, 23.51, 39.95)),
    "one_style": Row("tuned, one style", "styles", "one_style", paper=(42.99, 24.59, 38.55)),
    "kmeans": Row("KMeans", "styles", "kmeans", paper=(52.19, 28.26, 44.65)),
    "ups": Row("UPS", "styles", "ups", paper=(54.53, 30.57, 45.40)),
    "both": Row("KMeans + UPS", "styles", "both", paper=(55.34, 31.89, 46.05)),
    "random_prompts": Row("untrained random prompts", "random_prompts", "both", is_control=True),
    "random_clusters": Row("random clusters", "styles", "random_clusters", is_control=True),
    "one_caption": Row(
        "KMeans + UPS, one caption an image", "styles", "both", captions_of="both", is_control=True
    ),
    "ceiling": Row("true human captions (ceiling)", "humans", is_control=True),
}
# Paired differences: every row minus `static`, and `both` minus every other row.
REFERENCE, HERO = "static", "both"
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
