"""What users get wrong, and what goes wrong under them: caption.py must end with one clear line or with whole results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_engine
from generation_helpers import all_rows, run_caption
from PIL import Image

from ham.generation import engines
from ham.generation.image_lists import choose_sample, job_images
from ham.records import CaptionRow, read_json
from ham.runtime import UsageError, log

TOP = Path(__file__).resolve().parent.parent
COUNT = 14


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(engines.ENGINES, "toy", "toy_engine")
    for name, value in {"reject_every": 4, "empty": False, "rejects": ""}.items():
        monkeypatch.setitem(toy_engine.SWITCHES, name, value)
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:], log.propagate = handlers, True
    log.setLevel(level)


def draw(path: Path, number: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8), (10 * number, 5, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(COUNT):
        draw(tmp_path / "images" / f"{number:02d}.png", number)
    return tmp_path / "images"


class Command:
    """Run caption.py with the toy engine in this process."""

    def __init__(self, root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.out, self.capsys = root, out, capsys

    def __call__(self, *more: str, out: Path | None = None, root: Path | None = None) -> int:
        base = ["--engine", "toy", "--model-path", "toy", "--image-root", str(root or self.root)]
        base += ["--out", str(out or self.out), "--workers", "0", "--shard-size", "5"]
        return run_caption(*base, *more)

    def last_line(self) -> str:
        """Return the last line of standard error, which must be the only error."""
        lines = self.capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith(("error: ", "failed: "))]
        assert len(errors) == 1 and lines[-1] == errors[0], lines
        return errors[0]

    def rows(self, out: Path | None = None) -> list[CaptionRow]:
        return all_rows(out or self.out)


@pytest.fixture
def command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(root, tmp_path / "out", capsys)


def shards(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("[0-9]*.jsonl")}


# ------------------------------------------------------------------------------------------------- everything has failed


def test_a_wrong_image_root_fails_and_the_right_one_is_a_retry(command: Command, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([f"{number:02d}.png" for number in range(COUNT)]))
    words = ["--images", str(tmp_path / "list.json")]
    (tmp_path / "unmounted").mkdir()
    assert command(*words, root=tmp_path / "unmounted") == 1
    line = command.last_line()
    assert f"{COUNT} of {COUNT} images have no caption" in line and "caption.py retry" in line
    assert len((command.out / "failed.jsonl").read_text().splitlines()) == COUNT
    assert command(*words) == 2
    assert "image_root was" in command.last_line()
    assert run_caption("retry", str(command.out), "--image-root", str(command.root)) == 0
    assert command(*words, out=tmp_path / "fresh") == 0
    assert shards(command.out) == shards(tmp_path / "fresh")
    for name in ("captions.json", "failed.jsonl"):
        assert (command.out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert command(*words) == 0  # the job goes on under the new root


def test_retry_redoes_what_failed_and_nothing_else(command: Command, tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(COUNT)]
    (tmp_path / "list.txt").write_text("\n".join([*names[:6], "late.png", *names[6:]]))
    words = ["--images", str(tmp_path / "list.txt")]
    toy_engine.SWITCHES["rejects"] = "03"
    assert command(*words) == 0
    before = {row.image: [] for row in command.rows()}
    for row in command.rows():
        before[row.image].append(row)
    assert json.loads((command.out / "failed.jsonl").read_text())["image"] == "late.png"
    assert {row.status for row in before["03.png"]} == {"rejected"}
    draw(command.root / "late.png")
    toy_engine.SWITCHES["rejects"] = ""
    calls = []
    real = toy_engine.ToyEngine.caption

    def caption(self, images, pixels, draws):
        calls.extend(images)
        return real(self, images, pixels, draws)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_engine.ToyEngine, "caption", caption)
        assert run_caption("retry", str(command.out)) == 0
    short = {image for image, rows in before.items() if sum(row.status == "accepted" for row in rows) < 2}
    assert set(calls) == short >= {"late.png", "03.png"}
    after = {row.image: [] for row in command.rows()}
    for row in command.rows():
        after[row.image].append(row)
    assert all(after[image] == rows for image, rows in before.items() if image not in short)
    assert command(*words, out=tmp_path / "fresh") == 0
    assert shards(command.out) == shards(tmp_path / "fresh")


def test_retry_that_is_killed_loses_no_row(command: Command, tmp_path: Path) -> None:
    toy_engine.SWITCHES["rejects"] = "03"
    assert command() == 0
    toy_engine.SWITCHES["rejects"] = ""

    def die(self, source):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_engine.ToyEngine, "run", die)
        assert run_caption("retry", str(command.out)) == 130
    assert command() == 0  # the ordinary command finishes what retry began
    assert command(out=tmp_path / "fresh") == 0
    assert shards(command.out) == shards(tmp_path / "fresh")


def test_a_model_that_writes_nothing_fails_the_job(command: Command) -> None:
    toy_engine.SWITCHES["empty"] = True
    assert command() == 1
    line = command.last_line()
    assert "have no caption" in line and "short" in line
    assert command("--max-failed-share", "1") == 0


def test_most_failed_is_judged_by_the_share(command: Command, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("00.png\n" + "".join(f"gone{number}.png\n" for number in range(3)))
    words = ["--images", str(tmp_path / "list.txt")]
    assert command(*words) == 0
    assert command(*words, "--max-failed-share", "0.7") == 1
    assert "3 of 4 images" in command.last_line()
    assert command(*words, "--strict") == 1


# ------------------------------------------------------------------------------------------------------------ image lists


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bom.txt", "\ufeff01.png\n02.png\n"),
        ("crlf.TXT", "01.png\r\n02.png\r\n"),
        ("list.lst", "01.png\n\n02.png\n01.png\n"),
        ("separators.txt", ".\\01.png\n./01.png\n.//02.png\n02.png\n"),
        ("list.csv", 'id,path,text\n1,01.png,a man\n2,02.png,"a, b"\n'),
        ("list.tsv", "filename\tid\n01.png\t1\n02.png\t2\n"),
        ("records.jsonl", '{"file_name": "01.png"}\n"02.png"\n{"image": "./01.png"}\n'),
        ("keys.json", '[{"filename": "01.png"}, {"path": "02.png"}, {"file_name": ".\\\\02.png"}]'),
        (
            "coco.json",
            '{"info": {"year": 2020}, "images": [{"id": 1, "file_name": "01.png"}, {"file_name": "02.png"}]}',
        ),
        ("captions.json", '{"01.png": "a man", "02.png": ["a", "b"]}'),
        ("utf16.txt", "utf-16"),
    ],
)
def test_lists_of_every_kind(root: Path, tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    if text == "utf-16":
        file.write_text("01.png\n02.png\n", encoding="utf-16")
    else:
        file.write_bytes(text.encode())
    assert list(job_images(root, file)) == ["01.png", "02.png"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.json", b'{"data": [{"image": "01.png"}]}', "key 'data': found dict"),
        ("x.json", b'{"info": {}, "annotations": []}', "key 'info': found dict"),
        ("x.json", b'{"a.jpg": 3}', "key 'a.jpg': found int"),
        ("x.json", b'["\\ud800.jpg"]', "record 0: half of a surrogate pair"),
        ("x.json", b"[" * 50_000, "nested too deeply"),
        ("x.json", b"9" * 5000, "not valid JSON"),
        ("x.json", b'{"image": "a"}\n{"image": "b"}', "looks like JSON lines"),
        ("x.jsonl", b'{"image": "a"}\n{"text": "b"}', "line 2: no image path"),
        ("x.jsonl", b'{"image": "a"}\n{"image": ', "line 2: not valid JSON"),
        ("x.csv", b"id,text\n1,a man\n", "names no image column"),
        ("x.csv", b"id,path\n1,a\n2\n", "row 3: no column path"),
        ("x.txt", b"m\xfcller.jpg\n", "line 1: not UTF-8"),
        ("x.txt", b"\n\n", "no images to caption"),
        ("x.yaml", b"- a.jpg", "a list in .yaml files is not known"),
        ("x.parquet", b"PAR1", "is not known"),
    ],
)
def test_lists_that_cannot_be_are_refused(
    command: Command, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert command("--images", str(tmp_path / name)) == 2
    assert message in command.last_line()
    assert not (command.out / "plan.json").exists()


def test_absolute_paths_below_the_root_become_relative(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    lines = [str(root / "01.png"), str(root.resolve() / "02.png"), "01.png", "/etc/passwd"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert list(job_images(root, tmp_path / "list.txt")) == ["01.png", "02.png", "/etc/passwd"]
    (tmp_path / "list.json").write_text(json.dumps([str(tmp_path / "link" / "03.png"), str(root / "04.png")]))
    assert list(job_images(tmp_path / "link", tmp_path / "list.json")) == ["03.png", "04.png"]


def test_a_sample_is_random_and_repeats() -> None:
    paths = [f"Part{number % 11}/{number}.jpg" for number in range(5000)]
    chosen = choose_sample(paths, 1000, 0)
    assert len(chosen) == 1000 and chosen == [path for path in paths if path in set(chosen)]
    assert choose_sample(paths, 1000, 0) == chosen != choose_sample(paths, 1000, 1)
    assert set(choose_sample(paths[::-1], 1000, 0)) == set(chosen)
    parts = [sum(path.startswith(f"Part{part}/") for path in chosen) for part in range(11)]
    assert min(parts) > 50 and max(parts) < 140
    assert choose_sample(paths, 10_000, 0) == paths


# ---------------------------------------------------------------------------------------------------------------- readers


def test_an_image_that_kills_its_reader_becomes_a_row(command: Command, tmp_path: Path) -> None:
    assert command(out=tmp_path / "calm") == 0
    draw(command.root / "deadly.png")
    draw(command.root / "fragile.png")
    assert command("--workers", "2") == 0
    failed = [row for row in command.rows() if row.status == "failed"]
    assert [row.image for row in failed] == ["deadly.png"] and "died at it twice" in failed[0].reason
    calm = {row.image: row for row in command.rows(tmp_path / "calm")}
    assert {row.image: row for row in command.rows() if row.image in calm} == calm
    assert any(row.image == "fragile.png" and row.status == "accepted" for row in command.rows())


def test_pipes_in_the_folder_become_rows(command: Command) -> None:
    os.mkfifo(command.root / "pipe.jpg")
    assert command() == 0
    assert [row.image for row in command.rows() if row.status == "failed"] == ["pipe.jpg"]


# ------------------------------------------------------------------------------------------------------------------ greedy


def test_greedy_decoding_never_draws_a_style_twice(command: Command, tmp_path: Path) -> None:
    assert command("--styles", "3", "--captions-per-image", "2") == 2
    assert "greedy decoding gives the same caption" in command.last_line()
    assert command("--styles", "3") == 0
    rows = command.rows()
    assert any(row.status == "rejected" for row in rows)
    assert len({(row.image, row.style_id) for row in rows}) == len(rows) == COUNT
    assert command("--styles", "3", "--temperature", "1", out=tmp_path / "sampled") == 0
    assert len(command.rows(tmp_path / "sampled")) > COUNT


# ---------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "gone.json"], "--images gone.json: no such file"),
        (["--styles", "99"], "styles 0 to 6"),
        (["--styles", ""], "--styles '': expected a value"),
        (["--top-p", "0"], "--top-p 0.0: expected above 0"),
        (["--top-p", "nan"], "--top-p: expected a number, found nan"),
        (["--temperature", "nan"], "--temperature: expected a number"),
        (["--temperature", "inf"], "--temperature: expected a number"),
        (["--captions-per-image", "100000"], "--captions-per-image 100000: expected at most 1000"),
        (["--workers", "100000"], "--workers 100000: expected at most 256"),
        (["--out", ""], "--out '': expected a value"),
        (["--out="], "--out '': expected a value"),
        (["--out", __file__], "is a file"),
        (["--engine", "x"], "expected one of native, server"),
        (["--shards", "1"], "expected a:b"),
        (["--shards", "3:1"], "expected a:b"),
        (["--limit", "0"], "--limit 0: expected at least 1"),
        (["--limit", "x"], "--limit: "),
        (["--temperature", "-1"], "--temperature -1.0: expected 0 (greedy)"),
        (["--sample", "0"], "--sample 0"),
        (["--prompt", "<image> who"], "leave it out"),
        (["--load-4bit"], "4-bit weights are not supported"),
        (["--num-chunks", "4"], "--shards A:B"),
        (["--chunk-idx", "1"], "--shards A:B"),
        (["--model-base", "x"], "--base-model"),
        (["--captions"], "did you mean --captions-per-image?"),
        (["--max_failed_share", "2"], "expected at most 1"),
        (["--config", "gone.yaml"], "gone.yaml"),
        (["stray"], "stray"),
    ],
)
def test_wrong_options_end_before_the_model_is_loaded(
    command: Command, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_engine, "open_engine", None)  # calling it would be a TypeError
    assert command(*words) == 2
    assert message in command.last_line()
    assert not (command.out / "plan.json").exists()


def test_options_come_from_yaml_and_the_command_line_wins(command: Command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("captions_per_image: 3\nseed: 5\nmodel_path: toy\nengine: toy\n")
    assert command("--config", str(job), "--seed", "6") == 0
    settings = read_json(command.out / "plan.json")["settings"]
    assert (settings["captions_per_image"], settings["seed"]) == (3, 6)
    for text in (
        "captions: 3\n",
        "a: &a [*a]\n",
        "x: [\n",
        "seed: !!python/object/apply:os.system ['true']\n",
    ):
        job.write_text(text)
        assert command("--config", str(job)) == 2
        command.last_line()
    job.write_bytes(b"prompt: M\xfcller\n")
    assert command(f"--config={job}") == 2
    assert "line 1: not UTF-8" in command.last_line()


# ------------------------------------------------------------------------------------------------------------- interrupted


def test_receipts_of_an_interrupted_job_count_all_tokens(command: Command, tmp_path: Path) -> None:
    assert command(out=tmp_path / "calm") == 0
    real, seen = toy_engine.ToyEngine._caption, []

    def caption(self, *one):
        seen.append(one)
        if len(seen) in (9, 17, 25):
            raise KeyboardInterrupt
        return real(self, *one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_engine.ToyEngine, "_caption", caption)
        codes = [command("--batch-size", "1") for _ in range(4)]
    assert codes.count(130) >= 2 and command() == 0
    for file in (tmp_path / "calm").glob("[0-9]*.json"):
        calm, stormy = read_json(file), read_json(command.out / file.name)
        for key in ("tokens", "accepted", "rejected", "failed", "reasons", "images"):
            assert stormy[key] == calm[key], (file.name, key)


def test_sigterm_ends_with_one_line_and_whole_files(command: Command, tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.path.insert(0, 'tests')\n"
        "from ham.generation import engines; engines.ENGINES['toy'] = 'toy_engine'\n"
        "import toy_engine, caption\nfrom ham.runtime import exit_code_of\n"
        "real = toy_engine.ToyEngine._caption\n"
        "toy_engine.ToyEngine._caption = lambda self, *one: (time.sleep(0.2), real(self, *one))[1]\n"
        "sys.exit(exit_code_of(caption.main))"
    )
    words = [
        "--engine",
        "toy",
        "--model-path",
        "toy",
        "--image-root",
        str(command.root),
        "--out",
        str(command.out),
    ]
    job = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--workers", "1", "--shard-size", "5", "--batch-size", "1"],
        cwd=TOP,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(command.out.glob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 143
    assert "stopped by SIGTERM" in said.splitlines()[-1] and "Traceback" not in said
    assert command() == 0
    assert command(out=tmp_path / "calm") == 0
    assert shards(command.out) == shards(tmp_path / "calm")


# --------------------------------------------------------------------------------------------------------------- old jobs


def as_first_version(out: Path, **changed: object) -> None:
    """Bring a job's plan to what the first version wrote."""
    plan = read_json(out / "plan.json")
    for name in ("engine", "image_root", "repeat_styles"):
        plan["settings"].pop(name)
    plan["info"] = {"model_path": "toy", "image_root": plan["info"]["image_root"], "images": "", **changed}
    (out / "plan.json").write_text(json.dumps(plan))


def test_jobs_of_the_first_version_go_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.ENGINES, "native", "toy_engine")
    monkeypatch.setattr("ham.generation.plan.BEFORE", {"engine": "toy"})
    assert command("--shards", "0:1") == 0
    as_first_version(command.out)
    for partial in command.out.glob("*.partial"):
        assert '"tokens"' in partial.read_text()
    draw(command.root / ".hidden.png")  # the first version listed hidden files too: another list today
    plan = read_json(command.out / "plan.json")
    plan["image_list"] = "0" * 64
    (command.out / "plan.json").write_text(json.dumps(plan))
    assert command() == 0
    assert command("--limit", "3") == 2
    assert "another image list" in command.last_line()
    assert command(root=tmp_path) == 2
    assert "image_root was" in command.last_line()
    assert command(out=tmp_path / "fresh") == 0
    assert (command.out / "captions.json").read_bytes() == (tmp_path / "fresh" / "captions.json").read_bytes()


def test_choosing_more_than_there_is_is_no_error() -> None:
    with pytest.raises(UsageError, match="no such folder"):
        list(job_images("/gone"))
