"""The experiment's machinery: the graph of jobs, restarts and kills, the statistics, and two rows from world to table."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ablation_helpers import load_script

from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError, WorkError
from scripts.ablation.captions import template_hints
from scripts.ablation.collect import collect
from scripts.ablation.graph import Job, is_done, job_name, make_graph, next_ready, result_file
from scripts.ablation.rows import AGAINST_HERO, CLUSTERINGS, ROWS, SHOWN
from scripts.ablation.runner import outlook, run_jobs, status_table
from scripts.ablation.settings import CurveOptions, ReidOptions, Settings, StyleOptions, check_settings
from scripts.ablation.statistics import binomial_error, by_chance, mean_of, paired
from scripts.ablation.work import shuffle_styles

TOP = Path(__file__).resolve().parent.parent
GOOD = Settings(llava=str(TOP / "ham/world/weights/llava"), clip=str(TOP / "ham/world/weights/clip"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script()


# ------------------------------------------------------------------------------------------------------------- the graph


def test_rows_come_in_order_and_needs_before_what_needs_them() -> None:
    graph = make_graph(GOOD, [0, 1], list(ROWS))
    places = {name: place for place, name in enumerate(graph)}
    assert all(places[need] < places[name] for name, job in graph.items() for need in job.needs)
    main = [job.what for job in graph.values() if job.kind == "eval" and job.seed == 0 and job.part == 1]
    assert main == [
        "none",
        "static",
        "both",
        "ceiling",
        "kmeans",
        "ups",
        "random_clusters",
        "one_style",
        "templates",
        "static_sampled",
        "random_prompts",
        "one_caption",
    ]
    last_of_0 = max(
        place for name, place in places.items() if name.startswith("seed0/") and "1of" not in name
    )
    first_of_1 = min(place for name, place in places.items() if name.startswith("seed1/"))
    assert last_of_0 < first_of_1
    curve = [name for name, job in graph.items() if job.part > 1]
    assert (
        list(graph)[-len(curve) :] == curve and len(curve) == 2 * 2 * 2 * 3
    )  # reid and eval, seeds, rows, parts
    assert {job.what for job in graph.values() if job.kind == "tune"} == set(CLUSTERINGS)


def test_only_what_the_rows_need_is_made() -> None:
    names = set(make_graph(GOOD, [2], ["none", "random_prompts"]))
    assert names == {
        "seed2/world",
        "seed2/eval-none",
        "seed2/pool",
        "seed2/styles-both",
        "seed2/tune-both",
        "seed2/captions-random_prompts",
        "seed2/reid-random_prompts",
        "seed2/eval-random_prompts",
    }


def test_a_changed_setting_makes_stale_what_depends_on_it_and_nothing_else() -> None:
    def changed(other: Settings) -> set[str]:
        before, after = make_graph(GOOD, [0], list(ROWS)), make_graph(other, [0], list(ROWS))
        return {name for name in before if before[name].key != after[name].key}

    assert {
        name.split("/")[1].split("-")[0] for name in changed(replace(GOOD, reid=ReidOptions(lr=1e-3)))
    } == {"reid", "eval"}
    assert "seed0/eval-none" not in changed(replace(GOOD, reid=ReidOptions(lr=1e-3)))
    curve = changed(replace(GOOD, curve=CurveOptions(fixed="steps")))
    assert curve and all("1of" in name for name in curve)
    styles = changed(replace(GOOD, styles=StyleOptions(total=48)))
    assert (
        "seed0/tune-both" in styles
        and "seed0/eval-ceiling" not in styles
        and "seed0/captions-static" not in styles
    )
    assert "seed0/eval-static" in changed(replace(GOOD, preset="demo"))


def test_new_weights_make_stale_what_was_made_with_the_old(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"one")
    settings = replace(GOOD, clip=str(tmp_path / "clip"))
    before = make_graph(settings, [0], ["static"])
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"two")
    after = make_graph(settings, [0], ["static"])
    changed = {name for name in before if before[name].key != after[name].key and "1of" not in name}
    assert changed == {"seed0/reid-static", "seed0/eval-static"}


def test_every_row_is_shown_and_compared_ones_exist() -> None:
    assert set(SHOWN) == set(ROWS) and set(AGAINST_HERO) < set(ROWS)


# ------------------------------------------------------------------------------------------------------------ the runner


def toy_graph() -> dict[str, Job]:
    jobs = [
        Job("world", 0, "", 1, (), "a"),
        Job("reid", 0, "static", 1, ("seed0/world",), "b"),
        Job("eval", 0, "static", 1, ("seed0/reid-static",), "c"),
        Job("world", 1, "", 1, (), "d"),
    ]
    return {job.name: job for job in jobs}


def note(work: Path, job: Job) -> dict[str, Any]:
    """Stand in for a job's work: write down that it was done."""
    with (work / "order").open("a") as file:
        file.write(job.name + "\n")
    return {"pid": os.getpid()}


