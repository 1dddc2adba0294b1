"""The human-annotated benchmarks of person crops.

    name           split   ids / images / captions      layout below the data root
    CUHK-PEDES     train   11003 / 34054 / 68126        CUHK-PEDES/imgs/..., reid_raw.json
                   val      1000 /  3078 /  6158        (9 images have more than two captions; ids count from 1)
                   test     1000 /  3074 /  6156
    ICFG-PEDES     train    3102 / 34674 / 34674        ICFG-PEDES/imgs/..., ICFG_PEDES.json, ICFG-PEDES.json or ICFG-PDES.json
                   test     1000 / 19848 / 19848        (`train` and `test` inside imgs are MSMT17's folders, not the split)
    RSTPReid       train    3701 / 18505 / 37010        RSTPReid/imgs/..., data_captions.json
                   val       200 /  1000 /  2000
                   test      200 /  1000 /  2000
    UFine6926      in all   6926 / 26206 / 52412        UFine6926/images/..., one JSON list

ICFG-PEDES and RSTPReid both come from MSMT17, so the same persons may be in both, in different splits.
Source of UFine6926's record format: its README at github.com/Zplusdragon/UFineBench. The name of its JSON file is not
published there, so that any single *.json in the folder is read.
"""

from __future__ import annotations

from functools import partial

from ham.datasets.base import PersonDataset, read_record_list

NO_SPLIT = (
    "the authors' caption_all.json has none. Take reid_raw.json, which comes with the images and has the splits; or read "
    "this file as a test set without splits: cuhk=PATH/caption_all.json in place of CUHK-PEDES"
)

CUHK_PEDES = PersonDataset(
    "CUHK-PEDES",
    ("reid_raw.json", "caption_all.json"),
    partial(read_record_list, image_key="file_path", no_split_hint=NO_SPLIT),
    {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    ("CUHK-PEDES/imgs",),
)
ICFG_PEDES = PersonDataset(
    "ICFG-PEDES",
    ("ICFG_PEDES.json", "ICFG-PEDES.json", "ICFG-PDES.json"),
    partial(read_record_list, image_key="file_path"),
    {"train": (3102, 34674, 34674), "test": (1000, 19848, 19848)},
    ("ICFG-PEDES/imgs",),
)
RSTPREID = PersonDataset(
    "RSTPReid",
    ("data_captions.json",),
    partial(read_record_list, image_key="img_path"),
    {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
    ("RSTPReid/imgs",),
)
UFINE6926 = PersonDataset(
    "UFine6926",
    ("*.json",),
    partial(read_record_list, image_key="file_path"),
    {"train": ("?", "?", "?"), "val": ("?", "?", "?"), "test": ("?", "?", "?")},
    ("UFine6926/imgs", "UFine6926"),
)
