"""Readers, packed strings, the caption cache and `verify`, on hand-written trees and on deliberately broken ones."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ham.datasets import (
    PackedStrings,
    annotation_files,
    base,
    cli,
    contiguous_labels,
    image_root,
    open_captions,
    read_dataset,
)
from ham.records import PersonImage
from ham.runtime import UsageError

ROWS = {
    "CUHK-PEDES": (
        "reid_raw.json",
        [
            {
                "split": "train",
                "file_path": "cam_a/1.png",
                "id": 1,
                "captions": ["A man.", "A tall man."],
                "tokens": [],
            },
            {"split": "validation", "file_path": "cam_a\\2.png", "id": 2, "captions": ["A woman."]},
            {"split": "test", "file_path": "cam_b/3.png", "id": 9, "captions": ["A child."]},
        ],
    ),
    "ICFG-PEDES": (
        "ICFG_PEDES.json",
        [
            {
                "split": "train",
                "file_path": "test/0001/a.jpg",
                "id": 0,
                "captions": ["One."],
                "processed_tokens": [["one"]],
            },
            {"split": "test", "file_path": "train/0002/b.jpg", "id": 5, "captions": ["Two."]},
        ],
    ),
    "RSTPReid": (
        "data_captions.json",
        [
            {"id": 0, "img_path": "0000_c1_1.jpg", "captions": ["A.", "B."], "split": "train"},
            {"id": 7, "img_path": "0007_c1_1.jpg", "captions": ["C.", "D."], "split": "val"},
            {"id": 8, "img_path": "0008_c1_1.jpg", "captions": ["E.", "F."], "split": "test"},
        ],
    ),
    "SYNTH-PEDES": (
        "synthpedes_dataset.json",
        [
            {
                "id": 3,
                "file_path": "Part1/3/0.jpg",
                "attributes": ["man"],
                "captions": ["G."],
                "prompt_caption": ["H."],
            },
            {
                "id": 4,
                "file_path": "Part2/4/1.jpg",
                "attributes": [],
                "captions": ["I.", "J."],
                "prompt_caption": [],
            },
        ],
    ),
    "LuPerson-MLLM": ("part_a.json", {"LUP/a.jpg": "K.", "LUP/b.jpg": "L."}),
    "HAM-PEDES": ("captions.json", {"Part1/3/0.jpg": ["M.", "N."], "Part2/4/1.jpg": ["O."]}),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data root with all six datasets and small images."""
    for name, (file, rows) in ROWS.items():
        write_tree(tmp_path, name, file, rows)
    return tmp_path


def write_tree(root: Path, name: str, file: str, rows: list | dict) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / file).write_text(json.dumps(rows))
    if name != "HAM-PEDES":
        folder = root / name if name == "SYNTH-PEDES" else root / name / "imgs"
        for path in (
            rows if isinstance(rows, dict) else [row.get("file_path", row.get("img_path")) for row in rows]
        ):
            image = folder / path.replace("\\", "/")
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((24, 48), 60).convert("RGB").save(image)


# ---------------------------------------------------------------------------------------------------------------- readers


def test_cuhk_counts_any_other_split_as_val(root: Path) -> None:
    assert read_dataset(root, "CUHK-PEDES") == [
        PersonImage("cam_a/1.png", 1, ("A man.", "A tall man."), "train"),
        PersonImage("cam_a/2.png", 2, ("A woman.",), "val"),
        PersonImage("cam_b/3.png", 9, ("A child.",), "test"),
    ]


def test_icfg_splits_by_annotation_and_not_by_folder(root: Path) -> None:
    (train,) = read_dataset(root, "ICFG-PEDES", "train")
    assert train == PersonImage("test/0001/a.jpg", 0, ("One.",), "train")


def test_rstp_reads_img_path(root: Path) -> None:
    assert [record.image_path for record in read_dataset(root, "RSTPReid", "val")] == ["0007_c1_1.jpg"]


def test_synth_is_all_training_and_ignores_prompt_captions(root: Path) -> None:
    assert read_dataset(root, "SYNTH-PEDES")[1] == PersonImage("Part2/4/1.jpg", 4, ("I.", "J."), "train")


