"""Sessions of scripts/ablation.py add up in one results file, and the file names the command that makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ablation_helpers import R1, load_script, make_up, settings_of

from ham.records import read_json, write_json
from ham.runtime import UsageError
from scripts.ablation.collect import collect
from scripts.ablation.gather import check_kept, with_kept
from scripts.ablation.graph import result_file
from scripts.ablation.settings import CaptionOptions, CurveOptions, ReidOptions, Settings

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def test_a_later_session_adds_its_seed(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    whole = collect(settings, Path(settings.work), tmp_path / "whole")

    first = replace(settings, work=str(tmp_path / "first"), seeds=[0, 1])
    later = replace(settings, work=str(tmp_path / "later"))
    make_up(first, list(R1), [0, 1])
    make_up(later, list(R1), [2])
    collect(first, Path(first.work), tmp_path / "shared")
    assert sorted(read_json(tmp_path / "shared" / "ablation.json")["rows"]["both"]["seeds"]) == ["0", "1"]
    added = collect(later, Path(later.work), tmp_path / "shared")
    assert added == whole
    together, alone = (read_json(tmp_path / name / "ablation.json") for name in ("shared", "whole"))
    assert together == alone and sorted(together["rows"]["both"]["seeds"]) == ["0", "1", "2"]
    assert [len(point["R1"]) for point in together["curve"]["both"]] == [3, 3, 3]

    # once more, from a checkout that has nothing but the file, and asks for one of its seeds only
    assert (
        collect(
            replace(settings, seeds=[1], curve=CurveOptions([])), tmp_path / "nothing", tmp_path / "shared"
        )
        == whole
    )


def test_a_later_session_adds_rows_and_measures_anew(settings: Settings, tmp_path: Path) -> None:
    work, out = Path(settings.work), tmp_path / "results"
    make_up(settings, ["static"], [0])
    collect(settings, work, out)
    again = replace(settings, work=str(tmp_path / "again"))
    make_up(again, ["static", "both"], [0])
    file = result_file(Path(again.work), "seed0/eval-static")
    found = read_json(file)
    found["human"]["RSTPReid"]["R1"], found["began"] = 90.0, found["began"] + 5000
    write_json(file, found)
    collect(again, Path(again.work), out)
    rows = read_json(out / "ablation.json")["rows"]
    assert (
        list(rows) == ["static", "both"]
        and rows["static"]["seeds"]["0"]["benchmarks"]["RSTPReid"]["R1"] == 90.0
    )


@pytest.mark.parametrize(
    "change",
    [
        {"images": 192},
        {"preset": "demo"},
        {"reid": ReidOptions(lr=1e-4, batch_size=48)},
        {"captions": CaptionOptions(templates=3)},
    ],
)
def test_results_of_other_settings_are_not_lost(
    settings: Settings, tmp_path: Path, change: dict[str, Any]
) -> None:
    make_up(settings, ["none", "static"], [0])
    collect(settings, Path(settings.work), tmp_path / "results")
    before = (tmp_path / "results" / "ablation.json").read_bytes()
    other = replace(settings, work=str(tmp_path / "other"), **change)
    make_up(other, ["none"], [0])
    for refuse in (check_kept, collect):
        with pytest.raises(UsageError, match=r"would be lost; name another --results"):
            refuse(other, Path(other.work), tmp_path / "results")
    assert (tmp_path / "results" / "ablation.json").read_bytes() == before
    make_up(other, ["none", "static"], [0])  # the same rows and seeds measured anew: nothing is lost
    collect(other, Path(other.work), tmp_path / "results")


def test_results_of_other_weights_are_not_mixed_in(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, ["none", "static"], [0])
    collect(settings, Path(settings.work), tmp_path / "results")
    check_kept(settings, tmp_path / "nothing", tmp_path / "results")
    (Path(settings.clip) / "model.safetensors").write_bytes(b"new")
    with pytest.raises(
        UsageError, match="seed0/eval-none the first, were done with other settings or weights"
    ):
        check_kept(settings, tmp_path / "nothing", tmp_path / "results")


def test_a_file_of_another_kind_is_refused(settings: Settings, tmp_path: Path) -> None:
    write_json(tmp_path / "ablation.json", {"rows": {"both": {}}})
    with pytest.raises(UsageError, match="lacks the jobs' keys"):
        check_kept(settings, tmp_path, tmp_path)


def test_what_is_kept_widens_the_settings(settings: Settings) -> None:
    found = with_kept(
        replace(settings, seeds=[2, 1]), {"seed0/eval-static_sampled-1of8": {}, "seed3/world": {}}
    )
    assert found.seeds == [0, 1, 2, 3] and found.curve.parts == [8, 4, 2]
    assert found.curve.rows == ["static", "both", "static_sampled"]
    assert with_kept(settings, {}) == settings


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script()


def test_the_command_gives_the_same_settings_and_names_no_folder(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    (tmp_path / "llava").mkdir()
    words = [
        "--config",
        str(TOP / "configs" / "ablation.yaml"),
        "--work",
        str(tmp_path),
        "--images",
        "1536",
        "--reid.lr",
        "0.001",
        "--curve.parts",
        "[4]",
        "--instruction",
        "Say what you see.",
        "--clip",
        str(TOP / "ham/world/weights/clip"),
    ]
    settings, asked = script.read_settings(words)
    files = [str(file) for file in asked.config]
    command = script.command_of(settings, files)
    assert command == (
        "python scripts/ablation.py --config configs/ablation.yaml --images 1536 "
        "--instruction 'Say what you see.' --reid.lr 0.001 --curve.parts '[4]'"
    )
    again, _ = script.read_settings(script.shlex.split(command)[2:])
    assert replace(again, work=settings.work, clip=settings.clip) == settings
    elsewhere = replace(settings, llava=str(tmp_path / "llava"))
    assert str(tmp_path) not in script.command_of(elsewhere, files) and "--llava llava" in script.command_of(
        elsewhere, files
    )


def test_help_explains_that_sessions_accumulate(script: ModuleType) -> None:
    said = " ".join(script.build_parser().format_help().split())
    assert "Sessions accumulate" in said and "are never overwritten" in said and "--only-seeds 2" in said
