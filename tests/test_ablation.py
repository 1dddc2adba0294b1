"""The experiment: settings, interruptions and failures, statistics, and every row from dataset to table."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from ham.datasets import BENCHMARKS
from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError, WorkError, exit_code_of
from scripts.ablation import results, retrieval, run_tasks, steps
from scripts.ablation.captions import template_hints
from scripts.ablation.places import Places, Task, figures_file, plan_tasks
from scripts.ablation.plots import apart
from scripts.ablation.record import record_settings
from scripts.ablation.results import collect
from scripts.ablation.rows import CLUSTERINGS, ROWS
from scripts.ablation.run_tasks import Runner
from scripts.ablation.settings import (
    CurveOptions,
    FinetuneOptions,
    ReidOptions,
    Settings,
    StyleOptions,
    check_settings,
)
from scripts.ablation.statistics import binomial_error, mean_of, paired
from scripts.demo_report.__main__ import read_experiment

TOP = Path(__file__).resolve().parent.parent
GOOD = Settings(
    llava=str(TOP / "ham/world/weights/llava"),
    clip=str(TOP / "ham/world/weights/clip"),
    finetune=FinetuneOptions(str(TOP / "configs/reid/world_finetune_irra.yaml")),
)
NANO = ["--config", "configs/ablation_nano.yaml"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/ablation.py, whose parts are in a package of the same name."""
    monkeypatch.chdir(TOP)
    spec = importlib.util.spec_from_file_location("ablation_script", TOP / "scripts" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ablation.py", *NANO, *words])
    return exit_code_of(script.main)


# ---------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "preset huge: not known"),
        ({"clip": "nowhere"}, "clip nowhere: no such folder"),
        ({"seeds": [1, 1]}, "each once"),
        ({"images": 4600}, "no multiple of reid.batch_size 96"),
        ({"images": 9600}, "sure to have only 8000"),
        ({"images": 0}, "images 0: expected at least 1"),
        ({"styles": StyleOptions(total=95)}, "even number"),
        ({"curve": CurveOptions(parts=[500])}, "do not fill one batch"),
        ({"curve": CurveOptions(rows=["human"])}, "curve.rows human: not known"),
        ({"curve": CurveOptions(rows=["none"])}, "has no pretraining images"),
        ({"finetune": FinetuneOptions("none.yaml")}, "finetune.config none.yaml: no such file"),
        ({"finetune": replace(GOOD.finetune, rows=["human"])}, "finetune.rows human: not known"),
        ({"finetune": replace(GOOD.finetune, epochs=0)}, "finetune.epochs 0: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    check_settings(GOOD)
    with pytest.raises(UsageError, match=message):
        check_settings(replace(GOOD, **change))


@pytest.mark.parametrize("name", ["ablation.yaml", "ablation_nano.yaml"])
def test_the_configs_are_read(script: ModuleType, name: str) -> None:
    words = ["--config", f"configs/{name}"]
    settings, asked = script.read_settings([*words, "--only-seeds", "0", "--only-rows", "none", "both"])
    assert settings.seeds[0] == 0 and asked.only_rows == ["none", "both"]
    assert settings.finetune.rows == ["none", "static", "both"]
    with pytest.raises(UsageError, match="--only-rows human: not known"):
        script.read_settings([*words, "--only-rows", "human"])
    with pytest.raises(SystemExit):
        script.read_settings([*words, "--reid.rate", "1"])


def test_a_work_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "finetune.yaml"
    config.write_text("method: irra\nepochs: 6\n")
    for name in ("llava", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"old")
    settings = replace(
        GOOD,
        work=str(tmp_path / "work"),
        llava=str(tmp_path / "llava"),
        clip=str(tmp_path / "clip"),
        finetune=FinetuneOptions(str(config)),
    )
    recorded = record_settings(settings)
    record_settings(replace(settings, seeds=[0, 7], curve=CurveOptions([4])))  # more seeds, another curve
    for change, message in (
        ({"images": 192}, "images was 6144, is 192"),
        ({"reid": ReidOptions(lr=1e-4)}, r"reid.lr was 0.0007, is 0.0001"),
        ({"finetune": FinetuneOptions(str(config), epochs=3)}, "finetune.epochs was None, is 3"),
    ):
        with pytest.raises(UsageError, match=message):
            record_settings(replace(settings, **change))
    config.write_text("method: irra\nepochs: 9\n")
    with pytest.raises(UsageError, match=r"finetuning.epochs was 6, is 9.*name another --work"):
        record_settings(settings)
    config.write_text("epochs: 6\nmethod: irra  # the same\n")
    record_settings(settings)
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"new")
    with pytest.raises(UsageError, match=r"weights.clip was"):
        record_settings(settings)
    assert (Path(recorded.clip) / "model.safetensors").read_bytes() == b"old"  # a copy: the run is not mixed


# ------------------------------------------------------------------------------------------------------------------- tasks


def test_the_tasks_of_some_rows() -> None:
    stages = plan_tasks(replace(GOOD, curve=CurveOptions([4])), [2], ["none", "one_caption"])
    assert [str(task) for stage in stages for task in stage] == [
        "seed2/prepare",
        "seed2/tune-both",
        "seed2/captions-both",
        "seed2/retrieval-none",
        "seed2/retrieval-one_caption",
        "seed2/finetune-none",
    ]
    every = [task for stage in plan_tasks(GOOD, [0, 1, 2], list(ROWS)) for task in stage]
    assert len(set(every)) == len(every)
    assert Counter(task.kind for task in every) == {
        "prepare": 3,
        "tune": 3 * len(CLUSTERINGS),
        "captions": 3 * 10,
        "retrieval": 3 * len(ROWS),
        "finetune": 3 * 3,
        "curve": 3 * 2 * 3,
    }


FAKE_STEP = """
import json, pathlib, sys
work, seed, kind, name, parent = sys.argv[1:]
if name == "static" and kind == "captions" and not pathlib.Path(work, "fixed").exists():
    sys.exit("error: too few pedestrians")
with pathlib.Path(work, "order").open("a") as file:
    print(f"{kind}-{name}", file=file)
row = {"R1": 30.0, "R5": 60.0, "R10": 70.0, "mAP": 40.0, "mINP": 9.0, "queries": 12}
row = {name: row for name in ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid")}
figures = {"began": 0, "seconds": 6.0, "cpu_seconds": 6.0, "human": row, "plain": row}
file = pathlib.Path(work, "seed" + seed, "figures", f"{kind}-{name}.json" if name else f"{kind}.json")
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(figures))
"""


def test_a_failed_task_stops_no_other_and_is_tried_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "step.py").write_text(FAKE_STEP)
    monkeypatch.setattr(run_tasks, "STEP", [sys.executable, str(tmp_path / "step.py")])
    monkeypatch.setattr(results, "caption_figures", lambda written: None)
    work = tmp_path / "work"
    words = ["--work", str(work), "--only-rows", "none", "static", "--finetune.rows", "[]"]
    words += ["--curve.rows", "[]", "--jobs", "1"]
    assert run_script(script, monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert "captions-static failed with exit code 1" in said.err and "too few pedestrians" in said.err
    assert f"1 tasks failed: seed0/captions-static ({work}" in said.err
    assert "| no pretraining | 1 |" in said.out
    done = ["prepare-", "retrieval-none", "retrieval-static"]
    assert (work / "order").read_text().split() == done
    (work / "fixed").touch()
    assert run_script(script, monkeypatch, *words) == 0
    assert (work / "order").read_text().split() == [*done, "captions-static"]  # nothing is done twice


def test_a_step_without_its_input_fails_before_any_work(tmp_path: Path) -> None:
    places = Places(tmp_path, 3)
    for step, missing in (
        (lambda: steps.tune(GOOD, places, "both"), "seed3/prepare"),
        (lambda: retrieval.pretrain(GOOD, places, "both-1of4"), "seed3/captions-both"),
        (lambda: retrieval.pretrain(GOOD, places, "one_caption"), "seed3/captions-both"),
        (lambda: retrieval.finetune(GOOD, places, "static"), "seed3/retrieval-static"),
    ):
        with pytest.raises(WorkError, match=f"needs {missing}, which is not done"):
            step()
    write_json(places.figures("prepare"), {})
    with pytest.raises(WorkError, match="needs seed3/tune-ups, which is not done"):
        steps.caption_pool(GOOD, places, "ups")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end orphans")
def test_a_killed_run_leaves_no_process_and_no_figures(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "work"
    words = [sys.executable, "scripts/ablation.py", *NANO, "--work", str(work)]
    run = subprocess.Popen(words, cwd=TOP, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: steps_running(work))
        assert run_script(script, monkeypatch, "--work", str(work)) == 2
        assert "another run is using it" in capsys.readouterr().err
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    wait_for(lambda: not steps_running(work))
    assert not figures_file(work, Task(0, "prepare")).exists()


def steps_running(work: Path) -> list[str]:
    """Find the processes of a run by their command lines."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "scripts.ablation.steps" in words and str(work) in words:
            found.append(file.parent.name)
    return found


def wait_for(condition: Any, limit_s: float = 600.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_some_rows_from_the_dataset_to_the_table(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "work"
    words = ["--work", str(work), "--only-rows", "none", "both", "one_caption"]
    assert run_script(script, monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert text.strip() == (work / "results" / "ablation.md").read_text().strip()
    result = read_json(work / "results" / "ablation.json")
    assert list(result["rows"]) == ["none", "both", "one_caption"]
    assert list(result["finetune"]) == ["none", "both"]
    assert [point["images"] for point in result["curve"]["both"]] == [16, 32]
    places = Places(work, 0)
    assert [len(texts) for texts in read_json(places.captions("both")).values()] == [2] * 32
    for row in ("both", "one_caption"):  # 32 images x 2 captions in batches of 16, whatever the row
        log = read_jsonl(places.retrieval(row) / "metrics.jsonl")
        assert max(line["step"] for line in log if "step" in line) == 4
    monkeypatch.setattr(Runner, "run_task", None)  # nothing is left to run
    assert run_script(script, monkeypatch, *words) == 0


# ----------------------------------------------------------------------------------------------------------------- results


def test_tables_of_all_rows(tmp_path: Path) -> None:
    settings = make_up(tmp_path, [0, 1, 2])
    text = collect(settings, tmp_path / "results", "python scripts/ablation.py --images 96")
    assert "    python scripts/ablation.py --images 96\n" in text
    for title in ("Direct transfer", "Paired differences, points", "After fine-tuning", "R1 against"):
        assert text.count(f"## {title}") == 1
    assert "| KMeans + UPS − static, untuned, greedy | +10.0 ± 0.0 |" in text
    assert "| KMeans + UPS − no pretraining | +11.0 ± 0.0 |" in text
    found = read_json(tmp_path / "results" / "ablation.json")
    pairs = [(one["row"], one["minus"]) for one in found["finetune_differences"]]
    assert pairs == [("none", "static"), ("both", "static"), ("both", "none")]
    assert [round(one["human R1"]["mean"], 3) for one in found["finetune_differences"]] == [-1.0, 10.0, 11.0]
    assert found["rows"]["both"]["seeds"]["1"]["benchmarks"]["RSTPReid"]["R1"] == 41.0
    assert found["core_hours"] == pytest.approx(found["tasks_done"] * 72 / 3600, abs=0.01)
    shown = read_experiment(tmp_path / "results" / "ablation.json")
    assert {row["label"] for row in shown["rows"]} == {row.label for row in ROWS.values()}
    assert shown["difference"]["mean"] == pytest.approx(10.0)
    for name in ("ablation.png", "curve.png"):
        with Image.open(tmp_path / "results" / name) as picture:
            assert picture.width == 1800 and picture.height < 1400


def test_missing_rows_and_seeds_are_left_out(tmp_path: Path) -> None:
    settings = make_up(tmp_path, [0, 1])
    work = Path(settings.work)
    with pytest.raises(UsageError, match="no row is measured yet"):
        collect(replace(settings, work=str(make_empty(tmp_path))), tmp_path / "results", "")
    for row in ROWS:
        if row not in ("static", "both"):
            figures_file(work, Task(0, "retrieval", row)).unlink()
            figures_file(work, Task(1, "retrieval", row)).unlink()
    figures_file(work, Task(1, "retrieval", "both")).unlink()
    text = collect(settings, tmp_path / "results", "")
    assert "| static, untuned, greedy | 2 | 3" in text and "| KMeans + UPS | 1 | 40.0 |" in text
    assert "| KMeans + UPS − static, untuned, greedy | +10.0 |" in text  # one seed: no error


def make_empty(folder: Path) -> Path:
    write_json(folder / "empty" / "settings.json", read_json(folder / "work" / "settings.json"))
    return folder / "empty"


def make_up(folder: Path, seeds: list[int]) -> Settings:
    """Write figures of all tasks as a run would: `both` is 10 points above the other rows, `none` 1 below."""
    settings = replace(GOOD, work=str(folder / "work"), seeds=seeds, curve=CurveOptions([4, 2]))
    settings = record_settings(settings)
    gain = {"both": 10.0, "none": -1.0}
    for task in (task for stage in plan_tasks(settings, seeds, list(ROWS)) for task in stage):
        value = 30.0 + task.seed + gain.get(task.name.partition("-1of")[0], 0.0)
        row = {"R1": value, "R5": 60.0, "R10": 70.0, "mAP": value, "mINP": 9.0, "queries": 1200}
        diversity = {
            "captions": 96,
            "distinct_1": 1.0,
            "distinct_2": 2.0,
            "self_bleu": 60.0,
            "words_mean": 30.0,
        }
        figures = {
            "began": 1_795_536_000,
            "seconds": 60.0,
            "cpu_seconds": 72.0,
            "human": dict.fromkeys(BENCHMARKS, row),
            "plain": dict.fromkeys(BENCHMARKS, row),
            "content": {"precision": 0.9, "recall": 0.7},
            "diversity": diversity,
        }
        write_json(figures_file(Path(settings.work), task), figures)
    return settings


def test_the_remaining_time(tmp_path: Path) -> None:
    stages = [[Task(0, "prepare")], [Task(0, "tune", "both"), Task(0, "tune", "ups")]]
    runner = Runner(tmp_path, stages, 2)
    assert runner.outlook() == "0 of 3 tasks, time left not known yet"
    write_json(figures_file(tmp_path, Task(0, "tune", "ups")), {"seconds": 360.0})
    assert runner.outlook() == "1 of 3 tasks, about 3 min left, without 1 tasks of kinds not timed yet"


# -------------------------------------------------------------------------------------------------------------- arithmetic


def test_means_and_paired_differences_by_hand() -> None:
    assert mean_of([]) is None and mean_of([4.0]).error is None
    found = mean_of([1.0, 2.0, 6.0])  # deviations -2, -1, 3: variance 14 / 2, of the mean 7 / 3
    assert found.mean == 3.0 and found.error == pytest.approx(math.sqrt(7 / 3)) and found.count == 3
    difference = paired(
        {"0": 10.0, "1": 30.0, "2": 20.0, "5": 99.0}, {"0": 8.0, "1": 25.0, "2": 21.0, "4": 0.0}
    )
    assert difference.mean == 2.0 and difference.error == pytest.approx(math.sqrt(3))  # of 2, 5, -1
    assert difference.count == 3 and difference.positive == 2
    assert paired({"0": 1.0}, {"1": 1.0}) is None


def test_binomial_error_by_hand() -> None:
    assert binomial_error([50.0], [2500]) == pytest.approx(1.0)  # sqrt(0.25 / 2500) = 0.01
    assert binomial_error([50.0, 50.0, 50.0], [2500] * 3) == pytest.approx(1 / math.sqrt(3))


def test_labels_are_moved_apart() -> None:
    assert apart([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert apart([1.0, 2.0, 9.0], 2.0) == [0.5, 2.5, 9.0]
    assert apart([1.0, 2.0, 3.0], 2.0) == [0.0, 2.0, 4.0] and apart([], 1.0) == []


def test_random_clusters_keep_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = [(0,), (0, 2), (1,), (0, 1, 2), (2,)] * 20
    rows = [
        {"image": f"{index}.jpg", "caption": f"caption {index}", "style_ids": list(ids)}
        for index, ids in enumerate(styles)
    ]
    monkeypatch.setattr(steps, "load_styles", lambda folder: ({}, rows, None))
    assigned = {}
    for seed in (0, 1):
        steps.assign_randomly(GOOD, Places(tmp_path, seed))
        file = Places(tmp_path, seed).styles("random_clusters") / "assignments.jsonl"
        written = list(read_jsonl(file))
        assert [row["caption"] for row in written] == [row["caption"] for row in rows]
        assigned[seed] = [tuple(row["style_ids"]) for row in written]
        assert Counter(assigned[seed]) == Counter(styles)
    assert assigned[0] != styles and assigned[0] != assigned[1]


def test_template_hints_are_different_and_of_the_seed() -> None:
    hints = template_hints(0, 46)
    assert len(set(hints)) == 46 and hints == template_hints(0, 46) != template_hints(1, 46)


def test_variety_is_measured_on_one_caption_of_each_image() -> None:
    captions = {f"{index}.jpg": ["first", "second"] for index in range(200)}
    drawn = steps.one_each(captions, 0)
    assert drawn == steps.one_each(captions, 0) != steps.one_each(captions, 1)
    assert len(drawn) == 200 and 70 < drawn.count("first") < 130
