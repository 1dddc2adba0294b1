"""caption.py with servers: real HTTP, servers that lie, hang, fail, die and are swapped; kills on both sides."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_server import ANSWERS, Behavior, FakeServer, caption_of, digest_of, start_process, write_export
from generation_helpers import all_rows, run_caption
from PIL import Image

from ham.generation import server_pool
from ham.generation.server_client import ServerClient
from ham.generation.server_export import LoadPng
from ham.generation.server_http import Unavailable, split_url
from ham.records import CaptionRow, read_json
from ham.runtime import UsageError, log

TOP = Path(__file__).resolve().parent.parent
COUNT = 12


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(server_pool, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(server_pool, "LONGEST_PAUSE_S", 0.2)
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:], log.propagate = handlers, True
    log.setLevel(level)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        Image.new("RGB", (10, 20), (20 * number, 5, 90)).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


class Command:
    """Run caption.py with the server engine in this process."""

    def __init__(self, export: Path, root: Path, out: Path) -> None:
        self.out, self.root = out, root
        self.base = [
            "--engine",
            "server",
            "--model-path",
            str(export),
            "--image-root",
            str(root),
            "--out",
            str(out),
        ]
        self.base += [
            "--workers",
            "0",
            "--shard-size",
            "4",
            "--concurrency",
            "4",
            "--server-patience-s",
            "20",
        ]
        self.base += ["--server-timeout-s", "4"]

    def __call__(self, *more: str) -> int:
        return run_caption(*self.base, *more)

    def rows(self) -> list[CaptionRow]:
        return all_rows(self.out)


@pytest.fixture
def command(export: Path, root: Path, tmp_path: Path) -> Command:
    return Command(export, root, tmp_path / "out")


def sent(root: Path, image: str) -> str:
    """Return the digest of an image as it is sent."""
    return digest_of(LoadPng(28)(root / image).tobytes())


def check_rows(command: Command, salt: str = "") -> None:
    """Check that every row holds the server's caption of that image in that style, and that nothing is missing."""
    rows = command.rows()
    assert {row.image for row in rows} == {f"{number:02d}.png" for number in range(COUNT)}
    for row in rows:
        assert row.caption == caption_of(sent(command.root, row.image), row.style_id, salt), row
    assert any(row.status == "rejected" for row in rows), "some captions must have been drawn again"


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "failed: "))
    ]
    assert len(lines) == 1, lines
    return lines[0]


# ------------------------------------------------------------------------------------------------------------------ sound


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import caption; sys.exit(caption.main())"


def test_a_job_by_two_servers_without_torch(command: Command, tmp_path: Path) -> None:
    servers = [FakeServer(), FakeServer()]
    words = [*command.base, "--server", *[server.url for server in servers], "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        cwd=TOP,
        capture_output=True,
        text=True,
        env={**os.environ, "HAM_SERVER_KEY": "sk-secret"},
    )
    assert done.returncode == 0, done.stderr
    check_rows(command)
    assert all(server.behavior.asked for server in servers)
    for server in servers:  # the captions of an image go to one server together
        images = [image for image, _ in server.behavior.asked]
        assert len(images) > len(set(images))
    plan = read_json(command.out / "plan.json")
    assert plan["settings"]["engine"] == "server" and plan["info"]["servers"][0]["version"] == "0.0-fake"
    written = "".join(file.read_text(errors="replace") for file in command.out.iterdir() if file.is_file())
    assert "sk-secret" not in written + done.stdout + done.stderr
    one = Command(Path(command.base[3]), command.root, tmp_path / "one")
    assert one("--server", servers[0].url, "--concurrency", "1") == 0
    assert (one.out / "captions.json").read_bytes() == (command.out / "captions.json").read_bytes()


def test_a_slow_server_gets_fewer_images(command: Command) -> None:
    fast, slow = FakeServer(), FakeServer(Behavior(delay_s=0.3))
    assert command("--server", fast.url, slow.url) == 0
    assert len(fast.behavior.asked) > len(slow.behavior.asked)
    check_rows(command)


def test_a_server_without_token_counts_and_without_styles(command: Command, tmp_path: Path) -> None:
    server = FakeServer(Behavior(usage=False))
    assert command("--server", server.url) == 0
    check_rows(command)
    export = write_export(tmp_path / "plain", num_styles=0)
    plain = Command(export, command.root, tmp_path / "none")
    assert plain("--server", server.url, "--styles", "none") in (0, 1)
    assert {row.style_id for row in plain.rows()} == {-1}


def test_untrained_styles_are_not_drawn_at_random(command: Command, tmp_path: Path) -> None:
    server = FakeServer()
    export = write_export(tmp_path / "gaps" / "export", untrained_styles=[2, 5])
    gaps = Command(export, command.root, tmp_path / "random")
    assert gaps("--server", server.url) == 0
    assert {row.style_id for row in gaps.rows()} == {0, 1, 3, 4}
    assert gaps("--server", server.url) == 0  # a finished job is continued with the same styles
    every = Command(export, command.root, tmp_path / "all")
    assert every("--server", server.url, "--styles", "all") == 0
    assert {row.style_id for row in every.rows()} == set(range(6))


