"""PRW-TBPS and CUHK-SYSU-TBPS: captions of persons in whole scenes, read as crops.

The two sets are published for person *search*: scenes with boxes. Their captions are JSON lists of {pic_path, id, desrciption}
(spelt so), files `<NAME>_train` and `<NAME>_test` with or without `.json`. Retrieval needs crops: `python -m ham.datasets crop
ROOT --dataset PRW-TBPS` cuts the captioned boxes out of the scenes once, into `imgs/<scene>_<id>.jpg`.

    PRW-TBPS/        frames/*.jpg, annotations/<scene>.jpg.mat (rows: id, x, y, width, height), PRW-TBPS_train, PRW-TBPS_test
    CUHK-SYSU-TBPS/  Image/SSM/*.jpg, annotation/test/train_test/{Train,TestG50}.mat, CUHK-SYSU-TBPS_train, CUHK-SYSU-TBPS_test

Source: the loaders of github.com/AmoAonA/VLM-TBPS (psd2/data/catalog). deviation: the published protocol ranks detections in
scenes; here the gallery is the captioned ground-truth crops, so figures are not comparable with person-search papers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ham.datasets.base import PersonDataset, check_captions, person_id, read_field, read_list, slashes
from ham.images import open_image
from ham.records import PersonImage, atomic_write, read_json
from ham.runtime import UsageError, log, progress

SCENES = {"PRW-TBPS": "frames", "CUHK-SYSU-TBPS": "Image/SSM"}
Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def read_person_search(files: Sequence[Path]) -> list[PersonImage]:
    """Read `<NAME>_train` and `<NAME>_test`. Image paths are those of the crops."""
    records = []
    for file in files:
        split = "train" if "train" in file.name.lower() else "test"
        rows = read_list(file)
        for index, row in enumerate(rows):
            where = f"{file}, record {index}"
            scene = read_field(row, "pic_path", str, "the scene's file name", where)
            person = read_field(row, "id", int, "a whole number", where)
            key = "desrciption" if isinstance(row, dict) and "desrciption" in row else "description"
            captions = check_captions(read_field(row, key, list, "a list of strings", where), where)
            records.append(PersonImage(crop_name(scene, person), person_id(person), captions, split))
    return records


def crop_name(scene: str, person: int) -> str:
    return f"{Path(slashes(scene)).stem}_{person}.jpg"


def crop_scenes(root: Path, name: str, quality: int = 95) -> int:
    """Cut the captioned persons of PRW-TBPS or CUHK-SYSU-TBPS out of their scenes; return how many crops are there.

    Existing crops are kept, so that the same command resumes. A scene that cannot be read is logged and left out.
    """
    if name not in SCENES:
        raise UsageError(f"'{name}' has no scenes to crop; use one of {', '.join(SCENES)}")
    folder = Path(root, name)
    wanted = {(row["pic_path"], row["id"]) for file in _annotations(folder) for row in read_json(file)}
    boxes = _prw_boxes if name == "PRW-TBPS" else _sysu_boxes
    done = 0
    for scene, person, box in progress(boxes(folder, wanted), len(wanted), f"crops of {name}", "crop"):
        out = folder / "imgs" / crop_name(scene, person)
        if not out.exists():
            try:
                image = open_image(folder / SCENES[name] / scene)
            except Exception as error:
                log.warning("%s", error)
                continue
            x, y, width, height = box
            crop = image.crop((max(x, 0), max(y, 0), x + width, y + height))
            with atomic_write(out, "wb") as file:
                crop.save(file, "JPEG", quality=quality)
        done += 1
    log.info("%s: %d of %d captioned persons cropped into %s", name, done, len(wanted), folder / "imgs")
    return done


def _annotations(folder: Path) -> list[Path]:
    found = [path for pattern in _patterns(folder.name) for path in sorted(folder.glob(pattern))]
    if not found:
        raise UsageError(f"{folder}: no annotation; looked for {', '.join(_patterns(folder.name))}")
    return found


def _patterns(name: str) -> tuple[str, ...]:
    return (f"{name}_train", f"{name}_train.json", f"{name}_test", f"{name}_test.json")


def _prw_boxes(folder: Path, wanted: set[tuple[str, int]]) -> Iterator[tuple[str, int, Box]]:
    for scene in sorted({scene for scene, _ in wanted}):
        tables = _load_mat(folder / "annotations" / f"{scene}.mat")
        rows = tables[sorted(tables)[-1]]
        for row in np.asarray(rows):
            if (scene, int(row[0])) in wanted:
                x, y, width, height = (int(value) for value in row[1:5])
                yield scene, int(row[0]), (x, y, width, height)


def _sysu_boxes(folder: Path, wanted: set[tuple[str, int]]) -> Iterator[tuple[str, int, Box]]:
    tables = folder / "annotation" / "test" / "train_test"
    seen = set()
    for item in _load_mat(tables / "Train.mat")["Train"].squeeze():
        person = int(str(item[0, 0][0][0])[1:])
        for scene, box, _ in item[0, 0][2].squeeze():
            seen.add((str(scene[0]), person, tuple(int(value) for value in box.squeeze())))
    for item in _load_mat(tables / "TestG50.mat")["TestG50"].squeeze():
        query = item["Query"][0, 0]
        person = int(str(query[3][0])[1:])
        seen.add((str(query[0][0]), person, tuple(int(value) for value in query[1].squeeze())))
    for scene, person, box in sorted(seen):
        if (scene, person) in wanted:
            yield scene, person, box


def _load_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        return loadmat(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected the box annotations of the original set") from None
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise UsageError(f"{path}: not a readable .mat file: {error}") from None


def _dataset(name: str, published: dict) -> PersonDataset:
    # one pattern that matches both files: their split is in the file name
    return PersonDataset(name, (f"{name}_t*",), read_person_search, published, (f"{name}/imgs",))


PRW_TBPS = _dataset("PRW-TBPS", {"train": ("?", "?", "?"), "test": ("?", "?", "?")})
CUHK_SYSU_TBPS = _dataset("CUHK-SYSU-TBPS", {"train": ("?", "?", "?"), "test": ("?", "?", "?")})
