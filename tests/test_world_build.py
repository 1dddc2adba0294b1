"""A built world: the same bytes for any number of workers, the real datasets' formats, and no leak between stages."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ham.datasets import BENCHMARKS, image_root, read_dataset
from ham.records import read_json, read_jsonl
from ham.runtime import UsageError, WorkError, exit_code_of, numpy_generator
from ham.world.__main__ import main
from ham.world.attributes import FIELDS, IMAGE_FIELDS, agree
from ham.world.build import build_world
from ham.world.domains import DOMAINS, POOL, PRESETS
from ham.world.plan import plan_world
from ham.world.scene import sample_scene, visible_attributes
from ham.world.workers import worker_count
from ham.world.write import processed_tokens

KEYS = {
    "CUHK-PEDES": ("reid_raw.json", {"split", "captions", "file_path", "processed_tokens", "id"}),
    "ICFG-PEDES": ("ICFG-PEDES.json", {"split", "captions", "file_path", "processed_tokens", "id"}),
    "RSTPReid": ("data_captions.json", {"id", "img_path", "captions", "split"}),
    "SYNTH-PEDES": (
        "synthpedes_dataset.json",
        {"id", "file_path", "attributes", "captions", "prompt_caption"},
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "one"
    assert build_world(out, "nano", seed=0, workers=1)
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_bytes_do_not_depend_on_workers_or_place(world: Path, tmp_path: Path) -> None:
    build_world(tmp_path / "another place", "nano", seed=0, workers=2)
    assert hashes(tmp_path / "another place") == hashes(world)


def test_nothing_of_the_machine_is_written(world: Path) -> None:
    for file in [*world.rglob("*.json"), *world.rglob("*.jsonl")]:
        assert str(world.parent) not in file.read_text(encoding="utf-8")
    assert set(read_json(world / "world.json")) == {"preset", "seed", "version", "settings", "counts"}


def test_another_seed_is_another_world() -> None:
    one, two = plan_world(PRESETS["nano"], 0), plan_world(PRESETS["nano"], 1)
    assert [shot.person.attributes for shot in one.shots] != [shot.person.attributes for shot in two.shots]
    assert one.cameras != two.cameras
    assert (
        one.writers["CUHK-PEDES/train"].annotators[0].manner
        != two.writers["CUHK-PEDES/train"].annotators[0].manner
    )


@pytest.mark.parametrize("name", list(KEYS))
def test_annotations_have_the_real_keys_and_agree_with_the_truth(world: Path, name: str) -> None:
    file, keys = KEYS[name]
    records = read_json(world / name / file)
    images = list(read_jsonl(world / "truth" / f"{name}-images.jsonl"))
    path_key = "img_path" if name == "RSTPReid" else "file_path"
    assert all(set(record) == keys for record in records)
    assert [record[path_key] for record in records] == [image["image_path"] for image in images]
    assert len({record[path_key] for record in records}) == len(records)
    assert [record["id"] for record in records] == [image["person_id"] for image in images]
    assert min(record["id"] for record in records) == (1 if name == "CUHK-PEDES" else 0)
    written: dict[str, list[str]] = {}
    for row in read_jsonl(world / "truth" / f"{name}-captions.jsonl"):
        written.setdefault(row["image_path"], []).append(row["caption"])
    if name != POOL:
        assert all(record["captions"] == written[record[path_key]] for record in records)
        assert all(len(record["captions"]) == DOMAINS[name].captions for record in records)
        splits = {"train", "test"} if name == "ICFG-PEDES" else {"train", "val", "test"}
        assert {record["split"] for record in records} == splits
    else:
        assert all(
            len(written[record["file_path"]]) == 2 and len(record["captions"]) == 1 for record in records
        )
        assert all(record["file_path"].split("/")[1] == str(record["id"]) for record in records)
    if "processed_tokens" in keys:
        assert all(
            record["processed_tokens"] == [processed_tokens(text) for text in record["captions"]]
            for record in records
        )


@pytest.mark.parametrize("name", list(KEYS))
def test_the_readers_take_it_and_every_picture_opens(world: Path, name: str) -> None:
    read = read_dataset(world, name)
    counts = read_json(world / "world.json")["counts"][name]
    assert len(read) == sum(split["images"] for split in counts.values())
    for record in read:
        with Image.open(image_root(world, name) / record.image_path) as picture:
            assert picture.mode == "RGB" and picture.height in range(45, 90)
            picture.load()


def test_persons_and_annotators_of_the_splits_are_different_people(world: Path) -> None:
    writers: dict[str, set[str]] = {}
    for name in (*BENCHMARKS, POOL):
        split_of = {
            row["image_path"]: (row["split"], row["person_id"])
            for row in read_jsonl(world / "truth" / f"{name}-images.jsonl")
        }
        persons: dict[str, set[int]] = {}
        for split, person in split_of.values():
            persons.setdefault(split, set()).add(person)
        assert sum(len(each) for each in persons.values()) == len(set().union(*persons.values()))
        for row in read_jsonl(world / "truth" / f"{name}-captions.jsonl"):
            side = "train" if split_of[row["image_path"]][0] == "train" else "test"
            writers.setdefault(f"{name}/{side}", set()).add(row["annotator_id"])
    for name in BENCHMARKS:
        assert not writers[f"{name}/train"] & writers[f"{name}/test"]
    plan = plan_world(PRESETS["nano"], 0)
    trainers = {
        annotator.annotator_id
        for name in ("CUHK-PEDES", "ICFG-PEDES")
        for annotator in plan.writers[f"{name}/train"].annotators
    }
    assert writers[f"{POOL}/train"] <= trainers
    manners = read_json(world / "truth" / "annotators.json")
    assert set().union(*writers.values()) <= set(manners)


def test_icfg_folders_are_not_the_split(world: Path) -> None:
    records = read_json(world / "ICFG-PEDES" / "ICFG-PEDES.json")
    pairs = {(record["split"], record["file_path"].split("/")[0]) for record in records}
    assert len(pairs) == 4


def test_foundation_has_all_manners_with_hints_and_the_plain_one(world: Path) -> None:
    folder = world / "foundation"
    images = [row["image_path"] for row in read_jsonl(folder / "images.jsonl")]
    captions: dict[str, list[dict]] = {}
    for row in read_jsonl(folder / "captions.jsonl"):
        assert set(row) == {"image_path", "caption", "hint", "manner"}
        captions.setdefault(row["image_path"], []).append(row)
    assert list(captions) == images and all((folder / "imgs" / path).is_file() for path in images)
    assert all([row["hint"] == "" for row in rows] == [True, False, False] for rows in captions.values())
    short = list(read_jsonl(folder / "short.jsonl"))
    assert [row["image_path"] for row in short] == images
    longest = np.mean([len(rows[0]["caption"].split()) for rows in captions.values()])
    assert np.mean([len(row["caption"].split()) for row in short]) < 0.6 * longest
    texts = [row["caption"] for row in read_jsonl(folder / "texts.jsonl")]
    assert len(texts) == PRESETS["nano"].texts and len(set(texts)) > 0.9 * len(texts)


def test_truth_only_holds_known_values_and_captions_only_what_shows(world: Path) -> None:
    for name in (*BENCHMARKS, POOL):
        seen = {
            row["image_path"]: row["attributes"]
            for row in read_jsonl(world / "truth" / f"{name}-images.jsonl")
        }
        assert all(
            value in FIELDS[field] for attributes in seen.values() for field, value in attributes.items()
        )
        for row in read_jsonl(world / "truth" / f"{name}-captions.jsonl"):
            attributes = seen[row["image_path"]]
            assert all(
                field in attributes and agree(field, value, attributes[field])
                for field, value in row["mentioned"].items()
            )


def test_test_persons_can_mostly_but_not_always_be_told_apart() -> None:
    plan = plan_world(PRESETS["demo"], 0)
    for name in BENCHMARKS:
        shots = [shot for shot in plan.shots if (shot.domain, shot.split) == (name, "test")]
        gallery = []
        for shot in shots:
            scene = sample_scene(numpy_generator(0, "test", shot.image_path), DOMAINS[name].framing)
            gallery.append(visible_attributes(shot.person.attributes, scene))
        ties, hits = numpy_generator(0, "ties", name), 0
        queries = range(0, len(shots), max(1, len(shots) // 100))
        for query in queries:
            told = {field: value for field, value in gallery[query].items() if field not in IMAGE_FIELDS}
            scores = [
                sum(
                    (1 if agree(field, value, seen[field]) else -1)
                    for field, value in told.items()
                    if field in seen
                )
                for seen in gallery
            ] + ties.uniform(0, 0.01, len(shots))
            hits += shots[int(np.argmax(scores))].person.person_id == shots[query].person.person_id
        assert 0.6 < hits / len(queries) < 0.98


# ------------------------------------------------------------------------------------------------------------- at the door


def test_a_complete_world_is_left_alone(world: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in world.rglob("*")}
    assert build_world(world, "nano", seed=0) is False
    assert exit_code_of(lambda: main(["build", "--out", str(world), "--preset", "nano"])) == 0
    assert {file: file.stat().st_mtime_ns for file in world.rglob("*")} == before


def test_a_world_of_other_settings_is_refused(world: Path) -> None:
    with pytest.raises(UsageError, match="seed 0 instead of 1"):
        build_world(world, "nano", seed=1)
    with pytest.raises(UsageError, match="preset 'nano' instead of 'demo'"):
        build_world(world, "demo", seed=0)


def test_a_folder_of_anything_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert exit_code_of(lambda: main(["build", "--out", str(tmp_path), "--preset", "nano"])) == 2
    assert "not a complete world" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="is a file"):
        build_world(tmp_path / "thesis.txt", "nano")


@pytest.mark.parametrize("stage", ["draw_and_describe", "write_foundation", "_publish"])
def test_a_stopped_build_starts_over_with_the_same_command(
    world: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(f"ham.world.build.{stage}", stop)
        with pytest.raises(KeyboardInterrupt):
            build_world(out, "nano", workers=1)
    assert not out.exists()
    assert build_world(out, "nano", workers=1)
    assert hashes(out) == hashes(world)
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]


def test_an_empty_folder_that_cannot_be_replaced_is_filled(world: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "mounted"
    out.mkdir()
    rename = Path.replace

    def busy(path: Path, target: Path) -> Path:
        if Path(target) == out:
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", busy)
    assert build_world(out, "nano", workers=1)
    assert hashes(out) == hashes(world)


def test_two_builds_of_one_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ham.world", "build", "--preset", "demo", "--workers", "1", "--out"]
    first = subprocess.Popen([*words, str(tmp_path / "w")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any((tmp_path / ".w.building").rglob("*.jpg")))
        with pytest.raises(WorkError, match="another process"):
            build_world(tmp_path / "w", "nano")
    finally:
        first.kill()
        first.wait()
    assert build_world(tmp_path / "w", "nano", workers=1)


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert exit_code_of(lambda: build_world(tmp_path / "w", "nano", workers=1)) == 1
    assert ".jpg" in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_too_many_workers_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham.world.workers.core_count", lambda: 2)
    assert worker_count(100_000) == 8 and worker_count(3) == 3 and worker_count(None) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_build_leaves_no_workers_and_no_world(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    # The demo preset: a build that is still drawing when it is killed.
    words = ["-m", "ham.world", "build", "--out", str(out), "--preset", "demo", "--workers", "2"]
    build = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
    wait_for(lambda: any((tmp_path / ".killed.building").rglob("*.jpg")))
    workers = [int(pid) for pid in Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()]
    build.kill()
    build.wait()
    assert workers
    wait_for(lambda: not any(running(pid) for pid in workers))
    assert not out.exists()
    assert build_world(out, "nano", workers=1)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def _die(job: tuple) -> None:
    os._exit(9)


@pytest.mark.skipif(sys.platform != "linux", reason="the patched function reaches only forked workers")
def test_a_killed_worker_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham.world.workers._run", _die)
    with pytest.raises(WorkError, match="a worker process was killed"):
        build_world(tmp_path / "killed", "nano", workers=2)
    assert not (tmp_path / "killed" / "world.json").exists()


@pytest.mark.parametrize("broken", ["[]", json.dumps({"preset": "nano"})])
def test_a_foreign_world_file_is_refused(tmp_path: Path, broken: str) -> None:
    (tmp_path / "world.json").write_text(broken)
    with pytest.raises(UsageError, match="other settings"):
        build_world(tmp_path, "nano")


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="giant: not known; use one of nano, demo, full"):
        build_world(tmp_path / "new", "giant")
    with pytest.raises(UsageError, match="expected 1 or more"):
        build_world(tmp_path / "new", "nano", workers=0)
    assert exit_code_of_words(["build", "--out", "", "--preset", "nano"]) == 2
    assert not (tmp_path / "new").exists()


def exit_code_of_words(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code