def order(work: Path) -> list[str]:
    return (work / "order").read_text().split()


def test_jobs_run_in_order_each_in_its_own_process_and_once(tmp_path: Path) -> None:
    graph = toy_graph()
    assert run_jobs(graph, tmp_path, lambda job: note(tmp_path, job), 1) == 4
    assert order(tmp_path) == list(graph)
    assert len({read_json(result_file(tmp_path, name))["pid"] for name in graph} | {os.getpid()}) == 5
    assert run_jobs(graph, tmp_path, lambda job: note(tmp_path, job), 1) == 0
    assert order(tmp_path) == list(graph)


def test_a_missing_and_a_stale_result_are_made_again(tmp_path: Path) -> None:
    graph = toy_graph()
    run_jobs(graph, tmp_path, lambda job: note(tmp_path, job), 2)
    result_file(tmp_path, "seed1/world").unlink()
    graph["seed0/eval-static"] = replace(graph["seed0/eval-static"], key="other")
    assert is_done(tmp_path, graph["seed0/eval-static"]) is None
    assert "stale" in status_table(graph, tmp_path) and "missing" in status_table(graph, tmp_path)
    assert run_jobs(graph, tmp_path, lambda job: note(tmp_path, job), 2) == 2
    assert Counter(order(tmp_path)) == Counter([*graph, "seed1/world", "seed0/eval-static"])


def test_two_run_at_a_time_but_never_before_their_needs(tmp_path: Path) -> None:
    def slow(job: Job) -> dict[str, Any]:
        began = time.time()
        time.sleep(0.3)
        return {"from": began, "to": time.time()}

    graph = toy_graph()
    run_jobs(graph, tmp_path, slow, 2)
    took = {name: read_json(result_file(tmp_path, name)) for name in graph}
    assert all(took[need]["to"] <= took[name]["from"] for name, job in graph.items() for need in job.needs)
    assert took["seed1/world"]["from"] < took["seed0/world"]["to"]  # beside the first, not behind


def test_a_failing_job_shows_its_log_and_spares_the_others(tmp_path: Path) -> None:
    def fail(job: Job) -> dict[str, Any]:
        if job.kind == "reid":
            raise UsageError("too few pedestrians")
        return note(tmp_path, job)

    with pytest.raises(UsageError, match=r"(?s)seed0/reid-static.*too few pedestrians"):
        run_jobs(toy_graph(), tmp_path, fail, 1)
    assert order(tmp_path) == ["seed0/world"]


def test_a_killed_job_has_not_happened_and_is_done_again(tmp_path: Path) -> None:
    def die_once(job: Job) -> dict[str, Any]:
        if job.kind == "reid" and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return note(tmp_path, job)

    with pytest.raises(WorkError, match="seed0/reid-static ended with -9"):
        run_jobs(toy_graph(), tmp_path, die_once, 1)
    assert not result_file(tmp_path, "seed0/reid-static").exists()
    run_jobs(toy_graph(), tmp_path, die_once, 1)
    assert order(tmp_path) == list(toy_graph())


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end orphans")
def test_a_killed_run_leaves_no_jobs_and_goes_on(tmp_path: Path) -> None:
    def hang_once(job: Job) -> dict[str, Any]:
        if job.kind == "reid" and not (tmp_path / "pid").exists():
            write_json(tmp_path / "pid", os.getpid())
            time.sleep(600)
        return note(tmp_path, job)

    run = multiprocessing.get_context("fork").Process(
        target=run_jobs, args=(toy_graph(), tmp_path, hang_once, 1)
    )
    run.start()
    wait_for(lambda: (tmp_path / "pid").exists())
    with pytest.raises(UsageError, match="another run is using it"):
        run_jobs(toy_graph(), tmp_path, hang_once, 1)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    wait_for(lambda: not is_running(read_json(tmp_path / "pid")))
    assert run_jobs(toy_graph(), tmp_path, hang_once, 1) == 3
    assert order(tmp_path) == list(toy_graph())


def test_a_run_stops_where_its_inputs_changed(tmp_path: Path) -> None:
    def changed() -> None:
        if (tmp_path / "order").exists():
            raise UsageError("weights changed")

    with pytest.raises(UsageError, match="weights changed"):
        run_jobs(toy_graph(), tmp_path, lambda job: note(tmp_path, job), 1, changed)
    assert order(tmp_path) == ["seed0/world"]


