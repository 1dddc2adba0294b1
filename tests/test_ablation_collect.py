"""What scripts/ablation.py makes of results: sessions that add up, the tables, the headline, the order, the plots."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from ham.records import read_json, write_json
from ham.reid.config import BENCHMARKS
from ham.report.report import read_ablation
from ham.runtime import UsageError, numpy_generator
from scripts.ablation.collect import collect
from scripts.ablation.gather import check_kept, one_each, with_kept
from scripts.ablation.graph import make_graph, result_file
from scripts.ablation.paper import PAPER, paper_mean
from scripts.ablation.places import Places
from scripts.ablation.plots import apart
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import CaptionOptions, CurveOptions, ReidOptions, Settings
from scripts.ablation.statistics import Difference, Mean, by_chance_ordered, interval, ranks, spearman

TOP = Path(__file__).resolve().parent.parent
R1 = {"none": 15.6, "static": 21.0, "static_sampled": 23.0, "templates": 26.0, "one_style": 33.0, "kmeans": 41.0, "ups": 38.0,
      "both": 45.0, "random_prompts": 28.0, "random_clusters": 35.0, "one_caption": 38.0, "ceiling": 48.0}


def settings_of(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> Settings:
    """Settings whose weights are a few bytes: keys need their digest only."""
    for name in ("llava", "clip"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.safetensors").write_bytes(name.encode())
    return Settings(work=str(folder / "work"), seeds=list(seeds), images=96, llava=str(folder / "llava"),
                    clip=str(folder / "clip"), reid=ReidOptions(batch_size=48), curve=CurveOptions([4, 2]))


def make_up(settings: Settings, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Stand in for a run: made-up results of all its jobs, with the keys that these settings give."""
    work = Path(settings.work)
    for name, job in make_graph(settings, seeds, rows).items():
        rng = numpy_generator(0, "made up", name)
        found: dict[str, Any] = {}
        if job.kind == "eval":
            found = {kind: {dataset: metrics(R1[job.what] * (1 - 0.06 * (job.part - 1)) + shift + 3 * rng.random(), place)
                            for place, dataset in enumerate(BENCHMARKS)} for kind, shift in (("human", 0), ("plain", 8))}
        elif job.kind == "captions":
            count = 1 if job.what == "one_caption" else 2
            write_json(Places(work, job.seed).captions(job.what), {
                f"{index}.jpg": [f"a person in {word} {index % 7} of {job.what}" for word in ("red", "blue")[:count]]
                for index in range(settings.images)})
            found = {"content": {"precision": 0.876543, "recall": 0.7, "f1": 0.77}, "diversity": {"captions": 96 * count},
                     "kept_although_rejected": 0, "examples": [{"image": str(work), "captions": []}]}
        write_json(result_file(work, name), {"job": name, "key": job.key, "seconds": 36.0,
                                             "began": 1_795_536_000 + 100 * job.seed, **found})


def metrics(first: float, place: int) -> dict[str, Any]:
    return {"dataset": BENCHMARKS[place], "R1": first + place, "R5": 60.0, "R10": 70.0, "mAP": first + place + 2, "mINP": 9.0,
            "queries": 1200, "gallery": 600}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


# ------------------------------------------------------------------------------------------------------- sessions add up


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
    assert collect(replace(settings, seeds=[1], curve=CurveOptions([])), tmp_path / "nothing", tmp_path / "shared") == whole


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
    assert list(rows) == ["static", "both"] and rows["static"]["seeds"]["0"]["benchmarks"]["RSTPReid"]["R1"] == 90.0


@pytest.mark.parametrize("change", [{"images": 192}, {"preset": "demo"}, {"reid": ReidOptions(lr=1e-4, batch_size=48)},
                                    {"captions": CaptionOptions(templates=3)}])
def test_results_of_other_settings_are_not_lost(settings: Settings, tmp_path: Path, change: dict[str, Any]) -> None:
    make_up(settings, ["none", "static"], [0])
    collect(settings, Path(settings.work), tmp_path / "results")
    before = (tmp_path / "results" / "ablation.json").read_bytes()
    other = replace(settings, work=str(tmp_path / "other"), **change)
    make_up(other, ["none"], [0])
    for refuse in (check_kept, collect):
        with pytest.raises(UsageError, match=r"would be lost; name another --results"):
            refuse(other, Path(other.work), tmp_path / "results")
    assert (tmp_path / "results" / "ablation.json").read_bytes() == before
    make_up(other, ["none", "static"], [0])                # the same rows and seeds measured anew: nothing is lost
    collect(other, Path(other.work), tmp_path / "results")