def test_luperson_merges_its_files(root: Path) -> None:
    (root / "LuPerson-MLLM/part_b.json").write_text(json.dumps({"LUP/b.jpg": "P.", "LUP/c.jpg": "Q."}))
    assert {record.image_path: record.captions for record in read_dataset(root, "LuPerson-MLLM")} == {
        "LUP/a.jpg": ("K.",),
        "LUP/b.jpg": ("L.", "P."),
        "LUP/c.jpg": ("Q.",),
    }
    assert {record.person_id for record in read_dataset(root, "LuPerson-MLLM")} == {-1}


def test_ham_takes_identities_and_images_from_synth(root: Path) -> None:
    assert [record.person_id for record in read_dataset(root, "HAM-PEDES")] == [3, 4]
    assert image_root(root, "HAM-PEDES") == root / "SYNTH-PEDES"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("CUHK-PEDES", "caption_all.json"),
        ("ICFG-PEDES", "ICFG-PEDES.json"),
        ("ICFG-PEDES", "ICFG-PDES.json"),
        ("HAM-PEDES", "anything.json"),
    ],
)
def test_every_annotation_name_is_found(root: Path, name: str, variant: str) -> None:
    before = read_dataset(root, name)
    (root / name / ROWS[name][0]).rename(root / name / variant)
    assert annotation_files(root, name) == [root / name / variant]
    assert read_dataset(root, name) == before


def test_labels_are_contiguous_and_sorted() -> None:
    labels, mapping = contiguous_labels([90, 7, 90, 12])
    assert labels.tolist() == [2, 0, 2, 1]
    assert mapping == {7: 0, 12: 1, 90: 2}
    assert contiguous_labels(["b", "a"])[0].tolist() == [1, 0]


# -------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"img_path": None}, r"record 1: 'img_path' is None; expected a path"),
        ({"id": "7"}, r"record 1: 'id' is '7'; expected a whole number"),
        ({"id": True}, r"record 1: 'id' is True"),
        ({"captions": "C."}, r"record 1: 'captions' is 'C.'; expected a list of strings"),
        ({"captions": ["C.", 4]}, r"record 1: 'captions' is \['C.', 4\]"),
        ({"split": 3}, r"record 1: 'split' is 3; expected train, val or test"),
    ],
)
def test_malformed_record_is_named(root: Path, change: dict, said: str) -> None:
    file = root / "RSTPReid/data_captions.json"
    rows = json.loads(file.read_text())
    rows[1].update(change)
    file.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=r"data_captions\.json, " + said):
        read_dataset(root, "RSTPReid")


def test_missing_key_lists_the_keys_found(root: Path) -> None:
    (root / "RSTPReid/data_captions.json").write_text(json.dumps([{"id": 1, "file_path": "a.jpg"}]))
    with pytest.raises(
        UsageError, match=r"record 0: no key 'img_path' \(a path\); found the keys \['file_path', 'id'\]"
    ):
        read_dataset(root, "RSTPReid")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("CUHK-PEDES", "{}", "expected a JSON list of records, found dict"),
        ("CUHK-PEDES", "[1]", "record 0: no key 'file_path' .*found int"),
        ("CUHK-PEDES", "[{", "not valid JSON"),
        ("HAM-PEDES", "[]", "expected a JSON object of image path to captions, found list"),
        ("HAM-PEDES", '{"a.jpg": 3}', "image 'a.jpg': captions are 3; expected a list of strings"),
        ("HAM-PEDES", '{"a.jpg": ["x", null]}', "image 'a.jpg'"),
    ],
)
def test_malformed_file_is_named(root: Path, name: str, text: str, said: str) -> None:
    file = root / name / ROWS[name][0]
    file.write_text(text)
    with pytest.raises(UsageError, match=f"{file.name}.*{said}"):
        read_dataset(root, name)


