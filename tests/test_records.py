from __future__ import annotations

import json

import pytest

from ham.records import (
    CaptionRow,
    atomic_write,
    from_dict,
    path_below,
    read_json,
    read_jsonl,
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


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
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