def test_results_of_other_weights_are_not_mixed_in(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, ["none", "static"], [0])
    collect(settings, Path(settings.work), tmp_path / "results")
    check_kept(settings, tmp_path / "nothing", tmp_path / "results")
    (Path(settings.clip) / "model.safetensors").write_bytes(b"new")
    with pytest.raises(UsageError, match="seed0/eval-none the first, were done with other settings or weights"):
        check_kept(settings, tmp_path / "nothing", tmp_path / "results")


def test_a_file_of_another_kind_is_refused(settings: Settings, tmp_path: Path) -> None:
    write_json(tmp_path / "ablation.json", {"rows": {"both": {}}})
    with pytest.raises(UsageError, match="lacks the jobs' keys"):
        check_kept(settings, tmp_path, tmp_path)


def test_what_is_kept_widens_the_settings(settings: Settings) -> None:
    found = with_kept(replace(settings, seeds=[2, 1]), {"seed0/eval-static_sampled-1of8": {}, "seed3/world": {}})
    assert found.seeds == [0, 1, 2, 3] and found.curve.parts == [8, 4, 2]
    assert found.curve.rows == ["static", "both", "static_sampled"]
    assert with_kept(settings, {}) == settings


# ------------------------------------------------------------------------------------------------------------ what it says


def test_the_page_opens_with_what_was_run_and_a_headline(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    text = collect(settings, Path(settings.work), tmp_path / "results", lambda _: "python scripts/ablation.py --images 96")
    opening = text.split("## ")[0]
    assert opening.startswith("# ") and "    python scripts/ablation.py --images 96\n" in opening
    assert "Preset full, seeds 0, 1, 2 (another world" in opening and "16 retrieval steps of 48 pairs" in opening
    assert "2026-11-24 16:00 to 2026-11-24 16:03 UTC" in opening
    assert "points over 3 seeds, above 0 in 3 of 3; 95 % interval +" in opening and "So they help here." in opening
    assert "% of the way" in opening and text == (tmp_path / "results" / "ablation.md").read_text()
    for title in ("Direct transfer", "The paper's order", "Paired differences", "Each benchmark", "R1 against the number"):
        assert text.count(f"## {title}") == 1
    assert "of 96 captions, one drawn for each image, as many in every row" in text
    written = (tmp_path / "results" / "ablation.json").read_text()
    assert str(tmp_path) not in written + text and "/tmp" not in written
    assert {row["captions"] for row in read_ablation(tmp_path / "results" / "ablation.json")["rows"]} == {
        row.label for row in ROWS.values()}


@pytest.mark.parametrize(("shift", "said"), [(-35.0, "So they harm here: the paper's claim does not hold"),
                                             (None, "to tell them apart for sure")])
def test_the_headline_does_not_flatter(settings: Settings, tmp_path: Path, shift: float | None, said: str) -> None:
    make_up(settings, ["static", "both"], [0, 1, 2])
    for seed in settings.seeds:
        file = result_file(Path(settings.work), f"seed{seed}/eval-both")
        found = read_json(file)
        for one in found["human"].values():
            one["R1"] += {0: 40.0, 1: -10.0, 2: -35.0}[seed] if shift is None else shift
        write_json(file, found)
    text = collect(settings, Path(settings.work), tmp_path / "results")
    assert said in text and "help here" not in text


def test_one_seed_and_different_seeds_are_said(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, ["static", "both"], [0])
    text = collect(settings, Path(settings.work), tmp_path / "one")
    assert "points over 1 seed. One seed says nothing about other worlds" in text and "Rows have different seeds" not in text
    assert "| static, untuned, greedy | 1 | 2" in text and "## The paper's order" not in text
    make_up(settings, ["static"], [1])
    assert "Rows have different seeds so far" in collect(settings, Path(settings.work), tmp_path / "two")
    make_up(replace(settings, work=str(tmp_path / "none")), ["none"], [0])
    assert "nothing can be said" in collect(settings, tmp_path / "none", tmp_path / "three")


def test_the_order_beside_the_papers(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    collect(settings, Path(settings.work), tmp_path / "results")
    found = read_json(tmp_path / "results" / "ablation.json")["order"]
    assert list(found["rows"]) == list(PAPER) and found["seeds"] == [0, 1, 2]
    ours = {row: one["ours"] for row, one in found["rows"].items()}
    assert sorted(ours, key=ours.get) != list(PAPER) and found["rows"]["kmeans"]["our_rank"] == 5.0     # above UPS here
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (6 * 35)) and found["chance"] == pytest.approx(6 / 720)
    assert [(one["row"], one["above"]) for one in found["turned"]] == [("kmeans", "ups")]
    text = (tmp_path / "results" / "ablation.md").read_text()
    assert "Spearman's rank correlation with the paper's order: +0.94** over 6 rows" in text
    assert "The other way round than in the paper: KMeans above UPS by" in text


def test_ranks_and_their_correlation_by_hand() -> None:
    assert ranks([3.0, 1.0, 3.0, 9.0]) == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)             # 1 - 6 * 2 / (4 * 15)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0) and spearman([1, 1, 1], [1, 2, 3]) is None
    assert by_chance_ordered([1, 2, 3], [1, 2, 3]) == pytest.approx(1 / 6) and by_chance_ordered([3, 2, 1], [1, 2, 3]) == 1.0
    assert by_chance_ordered([1, 1], [1, 2]) is None
    assert [round(paper_mean(row), 2) for row in PAPER] == [32.58, 34.4, 35.38, 41.7, 43.5, 44.43]
    low, high = interval(Difference(4.0, 1.0, 3, 3))
    assert (low, high) == (pytest.approx(4 - 4.3027, abs=1e-3), pytest.approx(4 + 4.3027, abs=1e-3))      # t(0.975, 2)
    assert interval(Mean(4.0, None, 1)) is None


