"""Stage 1, requests that cannot work: refused before any stage, by name, without running anything of a model or a YAML file."""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ham.locks import FileLock
from ham.runtime import UsageError, WorkError, log
from ham.style import build, neutral_cache
from ham.style.build import build_styles
from ham.style.config import ClusterSettings, FeatureSettings, NeutralSettings, StyleSettings
from ham.style.config_file import normalize_words, read_settings_file
from ham.style.features import hf_features
from ham.style.llm_neutral import LlmNeutralizer
from ham.style.neutral import NeutralText, keep


@pytest.fixture
def settings(tmp_path: Path) -> StyleSettings:
    """A request for styles of 40 captions that works."""
    rows = [
        {
            "split": "train",
            "file_path": f"{n}.png",
            "id": n,
            "captions": [f"A man in coat {n}.", f"{n}: a red hat!"],
        }
        for n in range(20)
    ]
    folder = tmp_path / "data" / "CUHK-PEDES"
    (folder / "imgs").mkdir(parents=True)
    (folder / "reid_raw.json").write_text(json.dumps(rows))
    return StyleSettings(
        str(tmp_path / "data"),
        str(tmp_path / "styles"),
        datasets=["CUHK-PEDES"],
        features=FeatureSettings("chars", dim=4),
        clusters=ClusterSettings(kmeans=2, ups=0),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"features": FeatureSettings("clip", source="/none/x.pt")},
            r"features\.source /none/x\.pt: no such file",
        ),
        ({"features": FeatureSettings("hf", source="/none/x")}, r"features\.source /none/x: no such folder"),
        ({"features": FeatureSettings("hf", source="tests/x")}, r"features\.source tests/x: no such folder"),
        ({"neutral": NeutralSettings("llm", model="./none")}, r"neutral\.model \./none: no such folder"),
        ({"neutral": NeutralSettings("llm", model="A/B", device="gpu")}, r"neutral\.device.*cuda"),
        ({"neutral": NeutralSettings("llm", model="A/B", dtype="int4")}, r"neutral\.dtype.*int4"),
        ({"neutral": NeutralSettings("llm", model="A/B", batch_size=0)}, r"neutral\.batch_size is 0"),
        ({"features": FeatureSettings(dim=0)}, r"features\.dim is 0"),
        ({"clusters": ClusterSettings(kmeans=41, ups=0)}, r"clusters\.kmeans 41: more clusters than the 40"),
        ({"clusters": ClusterSettings(kmeans=0, ups=2, nearest=41)}, r"clusters\.nearest 41: more captions"),
        ({"clusters": ClusterSettings(kmeans=-1)}, r"clusters\.kmeans is -1"),
        ({"clusters": ClusterSettings(beta=float("nan"))}, r"clusters\.beta is nan"),
        ({"clusters": ClusterSettings(dbscan=True, dbscan_eps=0.0)}, r"clusters\.dbscan_eps is 0"),
        ({"instruction": "<image> describe"}, "instruction is"),
        ({"instruction": " "}, "instruction is"),
        ({"instruction": "half \ud83d"}, "surrogate"),
        ({"out": " "}, "out is empty"),
        ({"seed": 2**70}, "seed is"),
    ],
)
def test_refused_before_the_language_model(
    settings: StyleSettings, change: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "neutral_stage", lambda *args: pytest.fail("the neutral stage ran"))
    with pytest.raises(UsageError, match=message):
        build_styles(replace(settings, **change))


@pytest.mark.parametrize("field", ["caption", "file_path"])
def test_half_a_surrogate_pair_names_the_record(settings: StyleSettings, field: str) -> None:
    file = Path(settings.root) / "CUHK-PEDES" / "reid_raw.json"
    rows = json.loads(file.read_text())
    rows[3]["captions" if field == "caption" else field] = (
        ["half \ud83d"] if field == "caption" else "x\ud83d.png"
    )
    file.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=r"reid_raw\.json.*3"):
        build_styles(settings)


