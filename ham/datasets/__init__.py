"""Person datasets: published ones by name, one's own as NAME=PATH, packed captions and images, `python -m ham.datasets`."""

from ham.datasets.base import UNKNOWN, PersonDataset, read_captions_json
from ham.datasets.packed import PackedCaptions, PackedStrings, open_captions
from ham.datasets.pretraining import person_of_path
from ham.datasets.readers import (
    BENCHMARKS,
    DATASETS,
    annotation_files,
    check_names,
    contiguous_labels,
    display_name,
    image_prefix,
    image_root,
    needs_root,
    read_dataset,
)

__all__ = [
    "BENCHMARKS",
    "DATASETS",
    "UNKNOWN",
    "PackedCaptions",
    "PackedStrings",
    "PersonDataset",
    "annotation_files",
    "check_names",
    "contiguous_labels",
    "display_name",
    "image_prefix",
    "image_root",
    "needs_root",
    "open_captions",
    "person_of_path",
    "read_captions_json",
    "read_dataset",
]