def test_variety_is_measured_on_one_caption_of_each_image() -> None:
    captions = {f"{index}.jpg": ["first", "second"] for index in range(200)}
    drawn = one_each(captions, 0)
    assert drawn == one_each(captions, 0) != one_each(captions, 1)
    assert len(drawn) == 200 and 70 < drawn.count("first") < 130
    assert one_each({"a": ["only"]}, 0) == ["only"]


def test_labels_are_moved_apart() -> None:
    assert apart([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert apart([1.0, 2.0, 9.0], 2.0) == [0.5, 2.5, 9.0]
    assert apart([1.0, 2.0, 3.0], 2.0) == [0.0, 2.0, 4.0] and apart([], 1.0) == []


def test_plots_are_as_wide_as_a_readme(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    collect(settings, Path(settings.work), tmp_path / "results")
    for name in ("ablation.png", "curve.png"):
        with Image.open(tmp_path / "results" / name) as picture:
            assert picture.width == 1800 and picture.height < 1400


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation_story", TOP / "scripts" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_gives_the_same_settings_and_names_no_folder(script: ModuleType, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    (tmp_path / "llava").mkdir()
    words = ["--config", str(TOP / "configs" / "ablation.yaml"), "--work", str(tmp_path), "--images", "3072",
             "--reid.lr", "0.001", "--curve.parts", "[4]", "--instruction", "Say what you see.",
             "--clip", str(TOP / "ham/world/weights/clip")]
    settings, asked = script.read_settings(words)
    files = [str(file) for file in asked.config]
    command = script.command_of(settings, files)
    assert command == ("python scripts/ablation.py --config configs/ablation.yaml --images 3072 "
                       "--instruction 'Say what you see.' --reid.lr 0.001 --curve.parts '[4]'")
    again, _ = script.read_settings(script.shlex.split(command)[2:])
    assert replace(again, work=settings.work, clip=settings.clip) == settings
    elsewhere = replace(settings, llava=str(tmp_path / "llava"))
    assert str(tmp_path) not in script.command_of(elsewhere, files) and "--llava llava" in script.command_of(elsewhere, files)


def test_help_says_that_sessions_add_up(script: ModuleType) -> None:
    said = " ".join(script.build_parser().format_help().split())
    assert "Sessions add up" in said and "is kept, seed by seed" in said and "--only-seeds 2" in said
