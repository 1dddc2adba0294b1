"""Datasets of one's own (NAME=PATH) in every format, the template, and what is said about malformed ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from ham.datasets import annotation_files, check_names, image_prefix, image_root, read_dataset
from ham.datasets.cli import main
from ham.records import PersonImage
from ham.runtime import UsageError

ROWS = [
    {"image": "a/1.jpg", "captions": ["A man.", "A tall man."], "identity": 7, "split": "train"},
    {"image": "b/2.jpg", "captions": ["A woman."], "identity": 9, "split": "test"},
    {"image": "b/3.jpg", "captions": [], "identity": 9, "split": "test"},
]
RECORDS = [
    PersonImage("a/1.jpg", 7, ("A man.", "A tall man."), "train"),
    PersonImage("b/2.jpg", 9, ("A woman.",), "test"),
    PersonImage("b/3.jpg", 9, (), "test"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row in ROWS:
        path = tmp_path / "own/imgs" / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((24, 48), 60).convert("RGB").save(path)
    return tmp_path / "own"


def write(folder: Path, kind: str, rows: list[dict]) -> None:
    if kind == "json":
        (folder / "data.json").write_text(json.dumps(rows))
    elif kind == "jsonl":
        (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        separator = {"csv": ",", "semicolon": ";", "tsv": "\t"}[kind]
        with (folder / f"data.{'tsv' if kind == 'tsv' else 'csv'}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow(["image", "caption", "identity", "split"])
            for row in rows:
                for caption in row["captions"] or [""]:
                    writer.writerow([row["image"], caption, row["identity"], row["split"]])


# ---------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "semicolon", "tsv"])
def test_every_format_gives_the_same_records(folder: Path, kind: str) -> None:
    write(folder, kind, ROWS)
    assert read_dataset(None, f"mine={folder}") == RECORDS
    assert read_dataset(None, f"mine={folder}", "test") == RECORDS[1:]
    assert image_root(None, f"mine={folder}") == folder / "imgs"
    (file,) = annotation_files(None, f"mine={folder}")
    assert read_dataset(None, f"mine={file}") == RECORDS


def test_byte_order_mark_and_capital_headers_are_read(folder: Path) -> None:
    (folder / "data.csv").write_text("\ufeffImage,Caption\nb/2.jpg,A woman.\n", encoding="utf-8")
    assert read_dataset(None, f"mine={folder}") == [PersonImage("b/2.jpg", 0, ("A woman.",), "test")]


@pytest.mark.parametrize("image_key", ["file_path", "img_path"])
def test_irra_lists_are_read_under_either_key(folder: Path, image_key: str) -> None:
    rows = [
        {
            image_key: row["image"],
            "captions": row["captions"],
            "id": row["identity"],
            "split": row["split"],
            "processed_tokens": [],
        }
        for row in ROWS
    ]
    (folder / "data.json").write_text(json.dumps(rows))
    assert read_dataset(None, f"mine={folder}") == RECORDS


def test_caption_map_has_one_person_an_image_and_is_all_test(folder: Path) -> None:
    (folder / "captions.json").write_text(json.dumps({"a/1.jpg": ["A man."], "b/2.jpg": "A woman."}))
    assert read_dataset(None, f"mine={folder}", "test") == [
        PersonImage("a/1.jpg", 0, ("A man.",), "test"),
        PersonImage("b/2.jpg", 1, ("A woman.",), "test"),
    ]


def test_words_as_identities_are_numbered_and_missing_ones_are_the_image(folder: Path) -> None:
    (folder / "data.csv").write_text(
        "image,caption,identity\na/1.jpg,One.,anna\nb/2.jpg,Two.,\nb/3.jpg,Three.,anna\na/1.jpg,Four.,anna\n"
    )
    records = read_dataset(None, f"mine={folder}")
    assert [record.person_id for record in records] == [0, 1, 0]
    assert records[0].captions == ("One.", "Four.")


def test_settings_choose_columns_images_and_paths_of_another_machine(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("datei,satz,notiz\n/data0/x/crops/b/2.jpg,A woman.,x\n")
    settings = ["annotation: list.csv", "images: imgs", "image: datei", "caption: satz"]
    for more in ("strip_prefix: /data0/x/crops", "after_folder: crops"):
        (folder / "dataset.yaml").write_text("\n".join([*settings, more]))
        for spec in (f"mine={folder}", f"mine={folder / 'dataset.yaml'}"):
            assert [record.image_path for record in read_dataset(None, spec)] == ["b/2.jpg"]
    assert image_prefix(tmp_path, f"mine={folder}") == "own/imgs"
    with pytest.raises(UsageError, match="not below"):
        image_prefix(folder / "imgs/a", f"mine={folder}")


def test_an_edited_annotation_is_read_again(folder: Path) -> None:
    write(folder, "csv", ROWS)
    assert len(read_dataset(None, f"mine={folder}")) == 3
    write(folder, "csv", ROWS[:1])
    assert len(read_dataset(None, f"mine={folder}")) == 1


# -------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "d.csv",
            "foto,caption\na,b\n",
            r"d\.csv, line 2: no column for the image; found \['foto', 'caption'\]",
        ),
        ("d.csv", "image,notes\na,b\n", r"line 2: no column for the caption; found .* expected one of"),
        ("d.csv", "image,file_path,caption\na,b,c\n", "'image' and 'file_path' could each be the image"),
        ("d.csv", "image,caption,text\na,b,c\n", "'caption' and 'text' could each be the caption"),
        ("d.csv", "image,image,caption\na,b,c\n", "line 1: the column 'image' is there twice"),
        ("d.csv", "image,caption\na,b, c\n", "line 2: 3 cells for 2 columns; .* in double quotes"),
        ("d.csv", "image,caption,split\na,b\n", "line 2: fewer cells than the 3 columns"),
        ("d.csv", "image,caption\n,b\n", "line 2: 'image' is ''; expected an image path"),
        ("d.csv", "image,caption,split\na,b,Test\n", "line 2: 'split' is 'Test'; .* did you mean 'test'"),
        ("d.csv", "image,caption,split\na,b,test\nc,d,\n", "line 3: no split, though other images have one"),
        (
            "d.csv",
            "image,caption,identity\na,b,1\na,c,2\n",
            "line 3: image 'a' has identity '2', but '1' at .* line 2",
        ),
        (
            "d.csv",
            "image,caption,split\na,b,test\na,c,train\n",
            "line 3: image 'a' has split 'train', but 'test'",
        ),
        ("d.csv", "", "holds no record"),
        ("d.jsonl", '{"image": "a", "caption": "b"}\n{"image"\n', r"d\.jsonl, line 2: not valid JSON"),
        ("d.jsonl", "[1]\n", "line 1: expected an object with keys, found list"),
        ("d.json", '[{"image": "a", "captions": [1]}]', "record 0: 'captions' is .* a list of sentences"),
        ("d.json", '[{"image": 3, "caption": "b"}]', "record 0: 'image' is 3; expected an image path"),
        ("d.json", '[{"image": "a", "caption": "b", "id": 1.5}]', "record 0: 'id' is 1.5"),
        ("d.json", '{"images": [], "annotations": []}', "expected {image: .*COCO"),
        ("d.json", '{"data": [{"image": "a"}]}', r"found an object with the keys \['data'\]"),
        ("d.json", "3", "expected a JSON list or object, found int"),
    ],
)
def test_malformed_annotation_is_named(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_dataset(None, f"mine={folder}")


def test_latin1_table_is_named(folder: Path) -> None:
    (folder / "d.csv").write_bytes("image,caption\na,ein Mädchen\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"d\.csv: not UTF-8"):
        read_dataset(None, f"mine={folder}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("bilder: imgs", "'bilder' is not known; the keys are annotation, images"),
        ("images: nowhere", "images: .*nowhere: no such folder"),
        ("annotation: no.csv", r"no\.csv: no such file"),
        ("caption: satz", "no column 'satz'"),
        ("images: [1]", "'images' is .*; expected text"),
        ("images: [", "not valid YAML"),
    ],
)
def test_malformed_settings_are_named(folder: Path, settings: str, said: str) -> None:
    write(folder, "csv", ROWS)
    (folder / "dataset.yaml").write_text(settings)
    with pytest.raises(UsageError, match=said):
        read_dataset(None, f"mine={folder}")


def test_unclear_places_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no annotation .* template"):
        read_dataset(None, f"mine={folder}")
    write(folder, "csv", ROWS)
    write(folder, "json", ROWS)
    with pytest.raises(UsageError, match=r"several annotations \(data\.csv, data\.json\)"):
        read_dataset(None, f"mine={folder}")
    with pytest.raises(UsageError, match="no such file or folder"):
        read_dataset(None, f"mine={tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="expected NAME=PATH"):
        read_dataset(None, "=x")
    with pytest.raises(UsageError, match="two datasets are called 'mine'"):
        check_names([f"mine={folder}", f"mine={tmp_path}"])


# --------------------------------------------------------------------------------------------------- template and verify


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_template_lists_every_image_and_reads_back(folder: Path, tmp_path: Path, kind: str) -> None:
    new = tmp_path / "new set"
    assert main(["template", str(new), "--images", str(folder / "imgs"), "--format", kind]) == 0
    records = read_dataset(None, f"mine={new}")
    assert [record.image_path for record in records] == ["a/1.jpg", "b/2.jpg", "b/3.jpg"]
    assert {record.split for record in records} == {"test"} and not any(record.captions for record in records)
    assert image_root(None, f"mine={new}").resolve() == folder / "imgs"
    with pytest.raises(UsageError, match="is there already and is not overwritten"):
        main(["template", str(new), "--images", str(folder / "imgs")])


def test_template_refuses_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        main(["template", str(tmp_path / "new"), "--images", str(tmp_path / "no")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image found"):
        main(["template", str(tmp_path / "new"), "--images", str(tmp_path / "empty")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["folder", "spec", "option"])
def test_verify_reads_an_own_folder_and_images_without_captions_are_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    write(folder, "csv", ROWS)
    words = {
        "folder": [str(folder)],
        "spec": [f"own={folder}"],
        "option": [str(folder), "--dataset", f"own={folder}"],
    }
    assert main(["verify", *words[form]]) == 0
    report = capsys.readouterr().out
    assert "own: note: 1 images without a caption" in report and "no problems found" in report


def test_verify_puts_the_serious_first_and_names_a_missing_folder_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**ROWS[0], "image": f"gone/{number}.jpg"} for number in range(30)]
    bare = [{**ROWS[2], "image": "b/2.jpg"}, ROWS[2], {**ROWS[1], "image": "a/1.jpg", "captions": ["  "]}]
    write(folder, "json", [*bare, *rows, {**ROWS[1], "image": "b/none.jpg"}])
    assert main(["verify", str(folder)]) == 1
    report = capsys.readouterr().out
    assert f"PROBLEM: 1 missing image folders\n    {folder / 'imgs/gone'}: 30 images" in report
    assert report.count("imgs/gone") == 1 and "gone/7.jpg" not in report
    order = ["missing image folders", "1 missing images", "empty captions", "without a caption"]
    assert [report.index(words) for words in order] == sorted(report.index(words) for words in order)


def test_verify_finds_a_wrong_prefix(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "json", [{**row, "image": f"data0/other/{row['image']}"} for row in ROWS])
    assert main(["verify", str(folder)]) == 1
    assert "set `strip_prefix: data0/other/`" in capsys.readouterr().out
    (folder / "dataset.yaml").write_text("strip_prefix: data0/other/")
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize("path", ["x" * 5000 + ".jpg", "a/" * 3000 + "b.jpg", "zero\0byte.jpg", "\ud800.jpg"])
def test_verify_survives_paths_that_no_file_system_takes(
    folder: Path, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    from ham.datasets.readers import DATASETS
    from ham.datasets.verify import find_problems, report_of

    found = find_problems([PersonImage(path, 1, ("A man.",), "test"), *RECORDS], folder / "imgs")
    assert "unreadable images" not in found and "images without a caption" in found
    text = "".join(report_of("CUHK-PEDES", "PROBLEM", kind, items, 10) for kind, items in found.items())
    assert len(text) < 3000 and DATASETS


def test_verify_says_what_is_ambiguous(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "imgs/a/2.jpg").write_bytes((folder / "imgs/b/2.jpg").read_bytes())
    rows = [*ROWS, {"image": "a/2.jpg", "captions": ["x"], "identity": 9, "split": "train"}]
    write(folder, "json", rows)
    assert main(["verify", str(folder)]) == 1
    report = capsys.readouterr().out
    assert "note: 1 file names in several folders\n    2.jpg: b/2.jpg, a/2.jpg" in report
    assert "PROBLEM: 1 identities in several splits\n    id 9: test, train" in report
