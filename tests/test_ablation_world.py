"""A world without its foundation: the same bytes otherwise, and never taken for a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ham.records import read_json
from ham.runtime import UsageError
from ham.world.__main__ import main
from ham.world.build import build_world


def test_without_its_foundation_a_world_is_otherwise_the_same(tmp_path: Path) -> None:
    build_world(tmp_path / "whole", "nano", workers=1)
    assert (
        main(
            [
                "build",
                "--out",
                str(tmp_path / "part"),
                "--preset",
                "nano",
                "--workers",
                "1",
                "--without-foundation",
            ]
        )
        == 0
    )
    whole, part = (
        {
            file.relative_to(tmp_path / name).as_posix(): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("whole", "part")
    )
    assert set(whole) - set(part) == {name for name in whole if name.startswith("foundation/")} != set()
    assert {name for name in part if part[name] != whole[name]} == {"world.json"}
    assert read_json(tmp_path / "part" / "world.json")["without"] == ["foundation"]

    assert build_world(tmp_path / "part", "nano", foundation=False) is False
    with pytest.raises(UsageError, match=r"without \['foundation'\] instead of \[\]"):
        build_world(tmp_path / "part", "nano")
    with pytest.raises(UsageError, match=r"without \[\] instead of \['foundation'\]"):
        build_world(tmp_path / "whole", "nano", foundation=False)