# ------------------------------------------------------------------------------------------------------------------ models


@pytest.fixture
def model_with_code(tmp_path: Path) -> Path:
    """A model folder whose config.json asks for a Python file of its own; the file leaves a mark when it runs."""
    folder = tmp_path / "model"
    folder.mkdir()
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Model")
    config = {"model_type": "unheard_of", "auto_map": classes | {"AutoTokenizer": ["evil.Model", None]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Model", None]}})
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()\nclass Model: pass\n")
    return folder


@pytest.mark.parametrize("load", [lambda path: hf_features(["a"], path), LlmNeutralizer])
def test_code_of_a_model_never_runs(model_with_code: Path, load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(UsageError, match="model"):
        load(str(model_with_code))
    assert not (model_with_code.parent / "RAN").exists()


# -------------------------------------------------------------------------------------------------------------------- YAML


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "content, message",
    [
        (BOMB.encode(), "aliases"),
        (b"a: &a 1\nb: *a\n", "aliases"),
        (b"split: tr\xe4in\n", "not UTF-8"),
        (b"- split\n", "expected lines"),
        (b"split: [\n", "not valid YAML"),
        (b"seed: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        (b"features: {normalise: true, normalize: true}\n", "given twice"),
        (("[" * 5000).encode(), "not valid YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"c\.yaml.*{message}"):
        read_settings_file(str(tmp_path / "c.yaml"))


def test_yaml_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_settings_file(str(tmp_path / "none.yaml"))
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_settings_file(str(tmp_path / "empty.yaml")) == {}


def test_earlier_spellings_stay_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "neutraliser: {method: none, generalise: false}\nfeatures: {normalise: false}\nclusters: {standardise: true}\n"
    )
    assert read_settings_file(str(tmp_path / "c.yaml")) == {
        "neutral": {"method": "none", "generalize": False},
        "features": {"normalize": False},
        "clusters": {"standardize": True},
    }
    words = ["--features.normalise", "false", "--clusters.standardise=true", "--clusters.dbscan-eps", "2"]
    current = ["--features.normalize", "false", "--clusters.standardize=true", "--clusters.dbscan_eps", "2"]
    assert normalize_words(words) == current


# ------------------------------------------------------------------------------------------------------- folder and cache


def hold_lock(path: Path, ready, done) -> None:
    with FileLock(path):
        ready.set()
        done.wait(60)


def test_two_builders_do_not_share_a_folder(settings: StyleSettings) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(Path(settings.out) / ".lock", ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(WorkError, match="another build_styles"):
        build_styles(settings)
    done.set()
    other.join(60)
    assert (build_styles(settings) / "styles.json").exists() and not (Path(settings.out) / ".lock").exists()


def test_other_options_in_the_same_folder_are_logged(
    settings: StyleSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    build_styles(settings)
    caplog.clear()
    build_styles(replace(settings, clusters=ClusterSettings(kmeans=3, ups=0), instruction="Describe."))
    assert "clusters.kmeans: 2 -> 3" in caplog.text and "instruction" in caplog.text


def test_a_full_disk_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /dev/full")
    cache = tmp_path / "neutral.jsonl"
    cache.symlink_to("/dev/full")
    monkeypatch.setattr(neutral_cache, "read_cache", lambda path: {})
    with pytest.raises(OSError, match=r"No space left.*neutral\.jsonl"):
        neutral_cache.neutralize_cached(["a"], keep, cache)


@pytest.mark.parametrize(
    "line", ['{"caption": ["a"], "neutral": "b"}', '{"caption": 1, "neutral": 2}', "[]", "[" * 9999]
)
def test_a_cache_of_another_shape_is_named(tmp_path: Path, line: str) -> None:
    cache = tmp_path / "neutral.jsonl"
    cache.write_text(line + "\n")
    with pytest.raises(UsageError, match="damaged cache"):
        neutral_cache.neutralize_cached(
            ["a"], lambda texts: [NeutralText(text, text) for text in texts], cache
        )