def test_the_outlook_counts_what_is_left(tmp_path: Path) -> None:
    graph = toy_graph()
    write_json(result_file(tmp_path, "seed0/world"), {"key": "a", "seconds": 120.0})
    assert outlook(graph, tmp_path, {"seed0/world"}, 1) == "3 left, 2 min and 2 jobs of kinds not timed yet"
    assert next_ready(graph, {"seed0/world"}, {"seed0/reid-static"}).name == "seed1/world"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Any, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# -------------------------------------------------------------------------------------------------- statistics, captions


def test_means_and_paired_differences_by_hand() -> None:
    assert mean_of([]) is None and mean_of([4.0]).error is None
    found = mean_of([1.0, 2.0, 6.0])  # deviations -2, -1, 3: variance 14 / 2, of the mean 7 / 3
    assert found.mean == 3.0 and found.error == pytest.approx(math.sqrt(7 / 3)) and found.count == 3
    difference = paired({0: 10.0, 1: 30.0, 2: 20.0, 5: 99.0}, {0: 8.0, 1: 25.0, 2: 21.0, 4: 0.0})  # 2, 5, -1
    assert (
        difference.mean == 2.0 and difference.error == pytest.approx(math.sqrt(3)) and difference.count == 3
    )
    assert difference.positive == 2
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_chance_by_hand() -> None:
    assert binomial_error([50.0], [2500]) == pytest.approx(1.0)  # sqrt(0.25 / 2500) = 0.01
    assert binomial_error([50.0, 50.0, 50.0], [2500] * 3) == pytest.approx(1 / math.sqrt(3))
    assert (
        by_chance(3, 3) == 0.25
        and by_chance(0, 3) == 0.25
        and by_chance(2, 3) == 1.0
        and by_chance(5, 5) == 0.0625
    )


def test_random_clusters_keep_their_sizes() -> None:
    before = [(0,), (0, 2), (1,), (), (0, 1, 2), (2,)] * 20
    after = shuffle_styles(before, seed=0)
    assert after != before and Counter(after) == Counter(before)
    assert Counter(style for ids in after for style in ids) == Counter(
        style for ids in before for style in ids
    )
    assert shuffle_styles(before, 0) == after != shuffle_styles(before, 1)


def test_template_hints_are_different_and_of_the_seed() -> None:
    hints = template_hints(0, 46)
    assert len(set(hints)) == 46 and hints == template_hints(0, 46) != template_hints(1, 46)


# ------------------------------------------------------------------------------------------------------------- the door


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
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    check_settings(GOOD, list(ROWS))
    with pytest.raises(UsageError, match=message):
        check_settings(replace(GOOD, **change), list(ROWS))


@pytest.mark.parametrize("name", ["ablation.yaml", "ablation_nano.yaml"])
def test_the_configs_are_read(script: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    settings, asked = script.read_settings(
        ["--config", f"configs/{name}", "--only-seeds", "0", "--only-rows", "none", "both"]
    )
    assert settings.seeds[0] == 0 and asked.only_rows == ["none", "both"]
    with pytest.raises(UsageError, match="--only-rows human: not known"):
        script.read_settings(["--config", f"configs/{name}", "--only-rows", "human"])
    with pytest.raises(SystemExit):
        script.read_settings(["--config", f"configs/{name}", "--reid.rate", "1"])


def test_nothing_to_collect_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no row is measured yet"):
        collect(GOOD, tmp_path, tmp_path / "results")


@pytest.mark.slow
def test_two_rows_from_the_world_to_the_table(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(TOP)
    words = [
        "ablation.py",
        "--config",
        "configs/ablation_nano.yaml",
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "results"),
        "--only-rows",
        "none",
        "both",
        "--curve.parts",
        "[]",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--jobs", "1"])
    script.main()
    assert "KMeans + UPS" in capsys.readouterr().out
    result = read_json(tmp_path / "results" / "ablation.json")
    assert list(result["rows"]) == ["none", "both"] and result["curve"] == {}
    both = result["rows"]["both"]["seeds"]["0"]
    assert 0 <= both["human"]["R1"] <= 100 and 0 < both["captions"]["precision"] <= 1
    captions = read_json(tmp_path / "work" / "seed0" / "captions" / "both.json")
    assert len(captions) == 32 and all(len(texts) == 2 for texts in captions.values())
    steps = [
        row["step"] for row in read_jsonl(tmp_path / "work/seed0/reid/both/metrics.jsonl") if "step" in row
    ]
    assert max(steps) == 4  # 32 images x 2 captions, batches of 16, one epoch
    assert {file.name for file in (tmp_path / "results").iterdir()} == {
        "ablation.json",
        "ablation.md",
        "ablation.png",
    }
    monkeypatch.setattr(sys, "argv", [*words, "--status"])
    script.main()
    assert "8 of 8 jobs done" in capsys.readouterr().out
    assert job_name("eval", 0, "both") in make_graph(replace(GOOD, curve=CurveOptions([])), [0], ["both"])
