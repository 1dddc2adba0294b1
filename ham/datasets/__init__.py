"""Person datasets: one reader per annotation format, packed captions, and `python -m ham.datasets verify`."""

from ham.datasets.packed import PackedCaptions, PackedStrings, open_captions
from ham.datasets.readers import (
    LAYOUTS,
    Layout,
    annotation_files,
    contiguous_labels,
    image_root,
    person_of_path,
    read_captions_json,
    read_dataset,
)

__all__ = [
    "LAYOUTS",
    "Layout",
    "PackedCaptions",
    "PackedStrings",
    "annotation_files",
    "contiguous_labels",
    "image_root",
    "open_captions",
    "person_of_path",
    "read_captions_json",
    "read_dataset",
]