@pytest.mark.parametrize("word", ["Train", "TEST", "Val", "training", "gallery", "query", "trian", ""])
@pytest.mark.parametrize("name", ["CUHK-PEDES", "ICFG-PEDES", "RSTPReid"])
def test_unknown_split_word_is_refused_and_never_val(root: Path, name: str, word: str) -> None:
    file = root / name / ROWS[name][0]
    rows = json.loads(file.read_text())
    rows[1]["split"] = word
    file.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=rf"record 1: 'split' is '{word}'; expected train, val or test"):
        read_dataset(root, name, "val" if name != "ICFG-PEDES" else "train")
    with pytest.raises(UsageError, match="record 1: 'split'"):
        cli.main(["verify", str(root), "--dataset", name])


def test_caption_all_without_splits_points_to_reid_raw_and_reads_as_own(root: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "split"} for row in ROWS["CUHK-PEDES"][1]]
    (root / "CUHK-PEDES/reid_raw.json").unlink()
    (root / "CUHK-PEDES/caption_all.json").write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=r"caption_all\.json: no record has the key 'split'.*reid_raw\.json"):
        read_dataset(root, "CUHK-PEDES")
    spec = f"cuhk={root / 'CUHK-PEDES/caption_all.json'}"
    assert [record.split for record in read_dataset(None, spec)] == ["test"] * 3
    assert image_root(None, spec) == root / "CUHK-PEDES/imgs"


def test_negative_identities_are_unknown(root: Path) -> None:
    file = root / "RSTPReid/data_captions.json"
    rows = json.loads(file.read_text())
    rows[0]["id"], rows[1]["id"] = -2, -1
    file.write_text(json.dumps(rows))
    assert [record.person_id for record in read_dataset(root, "RSTPReid")] == [-1, -1, 8]


def test_keys_of_another_machine_are_matched_by_a_known_folder(root: Path) -> None:
    file = root / "LuPerson-MLLM/part_a.json"
    file.write_text(
        json.dumps({"/data0/w/LUPerson_images/x/a.jpg": "K.", "/home/me/b.jpg": "L.", "LUP/c.jpg": "M."})
    )
    found = [record.image_path for record in read_dataset(root, "LuPerson-MLLM")]
    assert found == ["x/a.jpg", "b.jpg", "LUP/c.jpg"]


def test_mals_and_ufine_are_read_as_published(tmp_path: Path) -> None:
    (tmp_path / "MALS/gene_attrs").mkdir(parents=True)
    row = {"image": "gene_crop/c/0.jpg", "caption": "A boy.", "image_id": "c_0", "label": [1, 0]}
    (tmp_path / "MALS/gene_attrs/g_c_attrs.json").write_text(json.dumps([row]))
    assert read_dataset(tmp_path, "MALS") == [PersonImage("gene_crop/c/0.jpg", -1, ("A boy.",), "train")]
    (tmp_path / "UFine6926").mkdir()
    row = {"split": "train", "id": 1, "file_path": "images/1.jpg", "captions": ["A woman.", "She."]}
    (tmp_path / "UFine6926/data.json").write_text(json.dumps([row]))
    assert read_dataset(tmp_path, "UFine6926") == [
        PersonImage("images/1.jpg", 1, ("A woman.", "She."), "train")
    ]
    assert image_root(tmp_path, "UFine6926") == tmp_path / "UFine6926"


def test_person_search_captions_are_cropped_out_of_their_scenes(tmp_path: Path) -> None:
    from scipy.io import savemat

    folder = tmp_path / "PRW-TBPS"
    (folder / "frames").mkdir(parents=True)
    (folder / "annotations").mkdir()
    scene = Image.new("RGB", (60, 60), "white")
    scene.paste((200, 0, 0), (10, 20, 30, 50))
    scene.save(folder / "frames/c1_1.jpg", quality=100)
    boxes = np.array([[7, 10, 20, 20, 30], [-2, 0, 0, 5, 5]], dtype=np.float64)
    savemat(folder / "annotations/c1_1.jpg.mat", {"box_new": boxes})
    row = {"pic_path": "c1_1.jpg", "id": 7, "desrciption": ["A red man.", "Red."]}
    (folder / "PRW-TBPS_test").write_text(json.dumps([row]))
    expected = [PersonImage("c1_1_7.jpg", 7, ("A red man.", "Red."), "test")]
    assert read_dataset(tmp_path, "PRW-TBPS") == expected
    assert cli.main(["crop", str(tmp_path), "--dataset", "PRW-TBPS"]) == 0
    with Image.open(image_root(tmp_path, "PRW-TBPS") / "c1_1_7.jpg") as crop:
        assert crop.size == (20, 30) and crop.getpixel((10, 15))[0] > 180 > crop.getpixel((10, 15))[1]