def test_a_job_planned_with_untrained_styles_keeps_them(command: Command) -> None:
    server = FakeServer()
    assert command("--server", server.url, "--shards", "0:1") == 0
    config = Path(command.base[3]) / "config.json"
    value = read_json(config)
    value["ham"]["untrained_styles"] = [2, 5]
    config.write_text(json.dumps(value))
    assert command("--server", server.url) == 0
    check_rows(command)
    assert {2, 5} <= {row.style_id for row in command.rows()}


@pytest.mark.parametrize("value", ["2", [-1], ["2"], [1.5], {"2": 1}])
def test_a_damaged_list_of_untrained_styles_is_refused(
    command: Command, value: object, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    export = write_export(tmp_path / "damaged" / "export", untrained_styles=value)
    assert Command(export, command.root, tmp_path / "x")("--server", "http://a:1") == 2
    assert "untrained_styles" in error_line(capsys)


def test_other_files_are_reported_once(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (command.root / "notes.doc").write_text("no image")
    server = FakeServer()
    for shards in ("0:1", "0:2"):  # a new job, and one that goes on
        assert command("--server", server.url, "--shards", shards) == 0
        assert capsys.readouterr().err.count("passed over") == 1


def test_a_key_is_sent_and_never_shown(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer(Behavior(key="sk-right"))
    monkeypatch.setenv("HAM_SERVER_KEY", "sk-wrong")
    assert command("--server", server.url) == 2
    line = error_line(capsys)
    assert "HAM_SERVER_KEY" in line and "sk-wrong" not in line
    monkeypatch.setenv("HAM_SERVER_KEY", "sk-right")
    assert command("--server", server.url) == 0
    with pytest.raises(UsageError) as caught:
        split_url("http://me:sk-right@host:1")
    assert "sk-right" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- wrong servers


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        (Behavior(num_styles=5), "has no style 5, export has 6 styles"),
        (Behavior(num_styles=7), "more than the 6 styles"),
        (Behavior(ignores_styles=True), "has no style 5"),
        (Behavior(always="empty"), "has no style 5"),
        (Behavior(always="array"), "not a server of an exported captioner"),
        (Behavior(always="400"), "not a server of an exported captioner"),
    ],
)
def test_wrong_servers_are_refused_by_name(
    command: Command, behavior: Behavior, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer(behavior)
    assert command("--server", server.url) == 2
    assert message in error_line(capsys)
    assert not (command.out / "plan.json").exists()


def test_a_model_of_another_name_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer(Behavior(model="gpt"))
    assert command("--server", server.url, "--server-model", "export") == 2
    assert "holds gpt; expected export" in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--engine server needs --server"),
        (["--server", "ftp://x"], "expected an address"),
        (["--server", "http://x:99999"], "not an address"),
        (["--server", "http://a:1", "http://a:1"], "listed twice"),
        (["--server", "http://a:1", "--temperature", "1"], "greedily"),
        (["--server", "http://a:1", "--template", "llava_v0"], "chat template is v1"),
        (["--server", "http://a:1", "--styles", "99"], "styles 0 to 5"),
        (["--server", "http://a:1", "--model-path", "/gone"], "no config.json"),
    ],
)
def test_wrong_options_are_found_before_any_request(
    command: Command, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert message in error_line(capsys)


def test_no_server_answers(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert command("--server", f"http://127.0.0.1:{port}", "--server-patience-s", "0.5") == 1
    assert "no server has given a caption" in error_line(capsys)


# ------------------------------------------------------------------------------------------------------- failing servers


@pytest.mark.parametrize("mode", ["500", "502", "404", "429", "503", "close", "cut", "html", "hang", "deep"])
def test_passing_failures_change_nothing(command: Command, mode: str) -> None:
    server = FakeServer(Behavior(modes={1: mode, 2: mode, 9: mode}))
    assert command("--server", server.url) == 0
    check_rows(command)


@pytest.mark.parametrize("mode", [*ANSWERS, "400"])
def test_answers_that_cannot_be_used_are_failed_rows(
    command: Command, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer(Behavior(modes={0: mode, 5: mode}))
    assert command("--server", server.url) == 0
    failed = [row for row in command.rows() if row.status == "failed"]
    assert len(failed) == 2 and all(row.reason.startswith("server: ") and row.caption == "" for row in failed)
    names = [json.loads(line)["image"] for line in (command.out / "failed.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted({row.image for row in failed})
    assert run_caption("retry", str(command.out)) == 0
    check_rows(command)
    assert (command.out / "failed.jsonl").read_text() == ""


@pytest.mark.parametrize("is_busy", [False, True])
def test_pauses_grow_to_a_limit_however_often_a_server_fails(is_busy: bool) -> None:
    server = server_pool.Server(ServerClient("http://localhost:1", 1.0))
    pauses = []
    for _ in range(2000):
        server.ready_at = 0.0
        before = time.monotonic()
        server.leave(Unavailable("no", is_busy=is_busy))
        pauses.append(server.ready_at - before)
    assert pauses[0] == pytest.approx(server_pool.FIRST_PAUSE_S, abs=0.01)
    assert pauses[1] > 1.5 * pauses[0] and pauses[-1] == pytest.approx(server_pool.LONGEST_PAUSE_S, abs=0.01)


def test_an_image_at_which_the_server_always_fails_becomes_a_row(command: Command) -> None:
    server = FakeServer()
    server.behavior.poison[sent(command.root, "03.png")] = "500"
    assert command("--server", server.url) == 0
    failed = [row for row in command.rows() if row.status == "failed"]
    assert {row.image for row in failed} == {"03.png"} and "HTTP 500" in failed[0].reason
    server.behavior.poison.clear()
    assert run_caption("retry", str(command.out)) == 0
    check_rows(command)


def test_a_server_that_only_fails_stops_the_run(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer(Behavior(modes=dict.fromkeys(range(8, 10000), "500")))
    server.behavior.num_styles = 6
    assert command("--server", server.url, "--limit", "12", "--server-patience-s", "20") == 0
    assert any(row.status == "failed" for row in command.rows())
    capsys.readouterr()
    other = Command(Path(command.base[3]), command.root, command.out.parent / "other")
    server.behavior.always = "500"
    assert other("--server", server.url, "--server-patience-s", "0.6") == 1
    assert "HTTP 500" in error_line(capsys)


def test_a_dead_server_is_left_and_used_again(command: Command) -> None:
    good = FakeServer()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    assert command("--server", f"http://127.0.0.1:{free}", good.url) == 0
    check_rows(command)


# ------------------------------------------------------------------------------------------------------------ two models


def test_a_swapped_model_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer()
    assert command("--server", server.url, "--shards", "0:1") == 0
    server.behavior.salt = " of another model"
    capsys.readouterr()
    assert command("--server", server.url) == 2
    assert "model was" in error_line(capsys)
    server.behavior.salt = ""
    assert command("--server", server.url) == 0
    check_rows(command)


def test_a_model_swapped_while_it_runs_is_refused(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer(Behavior(modes={6: "close"}))
    real = server_pool.Server.leave

    def leave(self: server_pool.Server, error: Exception) -> None:
        real(self, error)
        server.behavior.salt = " of another model"  # the connection broke because another model was put there
        time.sleep(0.2)  # requests of other images are answered by it before the next check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_pool.Server, "leave", leave)
        assert command("--server", server.url) == 2
    assert "now holds another model" in error_line(capsys)
    server.behavior.salt = ""
    assert command("--server", server.url) == 0
    check_rows(command)


def test_two_servers_with_two_models_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = [FakeServer(), FakeServer(Behavior(salt=" x"))]
    assert command("--server", *[server.url for server in servers]) == 2
    assert servers[1].url in error_line(capsys)


def test_engines_are_mixed_on_request_only(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer()
    assert command("--server", server.url, "--shards", "0:1") == 0
    plan = read_json(command.out / "plan.json")
    plan["settings"] |= {"engine": "native", "model": "0123", "dtype": "float32"}
    (command.out / "plan.json").write_text(json.dumps(plan))
    capsys.readouterr()
    assert command("--server", server.url) == 2
    assert "engine was 'native', now 'server'" in error_line(capsys)
    assert command("--server", server.url, "--mix-engines") == 0
    check_rows(command)


# ------------------------------------------------------------------------------------------------------------------ kills


def run_in_process(words: list[str]) -> None:
    raise SystemExit(run_caption(*words))


def test_killed_clients_and_servers_change_nothing(command: Command, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    behavior = Behavior(delay_s=0.03)
    context = multiprocessing.get_context("fork")
    kills = 0
    server = start_process(port, behavior)
    words = [*command.base, "--server", f"http://127.0.0.1:{port}"]
    for attempt in range(12):
        client = context.Process(target=run_in_process, args=(words,))
        client.start()
        time.sleep(0.4 + 0.07 * attempt)
        server.kill()  # the client waits for it
        server.join()
        server = start_process(port, behavior)
        time.sleep(0.1)
        client.kill()
        client.join()
        kills += client.exitcode == -signal.SIGKILL
        if client.exitcode == 0:
            break
    assert kills >= 2
    assert command("--server", f"http://127.0.0.1:{port}") == 0
    server.kill()
    calm = Command(Path(command.base[3]), command.root, tmp_path / "calm")
    assert calm("--server", FakeServer().url) == 0
    for file in calm.out.glob("[0-9]*.jsonl"):
        assert (command.out / file.name).read_bytes() == file.read_bytes()
    assert (command.out / "captions.json").read_bytes() == (calm.out / "captions.json").read_bytes()
    check_rows(command)
