"""eval on several checkpoints and own data, search in all its forms, embed: through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_reid_train import config_for, world  # noqa: F401  (the fixture)

from ham.clip import layouts
from ham.reid.train import train
from ham.runtime import UsageError
from train_reid import main, parse

FAST = ["--num-workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(config_for(world, out, method="sdm", epochs=1))
    return out / "last"


@pytest.fixture
def photos(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in sorted((world / "RSTPReid/imgs").rglob("*.*"))[:6]:
        (folder / image.name).write_bytes(image.read_bytes())
    return folder


# ---------------------------------------------------------------------------------------------------------------- eval


def test_several_checkpoints_give_a_matrix(
    world: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = f"[ours={checkpoint},clip={world / 'clip'}]"
    arguments = ["eval", "--checkpoints", sources, "--data-root", str(world), "--pictures", "0"]
    more = ["--test-datasets", "[RSTPReid]", "--output-dir", str(tmp_path), *FAST]
    assert main([*arguments, *more, "--published", "[HAM released file]"]) == 0
    out = capsys.readouterr().out
    for metric in ("R1", "mAP"):
        assert f"trained on \\ tested on, {metric}" in out
    assert "IRRA, CUHK-PEDES (published: ICL, Table 3)" in out and "| ours " in out and "| clip " in out
    assert "HAM released file" in out and "difference" in out
    rows = json.loads((tmp_path / "matrix.json").read_text())["results"]
    assert [row["source"] for row in rows] == ["ours", "clip"]
    assert (tmp_path / "ours/evaluation.json").is_file() and (tmp_path / "clip/evaluation.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint", "a", "--checkpoints", "[b]"], "exclude each other"),
        (["--checkpoints", "[x/a.pth,y/a.pth]"], "needs a name of its own"),
        (["--checkpoints", "[a=absent.pth]"], "absent.pth: no such file or folder"),
        (["--checkpoint", "a", "--published", "[HAM]"], "no published result is called 'HAM'"),
        (["--checkpoint", "a", "--test-datasets", "[m=x,m=y]"], "two datasets are called 'm'"),
        (["--checkpoint", "a", "--test-datasets", "[mine=absent]"], "absent: no such file or folder"),
    ],
)
def test_bad_eval_options_are_named_before_a_model_is_loaded(
    world: Path,
    options: list[str],
    said: str,
) -> None:
    with pytest.raises(UsageError, match=said):
        main(["eval", "--data-root", str(world), *options])


def test_own_folder_is_evaluated_without_a_data_root(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["image,caption"] + [f"{image.name},a person" for image in sorted(photos.iterdir())]
    (photos / "list.csv").write_text("\n".join(rows))
    spec = f"[mine={photos}]"
    arguments = ["eval", "--checkpoint", str(checkpoint), "--test-datasets", spec]
    assert main([*arguments, "--output-dir", str(tmp_path / "out"), *FAST]) == 0
    assert "| mine " in capsys.readouterr().out
    assert (tmp_path / "out/gallery_mine.png").is_file()


def test_a_checkpoint_is_opened_once(checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ham.reid import open_model

    opened = []
    read = layouts.read_weights
    monkeypatch.setattr(
        open_model, "read_weights", lambda source, *more: opened.append(source) or read(source, *more)
    )
    assert main(["search", "red", "--checkpoint", str(checkpoint), "--gallery", str(photos), *FAST]) == 0
    assert opened == [checkpoint]


# -------------------------------------------------------------------------------------------------------------- search


def search(checkpoint: Path, photos: Path, *options: str) -> int:
    return main(["search", "--checkpoint", str(checkpoint), "--gallery", str(photos), *FAST, *options])


@pytest.mark.parametrize("form", ["words", "option", "list", "yaml", "file"])
def test_queries_come_from_words_option_yaml_or_file(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    (tmp_path / "s.yaml").write_text("query: [a red man, a blue one]\n")
    (tmp_path / "q.txt").write_text("a red man\na blue one\n")
    options = {
        "words": ["a red man", "a blue one"],
        "option": ["--query", "a red man", "--query", "a blue one"],
        "list": ["--query=[a red man, a blue one]"],
        "yaml": ["--config", str(tmp_path / "s.yaml")],
        "file": ["--queries", str(tmp_path / "q.txt")],
    }
    assert search(checkpoint, photos, "--top", "2", *options[form]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["a red man", "a blue one"]
    assert len(lines) == 6


def test_words_win_over_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("query: [from the file]\n")
    assert parse(["search", "--config", str(tmp_path / "s.yaml"), "a man"])[1].query == ["a man"]


def test_search_writes_no_picture_unless_asked(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert search(checkpoint, photos, "a man") == 0
    assert list((tmp_path / "cwd").iterdir()) == []


def test_answers_as_json_by_picture_and_by_both(
    checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted(photos.glob("*.*"))[0]
    assert search(checkpoint, photos, "--json", "--image", str(image)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["image"] == str(image) == row["hits"][0]["image"] and row["hits"][0]["score"] > 0.999
    assert search(checkpoint, photos, "--json", "true", "--image", str(image), "a man", "a woman") == 0
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == [str(image)] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a man", "--output", "{folder}"], "is a folder; give a file name"),
        (["a man", "--output", "{folder}/x.html"], "written as PNG"),
        (["a man", "--output", "{folder}/x"], "written as PNG"),
        (["photos/1.jpg"], "is the path of a picture.*--image"),
        (["--image", "{folder}/absent.png"], "no such file"),
        (["--queries", "{folder}/absent.txt"], "no such file"),
        (["a man", "--top", "0"], "a top of 1 or more"),
        (["a man", "--batch-size", "0"], "--batch_size is 0; expected at least 1"),
        (["a man", "--num-workers", "-1"], "--num_workers is -1"),
        (["a man", "--max-failed-share", "2"], "--max_failed_share is 2.0; expected 0 to 1"),
    ],
)
def test_bad_search_options_are_named(
    checkpoint: Path, photos: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=said):
        search(checkpoint, photos, *(option.replace("{folder}", str(tmp_path)) for option in options))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broken_image_is_accepted_on_request(checkpoint: Path, photos: Path) -> None:
    (photos / "torn.jpg").write_bytes(b"torn")
    assert search(checkpoint, photos, "a man", "--max-failed-share", "0.5") == 0


# --------------------------------------------------------------------------------------------------------------- embed


def test_embed_images_and_captions(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    base = ["embed", "--checkpoint", str(checkpoint), "--out", str(out), *FAST]
    assert main([*base, "--images", str(photos), "--dtype", "fp32"]) == 0
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    feats = load_file(out)["features"]
    assert feats.dtype == torch.float32 and len(feats) == len(rows) == 6
    (tmp_path / "c.txt").write_text("a man\n")
    text = tmp_path / "t.safetensors"
    base = ["embed", "--checkpoint", str(checkpoint), "--out", str(text), *FAST]
    assert main([*base, "--captions", str(tmp_path / "c.txt")]) == 0
    assert load_file(text)["features"].dtype == torch.float16
    for options in ([], ["--images", str(photos), "--captions", str(tmp_path / "c.txt")]):
        with pytest.raises(UsageError, match="either --images DIR or --captions FILE"):
            main([*base, *options])


def test_pictures_of_queries_can_be_drawn(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    image = sorted(photos.glob("*.*"))[0]
    out = tmp_path / "found.png"
    assert search(checkpoint, photos, "--image", str(image), "--output", str(out), "穿红衣服的人") == 0
    assert Image.open(out).width > 300