def test_more_captions_than_two_bytes_count(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"a.jpg": ["x"] * 70_000}))
    assert open_captions(tmp_path / "c.json").counts.tolist() == [70_000]


def test_missing_dataset_tells_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ICFG_PEDES\.json, .*ICFG-PEDES\.json, .*ICFG-PDES\.json"):
        read_dataset(tmp_path, "ICFG-PEDES")
    with pytest.raises(UsageError, match=r"no image folder; looked for .*HAM-PEDES/imgs, .*SYNTH-PEDES"):
        image_root(tmp_path, "HAM-PEDES")


def test_unknown_dataset_and_split_list_the_valid_ones(root: Path) -> None:
    with pytest.raises(UsageError, match="'CUHK' is not known; use one of CUHK-PEDES, ICFG-PEDES"):
        read_dataset(root, "CUHK")
    with pytest.raises(UsageError, match="ICFG-PEDES has no split 'val'; it has train, test"):
        read_dataset(root, "ICFG-PEDES", "val")


# ----------------------------------------------------------------------------------------------------------------- packed


@settings(max_examples=50, deadline=None)
@given(strings=st.lists(st.text(st.characters(codec=None), max_size=12), max_size=12))
def test_packed_strings_equal_the_list(tmp_path_factory: pytest.TempPathFactory, strings: list[str]) -> None:
    packed = PackedStrings.write(tmp_path_factory.mktemp("packed") / "strings", iter(strings))
    assert list(packed) == strings
    assert [packed[index] for index in range(-len(strings), 0)] == strings
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_packed_strings_pickle_as_their_path(tmp_path: Path) -> None:
    packed = PackedStrings.write(
        tmp_path / "strings", (f"a caption, number {number}" for number in range(10_000))
    )
    pickled = pickle.dumps(packed)
    assert len(pickled) < 500
    assert pickle.loads(pickled)[9_999] == "a caption, number 9999"


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 64])
def test_foreign_or_short_file_is_not_packed_strings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "strings").write_bytes(content)
    with pytest.raises(UsageError, match="not a file of packed strings, or cut short"):
        PackedStrings(tmp_path / "strings")


def test_cut_packed_strings_are_refused(tmp_path: Path) -> None:
    PackedStrings.write(tmp_path / "strings", ["one", "two"])
    content = (tmp_path / "strings").read_bytes()
    (tmp_path / "cut").write_bytes(content[16:])
    with pytest.raises(UsageError, match="cut short"):
        PackedStrings(tmp_path / "cut")


# ------------------------------------------------------------------------------------------------------------------ cache


def test_caption_cache_is_used_and_renewed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "HAM-PEDES/captions.json"
    rows = open_captions(file)
    assert list(rows) == [("Part1/3/0.jpg", ("M.", "N.")), ("Part2/4/1.jpg", ("O.",))]
    assert rows.counts.tolist() == [2, 1]
    with monkeypatch.context() as context:
        context.setattr(
            base, "read_captions_json", lambda path: pytest.fail("parsed although the cache is there")
        )
        assert list(open_captions(file)) == list(rows)
    file.write_text(json.dumps({"Part1/3/0.jpg": ["new"]}))
    os.utime(file, ns=(1, 1))
    assert list(open_captions(file)) == [("Part1/3/0.jpg", ("new",))]


def test_caption_cache_elsewhere_merges_files(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    files = [root / "HAM-PEDES/captions.json", root / "LuPerson-MLLM/part_a.json"]
    rows = open_captions(files, folder)
    assert [image for image, _ in rows] == ["Part1/3/0.jpg", "Part2/4/1.jpg", "LUP/a.jpg", "LUP/b.jpg"]
    assert sorted(path.suffix for path in folder.iterdir()) == [".counts", ".packed"]
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)
    assert isinstance(rows.counts, np.ndarray)


