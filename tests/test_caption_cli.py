"""caption.py as a user runs it: on a tiny LLaVA, alone and with torchrun, resumed, refused, merged, looked at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from generation_helpers import run_caption
from PIL import Image
from processes import TORCHRUN
from tiny_llava import CONFIG, original_tensors, write_folder

from ham.captioner.checkpoint import load_captioner
from ham.captioner.model import weights_digest
from ham.generation import native_engine
from ham.generation.config import JobOptions
from ham.generation.native_engine import untrained_styles
from ham.generation.request import choose_styles
from ham.generation.shards import read_rows
from ham.records import read_json
from ham.runtime import log

TOP = Path(__file__).resolve().parent.parent
COUNT = 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("checkpoint") / "llava", original_tensors(), CONFIG)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(chance.integers(0, 255, (20, 10, 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:], log.propagate = handlers, True
    log.setLevel(level)


class Command:
    """Run caption.py's main in this process."""

    def __init__(self, checkpoint: Path, root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = [
            "--model-path",
            str(checkpoint),
            "--image-root",
            str(root),
            "--out",
            str(out),
            "--max-new-tokens",
            "14",
            "--workers",
            "0",
            "--shard-size",
            "4",
            "--max-failed-share",
            "1",  # the tiny model writes nonsense, which the filter rejects
        ]
        self.out, self.monkeypatch = out, monkeypatch

    def __call__(self, *more: str) -> int:
        return run_caption(*self.base, *more)


@pytest.fixture
def command(checkpoint: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(checkpoint, root, tmp_path / "out", monkeypatch)


def test_a_run_from_end_to_end(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    out = command.out
    summary = json.loads(capsys.readouterr().out)
    assert summary["complete"] and summary["images"] == COUNT and summary == read_json(out / "summary.json")
    rows = [row for shard in range(3) for row in read_rows(out / f"{shard:05d}.jsonl")]
    captions = read_json(out / "captions.json")
    assert (
        sum(map(len, captions.values()))
        == summary["captions_accepted"]
        == sum(row.status == "accepted" for row in rows)
    )
    assert {row.style_id for row in rows} == {0, 1, 2, 3}
    assert (out / "samples.html").read_text().count("<article ") == COUNT
    assert not list(out.glob("*.partial")) and not (out / "locks").exists() and not list(out.glob("*.lock"))
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.name != "metrics.jsonl"}
    assert command() == 0  # the same command again changes nothing
    assert before == {file.name: file.read_bytes() for file in out.iterdir() if file.name != "metrics.jsonl"}


def test_parts_and_batch_sizes_give_the_same_captions(command: Command, tmp_path: Path) -> None:
    assert command("--batch-size", "5") == 0
    expected = (command.out / "captions.json").read_bytes()
    command.base[5] = str(tmp_path / "parts")
    assert command("--shards", "1:3", "--batch-size", "1") == 0
    assert not (tmp_path / "parts" / "captions.json").exists()
    command.monkeypatch.setenv("RANK", "1")
    command.monkeypatch.setenv("WORLD_SIZE", "2")
    assert command() == 0  # rank 1 has nothing left to do
    command.monkeypatch.delenv("RANK")
    command.monkeypatch.delenv("WORLD_SIZE")
    assert command("--shards", "0:1", "--workers", "1") == 0  # the last part merges
    assert (tmp_path / "parts" / "captions.json").read_bytes() == expected


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--seed", "1"], "seed was 0, now 1"),
        (["--max-new-tokens", "15"], "max_new_tokens"),
        (["--prompt", "Who is it?"], "prompt was None"),
        (["--styles", "all"], "styles was"),
        (["--template", "llava_v0"], "template was"),
        (["--temperature", "1"], "temperature"),
        (["--vision-tower", "checkpoint"], "model was"),
        (["--limit", "5"], "9 images then, 5 now"),
        (["--dtype", "bf16"], "dtype was 'float32'"),
        (["--shard-size", "3"], "shard_size was 4"),
    ],
)
def test_a_resume_with_other_settings_is_refused(
    command: Command, capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    assert command("--shards", "0:1") == 0
    assert command(*words) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--styles", "9"], "styles 0 to 3"),
        (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--prompt", "<image> x"], "leave it out"),
        (["--top-p", "0"], "--top-p 0.0: expected above 0"),
        (["--images", "gone.json"], "no such file"),
        (["--image-root", "/gone"], "--image-root /gone: no such folder"),
        (["--device", "cuda"], "no GPU"),
    ],
)
def test_wrong_options_end_with_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert command(*words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert not (command.out / "plan.json").exists()


def test_a_checkpoint_that_would_crop_people_is_refused_and_the_remedy_works(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**CONFIG, "image_aspect_ratio": "anyres"}
    command.base[1] = str(write_folder(tmp_path / "anyres", original_tensors(), config))
    assert command() == 2
    said = capsys.readouterr().err
    assert "heads and feet off" in said
    remedy = re.search(r"use (--\S+) (\S+)", said).groups()
    assert command(*remedy, "--limit", "2") == 0


def test_strict_counts_failed_images(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("0.png\n../1.png\ngone.png\n")
    words = ["--images", str(tmp_path / "list.txt"), "--styles", "2,1"]
    assert command(*words) == 0
    assert json.loads(capsys.readouterr().out)["images_failed"] == 2
    assert command(*words, "--strict") == 1
    assert (
        run_caption("merge", str(command.out)) == 0
        and run_caption("merge", str(command.out), "--strict") == 1
    )
    rows = read_rows(command.out / "00000.jsonl")
    reasons = [row.reason for row in rows if row.status == "failed"]
    assert reasons == ["outside: the path leaves the image root", "missing: no such file"]


def test_status_and_merge_by_themselves(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("--shards", "0:2") == 0
    capsys.readouterr()
    assert run_caption("status", str(command.out)) == 0
    assert "8 of 9 (88.9 %)" in capsys.readouterr().out
    assert run_caption("merge", str(command.out)) == 0
    assert not json.loads(capsys.readouterr().out)["complete"]
    for word in ("status", "merge"):
        assert run_caption(word, str(tmp_path)) == 2
        assert "plan.json: no such file" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None                   # any import of it now fails
import caption
from ham.generation.image_lists import job_images
from ham.generation.plan import settle_plan
from pathlib import Path
settings = {"styles": "random", "style_pool": [0], "captions_per_image": 1, "max_redraws": 0, "seed": 0}
settings["reject_slash_n"] = False
settle_plan(Path(sys.argv[2]), lambda: job_images(Path(sys.argv[1])), settings, {})
for command in ("status", "merge"):
    sys.argv = ["caption.py", command, sys.argv[-1]]
    assert caption.main() == 0
"""


def test_planning_and_looking_at_a_job_need_no_torch(command: Command, root: Path, tmp_path: Path) -> None:
    assert command("--shards", "0:2") == 0
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(root), str(tmp_path / "plan"), str(command.out)],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 3 done" in done.stdout and (command.out / "captions.json").exists()
    assert read_json(tmp_path / "plan" / "plan.json")["images"] == COUNT


def test_a_sampled_run_and_a_run_without_styles(command: Command, tmp_path: Path) -> None:
    assert command("--styles", "none", "--temperature", "1", "--captions-per-image", "2") == 0
    rows = read_rows(command.out / "00000.jsonl")
    assert {row.style_id for row in rows} == {-1}
    assert len({(row.image, row.style_id, row.attempt) for row in rows}) == len(rows)
    by_image = [[row.caption for row in rows if row.image == image] for image in {row.image for row in rows}]
    assert all(len(set(captions)) == len(captions) >= 2 for captions in by_image)  # each draw is its own


def test_the_weights_digest_follows_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    tensors = original_tensors()
    digest = weights_digest(load_captioner(checkpoint).model)
    assert digest == weights_digest(load_captioner(write_folder(tmp_path / "b", tensors, CONFIG)).model)
    tensors["model.style_prompt.style_prompts"][-1, -1] += 1
    assert digest != weights_digest(load_captioner(write_folder(tmp_path / "c", tensors, CONFIG)).model)


def test_the_manifest_names_untrained_styles(tmp_path: Path) -> None:
    styles = TOP / "ham" / "world" / "weights" / "styles"
    folder = tmp_path / "adapter"
    shutil.copytree(styles, folder)
    base = str(styles.parent / "llava")
    options = JobOptions(model_path=str(folder), base_model=base)
    assert untrained_styles(options) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "untrained_styles": [1, 3]}))
    assert untrained_styles(options) == [1, 3]
    assert 1 not in choose_styles(options, native_engine, None)[0]


def test_styles_and_sizes_are_checked_before_the_model_is_loaded(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "ham.generation.native_engine.load_captioner", None
    )  # calling it would be a TypeError
    for words in (["--styles", "99"], ["--images", "gone.json"], ["--device", "gpu"], ["--dtype", "int8"]):
        assert command(*words) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(error) == 1, words


@pytest.mark.parametrize(
    "place", ["model.mm_projector.0.weight", "lm_head.weight", "model.style_prompt.style_prompts"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_fail_the_job(
    command: Command, tmp_path: Path, place: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = original_tensors()
    tensors[place][:] = value
    command.base[1] = str(write_folder(tmp_path / "broken", tensors, CONFIG))
    words = [word for word in command.base if word not in ("--max-failed-share", "1")]
    assert run_caption(*words, "--limit", "3") in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(("failed: ", "error: ")), lines
    assert not any("Traceback" in line for line in lines)


def test_help_lists_the_options(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["merge", "--help"], ["status", "--help"]):
        with pytest.raises(SystemExit) as stop:
            run_caption(*words)
        assert stop.value.code == 0
    assert "--captions-per-image" in capsys.readouterr().out


@pytest.mark.slow
def test_torchrun_with_two_processes(command: Command, tmp_path: Path) -> None:
    assert command() == 0
    expected = (command.out / "captions.json").read_bytes()
    command.base[5] = str(tmp_path / "two")
    done = subprocess.run(
        [*TORCHRUN, "2", str(TOP / "caption.py"), *command.base, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=TOP,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "two" / "captions.json").read_bytes() == expected
    assert json.loads(done.stdout)["complete"]
