"""Stage 1 end to end: from datasets on disk to styles/ and instructions.json, resumed, restarted and refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.numpy import load_file

from ham.records import read_json, read_jsonl
from ham.runtime import UsageError, exit_code_of, log
from ham.style import build
from ham.style.build import build_styles
from ham.style.config import ClusterSettings, FeatureSettings, NeutralSettings, StyleSettings

TOP = Path(__file__).resolve().parents[1]
MANNERS = [
    "A {who} is wearing a {shade} {top}.",
    "{shade} {top}, {who}!!",
    "in this photo there seems to be a {who} with a {top}",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two small datasets with 60 + 30 training captions, one empty caption, and a test split that must not be seen."""
    folder = tmp_path / "data"
    for name, annotation, count in (
        ("CUHK-PEDES", "reid_raw.json", 30),
        ("ICFG-PEDES", "ICFG-PEDES.json", 15),
    ):
        rows = []
        for index in range(count):
            words = {"who": ["man", "woman"][index % 2], "shade": ["red", "blue"][index % 2], "top": "coat"}
            captions = [MANNERS[at % 3].format(**words) for at in (index, index + 1)]
            rows.append(
                {"split": "train", "file_path": f"x/{index}.png", "id": index + 1, "captions": captions}
            )
        rows[0]["captions"] = [*rows[0]["captions"], "  \n"]
        rows.append({"split": "test", "file_path": "x/test.png", "id": 99, "captions": ["A SECRET caption."]})
        (folder / name / "imgs").mkdir(parents=True)
        (folder / name / annotation).write_text(json.dumps(rows))
    return folder


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> StyleSettings:
    return StyleSettings(
        str(root),
        str(tmp_path / "styles"),
        features=FeatureSettings("chars", dim=8),
        clusters=ClusterSettings(kmeans=3, ups=4, nearest=20),
    )


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/build_styles.py as a module."""
    spec = importlib.util.spec_from_file_location("build_styles_script", TOP / "scripts" / "build_styles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_outputs_keep_their_contracts(settings: StyleSettings, root: Path) -> None:
    out = build_styles(settings)
    rows = list(read_jsonl(out / "assignments.jsonl"))
    records = read_json(out / "instructions.json")
    facts = read_json(out / "styles.json")
    tensors = load_file(out / "styles.safetensors")

    assert len(rows) == 90 and set(rows[0]) == {"image", "caption", "style_ids"}
    assert rows[0]["image"] == "CUHK-PEDES/imgs/x/0.png" and rows[-1]["image"] == "ICFG-PEDES/imgs/x/14.png"
    assert not any("SECRET" in row["caption"] for row in rows)
    assert len(records) == sum(len(row["style_ids"]) for row in rows) == 90 + 4 * 20
    used = sorted({record["class_id"] for record in records})
    assert used == list(range(7)) and facts["schemes"] == {"kmeans": [0, 3], "ups": [3, 7]}
    assert tensors["centres"].shape == (7, 8) and tensors["mean"].shape == tensors["deviation"].shape == (8,)
    assert facts["counts"] == {
        "captions": 90,
        "empty_captions_dropped": 2,
        "styles": 7,
        "records": 170,
        "fallbacks": 0,
        "captions_without_style": 0,
    }
    assert (facts["K1"], facts["K2"], facts["beta"], facts["Q"], facts["seed"]) == (3, 4, 7.0, 20, 0)
    assert str(root) not in (out / "styles.json").read_text()


def test_the_captioner_reads_the_instructions(settings: StyleSettings) -> None:
    from ham.captioner.data import InstructionFile

    file = InstructionFile(build_styles(settings) / "instructions.json")
    assert (
        len(file) == 170
        and file.styles_needed() == 7
        and (file.style_ids >= 0).all()
        and (file.words > 0).all()
    )


def test_kmeans_styles_are_the_manners(settings: StyleSettings) -> None:
    rows = list(read_jsonl(build_styles(settings) / "assignments.jsonl"))
    manners = [0 if row["caption"].startswith("A ") else 1 if "!!" in row["caption"] else 2 for row in rows]
    assert len({(manner, row["style_ids"][0]) for manner, row in zip(manners, rows)}) == 3


def test_same_command_again_does_nothing(settings: StyleSettings) -> None:
    out = build_styles(settings)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    build_styles(settings)
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def test_only_what_changed_is_made_again(settings: StyleSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    out = build_styles(settings)
    first = (out / "assignments.jsonl").read_text()
    monkeypatch.setattr(build, "chars_features", lambda *args: pytest.fail("features were made again"))
    monkeypatch.setattr(
        build, "lexicon_neutralizer", lambda *args: lambda captions: pytest.fail("texts were made again")
    )
    build_styles(replace(settings, clusters=ClusterSettings(kmeans=2, ups=0)))
    assert read_json(out / "styles.json")["counts"]["styles"] == 2
    build_styles(settings)
    assert (out / "assignments.jsonl").read_text() == first
    with pytest.raises(pytest.fail.Exception, match="features"):
        build_styles(replace(settings, seed=1))


@pytest.mark.parametrize("stage", ["feature_stage", "cluster_stage", "write_instructions"])
def test_killed_and_resumed_equals_uninterrupted(
    settings: StyleSettings, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_styles(replace(settings, out=str(tmp_path / "whole")))

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, stage, killed)
        with pytest.raises(KeyboardInterrupt):
            build_styles(settings)
    resumed = build_styles(settings)
    for name in ("assignments.jsonl", "instructions.json", "styles.json", "styles.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_damaged_feature_cache_is_made_again(settings: StyleSettings) -> None:
    out = build_styles(settings)
    expected = (out / "styles.safetensors").read_bytes()
    (out / "cache" / "features.safetensors").write_bytes(b"junk")
    (out / "styles.json").unlink()
    assert (build_styles(settings) / "styles.safetensors").read_bytes() == expected


@pytest.mark.parametrize("method", ["lexicon", "none"])
def test_neutralizers_by_name(settings: StyleSettings, method: str) -> None:
    out = build_styles(replace(settings, neutral=NeutralSettings(method)))
    assert read_json(out / "styles.json")["neutralizer"]["method"] == method


def test_dbscan_takes_the_place_of_both(settings: StyleSettings) -> None:
    out = build_styles(replace(settings, clusters=ClusterSettings(dbscan=True, dbscan_min_samples=3)))
    facts = read_json(out / "styles.json")
    assert list(facts["schemes"]) == ["dbscan"] and facts["counts"]["styles"] >= 1
    ids = {style for row in read_jsonl(out / "assignments.jsonl") for style in row["style_ids"]}
    assert ids == set(range(facts["counts"]["styles"]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"root": "/nowhere"}, "root /nowhere: no such folder"),
        ({"features": FeatureSettings("clip")}, r"features\.encoder clip needs features\.source"),
        ({"clusters": ClusterSettings(kmeans=0, ups=0)}, "no styles"),
        (
            {"clusters": ClusterSettings(kmeans=91, ups=0)},
            r"clusters\.kmeans 91: more clusters than the 90 captions",
        ),
        ({"clusters": ClusterSettings(kmeans=0, ups=2, nearest=91)}, "nearest 91: more captions"),
        ({"datasets": []}, "no captions"),
        ({"datasets": ["CUHK"]}, "CUHK"),
        ({"split": "everything"}, "everything"),
        ({"instruction": "<image> say"}, "without <image>"),
    ],
)
def test_bad_requests_are_refused(settings: StyleSettings, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_styles(replace(settings, **change))
    assert not (Path(settings.out) / "styles.json").exists()


def test_command_line(
    root: Path,
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["build_styles.py", *words])
        return exit_code_of(script.main)

    monkeypatch.chdir(TOP)
    for name, value in (("handlers", []), ("propagate", log.propagate), ("level", log.level)):
        monkeypatch.setattr(log, name, value)  # main sets the log up: put it back for the other tests
    out = tmp_path / "styles"
    words = [
        "--config",
        "configs/styles_world.yaml",
        "--root",
        str(root),
        "--out",
        str(out),
        "--features.dim",
        "8",
        "--clusters.kmeans",
        "3",
        "--clusters.ups",
        "2",
        "--clusters.nearest",
        "10",
    ]
    assert run(*words) == 0
    assert "nearest: 10" in (out / "config.yaml").read_text()
    assert {record["class_id"] for record in read_json(out / "instructions.json")} == set(range(5))
    assert (
        run("build", "--config", str(out / "config.yaml")) == 0 and "is up to date" in capsys.readouterr().err
    )
    assert run(*words, "--clusters.nearest", "1000") == 2 and "nearest 1000" in capsys.readouterr().err
    assert run() == 2
    with pytest.raises(SystemExit) as stop:
        run(*words, "--clusters.nope", "1")
    assert stop.value.code == 2


@pytest.mark.parametrize("name", ["styles_table1", "styles_release", "styles_offline", "styles_world"])
def test_configs_parse(name: str, script: ModuleType) -> None:
    config = script.build_parser().parse_args(
        ["--config", str(TOP / f"configs/{name}.yaml"), "--root", "r", "--out", "o"]
    )
    assert config.clusters.kmeans > 0