def test_missing_caption_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"captions\.json: no such file"):
        open_captions(tmp_path / "captions.json")


def test_cache_is_no_annotation(root: Path) -> None:
    open_captions(annotation_files(root, "HAM-PEDES"))
    assert annotation_files(root, "HAM-PEDES") == [root / "HAM-PEDES/captions.json"]


# ----------------------------------------------------------------------------------------------------------------- verify


def test_verify_accepts_a_sound_tree(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(root)]) == 0
    table = capsys.readouterr().out
    assert "no problems found" in table
    row = next(line.split() for line in table.splitlines() if line.startswith("CUHK-PEDES"))
    assert row[1:] == ["train", "1", "11003", "1", "34054", "2", "68126"]
    assert [line.split()[:2] for line in table.splitlines() if line.startswith("ICFG")] == [
        ["ICFG-PEDES", "train"],
        ["ICFG-PEDES", "test"],
    ]


def damage(root: Path, what: str) -> None:
    file, folder = root / "RSTPReid/data_captions.json", root / "RSTPReid/imgs"
    rows = json.loads(file.read_text())
    if what == "missing images":
        (folder / "0000_c1_1.jpg").unlink()
    elif what == "zero-byte images":
        (folder / "0000_c1_1.jpg").write_bytes(b"")
    elif what == "unreadable images":
        (folder / "0000_c1_1.jpg").write_bytes((folder / "0000_c1_1.jpg").read_bytes()[:-200])
    elif what == "empty captions":
        rows[1]["captions"][0] = "  "
    elif what == "images without a caption":
        rows[1]["captions"] = []
    elif what == "captions given twice to one image":
        rows[1]["captions"] = ["C.", "C."]
    elif what == "identities in several splits":
        rows[1]["id"] = 8
    elif what == "image paths that leave the image folder":
        rows[1]["img_path"] = "../imgs/0007_c1_1.jpg"
    file.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    "what",
    [
        "missing images",
        "zero-byte images",
        "unreadable images",
        "empty captions",
        "images without a caption",
        "captions given twice to one image",
        "identities in several splits",
        "image paths that leave the image folder",
    ],
)
def test_verify_finds(root: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    damage(root, what)
    assert cli.main(["verify", str(root), "--dataset", "RSTPReid"]) == 1
    report = capsys.readouterr().out
    assert f"RSTPReid: PROBLEM: 1 {what}" in report
    assert report.rstrip().endswith("1 problem found")


def test_verify_caps_the_list_and_notes_shared_captions(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": 0, "img_path": f"{number}.jpg", "captions": ["A man."], "split": "train"}
        for number in range(30)
    ]
    (root / "RSTPReid/data_captions.json").write_text(json.dumps(rows))
    assert cli.main(["verify", str(root), "--dataset", "RSTPReid"]) == 1
    report = capsys.readouterr().out
    assert (
        "PROBLEM: 30 missing images" in report
        and "... and 20 more" in report
        and "30 problems found" in report
    )
    assert "note: 1 captions shared by several images\n    30 images: A man." in report


def test_verify_refuses_an_empty_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no dataset; looked for the folders CUHK-PEDES"):
        cli.main(["verify", str(tmp_path)])
    with pytest.raises(UsageError, match="no such folder"):
        cli.main(["verify", str(tmp_path / "absent")])


def test_command_line_ends_with_an_exit_code(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ham.datasets", "verify", str(root), "--dataset", "ICFG-PEDES"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "no problems found")
    run = subprocess.run(
        [sys.executable, "-m", "ham.datasets", "verify", str(root / "absent")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2 and run.stderr.startswith("error: ") and "no such folder" in run.stderr


@pytest.mark.slow
def test_bench_prints_parent_and_workers(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts/bench/records.py"
    run = subprocess.run(
        [sys.executable, str(script), "--images", "500", "--workers", "2", "--out", str(tmp_path / "r.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads((tmp_path / "r.json").read_text())
    assert len(figures["workers"]) == 2 and figures["parent"]["images"] == 500
    assert "worker 1, 50 random rows" in run.stdout
