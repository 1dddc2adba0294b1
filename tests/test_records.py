from __future__ import annotations

import json
import os

import pytest

from ham.records import (
    CaptionRow,
    atomic_write,
    check_int,
    check_kind,
    from_dict,
    path_below,
    read_json,
    read_jsonl,
    read_text,
    to_json_line,
    write_json,
    write_jsonl,
)
from ham.runtime import UsageError


def test_atomic_write_leaves_the_old_file_and_no_litter_when_the_block_fails(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"kept": True})
    with pytest.raises(RuntimeError), atomic_write(target) as file:
        file.write("half")
        raise RuntimeError("disk pulled out")
    assert read_json(target) == {"kept": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_atomic_write_gives_an_ordinary_files_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_json(tmp_path / "ours", 1)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        CaptionRow("a/b.jpg", "Ein Mann\u2028 naïve", 3, 0, "accepted"),
        CaptionRow("c.jpg", "", None, 0, "failed", "truncated"),
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [from_dict(CaptionRow, row, "rows.jsonl") for row in read_jsonl(tmp_path / "rows.jsonl")] == rows


def test_one_row_is_one_line():
    assert to_json_line({"caption": "two\nlines"}).count("\n") == 1


def test_broken_lines_name_file_and_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UsageError, match=r"x\.jsonl, line 2"):
        list(read_jsonl(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"",
        b'{"a": "\xe4"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"\x80",
    ],
)
def test_broken_json_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.json: not valid JSON"):
        read_json(tmp_path / "x.json")


def test_missing_key_is_named():
    with pytest.raises(UsageError, match=r"shard 3, line 9: not a CaptionRow.*status"):
        from_dict(CaptionRow, {"image": "a", "caption": "b", "style_id": 1, "attempt": 0}, "shard 3, line 9")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:\\x", "", "a\0b"])
def test_paths_stay_below_their_root(tmp_path, path):
    with pytest.raises(UsageError, match="leaves its root"):
        path_below(tmp_path, path)


def test_backslashes_are_folders(tmp_path):
    assert path_below(tmp_path, "cam\\1.jpg") == tmp_path / "cam" / "1.jpg"


def test_json_is_utf8_text(tmp_path):
    write_json(tmp_path / "x.json", {"ä": "ö"})
    assert "ä" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ä": "ö"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('["\\ud800.jpg"]', "record 0"),
        ('{"a.jpg": ["x", "\\uD83D"]}', "record a.jpg/1"),
        ('{"\\udc00": 1}', "record /key"),
        ('[{"image": "a", "caption": "half \\ud83d"}]', "record 0/caption"),
    ],
)
def test_half_surrogate_pairs_are_refused_by_the_name_of_the_record(tmp_path, text, place):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=f"x.json, {place}: half of a surrogate pair"):
        read_json(tmp_path / "x.json")


def test_whole_surrogate_pairs_are_read(tmp_path):
    (tmp_path / "x.json").write_text('["\\ud83d\\ude00"]')
    assert read_json(tmp_path / "x.json") == ["\U0001f600"]


def test_byte_order_marks_are_no_part_of_the_text(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "x.json").write_text('["ä"]', encoding=encoding)
        assert read_json(tmp_path / "x.json") == ["ä"]
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8-sig")
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"a": 1}, {"a": 2}]


def test_lines_that_are_no_objects_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n[]\n')
    with pytest.raises(UsageError, match="line 2: expected an object, found a list"):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_json_lines_named_json_are_recognized(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(UsageError, match=r"suffix \.jsonl"):
        read_json(tmp_path / "x.json")


def test_other_encodings_name_the_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a.jpg\nM\xfcller.jpg\n")
    with pytest.raises(UsageError, match=r"x\.txt, line 2: not UTF-8 text \(byte 0xfc\).*iconv"):
        read_text(tmp_path / "x.txt")
    with pytest.raises(UsageError, match="is a folder"):
        read_text(tmp_path)


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.json") as caught:
        write_json(tmp_path / "a.json", 1)
    assert caught.value.errno == 28 and not list(tmp_path.iterdir())


def test_kinds_and_ranges_of_json_values():
    assert check_int(3, "x", 0, 9) == 3
    for value in (10, -1, True, "3", None, 2.0, 10**5000):
        with pytest.raises(UsageError, match=r"^x: "):
            check_int(value, "x", 0, 9)
    with pytest.raises(UsageError, match="x: expected an object or a list, found null"):
        check_kind(None, (dict, list), "x")
