"""Captioning jobs of the `vlm` family: the transformers engine, a server that holds the export, captions of two captioners."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import caption as script
from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.captioner.vlm_export import export_vlm
from ham.generation.server_client import BadAnswer, ServerClient
from ham.generation.server_export import png_of
from ham.records import read_json, read_jsonl
from ham.runtime import UsageError

pytest.importorskip("tiny_vlm", exc_type=ImportError, reason="needs the current transformers")
from vlm_runs import FAMILIES, STYLES, TOKENS, data, models, tuned  # noqa: F401

TOP = Path(__file__).resolve().parent.parent


def run(monkeypatch, *words: object) -> None:
    """Run caption.py inside this process."""
    monkeypatch.setattr(sys, "argv", ["caption.py", *map(str, words)])
    script.main()


def job(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    words: list[object] = ["--model-path", model, "--image-root", data, "--out", out, "--workers", 0]
    words += ["--max-new-tokens", 10, "--max-redraws", 0, "--limit", 3, "--max-failed-share", 1]
    return [*words, "--keep-rejected", *more]


def rows_of(out: Path) -> list[dict]:
    return [row for file in sorted(out.glob("[0-9]*.jsonl")) for row in read_jsonl(file)]


@pytest.fixture(scope="module")
def served(tuned, tmp_path_factory) -> Iterator[dict[str, tuple[Path, str]]]:
    """Every captioner's export and the address at which a server around stock transformers holds it."""
    top = tmp_path_factory.mktemp("exports")
    ports = free_ports(len(FAMILIES))
    words: list[str] = []
    for name, port in zip(FAMILIES, ports, strict=True):
        export_vlm(tuned[name], top / name)
        words += [str(top / name), str(port)]
    process = subprocess.Popen(
        [sys.executable, str(TOP / "tests" / "stock_server.py"), *words], stderr=subprocess.DEVNULL
    )
    yield {name: (top / name, f"http://127.0.0.1:{port}") for name, port in zip(FAMILIES, ports, strict=True)}
    process.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_captions_like_the_engine_in_process(data, tuned, served, family, tmp_path, monkeypatch):
    export, url = served[family]
    run(monkeypatch, *job(tuned[family], data, tmp_path / "own", "--engine", "transformers"))
    words = ["--engine", "server", "--server", url, "--server-patience-s", 200]
    run(monkeypatch, *job(export, data, tmp_path / "served", *words))
    expected = rows_of(tmp_path / "own")
    assert rows_of(tmp_path / "served") == expected
    assert len(expected) == 6 and len({row["caption"] for row in expected}) > 1
    assert not any(row["status"] == "failed" for row in expected)
    for words, said in (
        (["--temperature", 0.7], "decodes greedily"),
        (["--max-new-tokens", 11], "max_new_tokens was 10"),
    ):
        with pytest.raises(UsageError, match=said):
            run(
                monkeypatch,
                *job(export, data, tmp_path / "served", "--engine", "server", "--server", url, *words),
            )


def test_a_server_refuses_a_style_that_does_not_exist(data, served) -> None:
    export, url = served["qwen2_5_vl"]
    client = ServerClient(url, 60)
    png = png_of(Image.open(data / "0.png"))
    expected = argparse.Namespace(prompt="Describe the person.")
    assert client.ask(expected, str(export), png, STYLES - 1, 4)["choices"]
    with pytest.raises(
        BadAnswer, match=rf"style {STYLES} does not exist; this model has styles 0 to {STYLES - 1}"
    ):
        client.ask(expected, str(export), png, STYLES, 4)


def test_sampled_captions_depend_on_seed_image_and_style_alone(data, tuned, tmp_path, monkeypatch) -> None:
    """Also in a job that begins in the middle of the list."""
    more = ["--engine", "transformers", "--temperature", 1.5, "--shard-size", 1]

    def captions(name: str, *words: object) -> dict[tuple[str, int], str]:
        run(monkeypatch, *job(tuned["qwen3_vl"], data, tmp_path / name, *more, *words))
        return {(row["image"], row["style_id"]): row["caption"] for row in rows_of(tmp_path / name)}

    whole, part, other = (
        captions("whole"),
        captions("part", "--shards", "2:3"),
        captions("other", "--seed", 1),
    )
    assert len(whole) == 6 and len(part) == 2
    assert part == {key: whole[key] for key in part}
    shared = whole.keys() & other.keys()
    assert shared and {key: whole[key] for key in shared} != {key: other[key] for key in shared}


def test_no_style_token_and_no_image_placeholder_is_sampled(data, tuned) -> None:
    """Every token is about as probable as the others here, and the output layer has rows for the style tokens."""
    captioner = load_vlm_captioner(tuned["qwen2_5_vl"])
    captioner.base.end_ids = (captioner.model.image_token,)  # never written, so the caption has full length
    first = captioner.model.first_style_token
    assert captioner.model.vocab_size >= first + STYLES * TOKENS
    torch.manual_seed(0)
    with Image.open(data / "0.png") as image:
        ids = captioner.caption_ids(image, 1, 300, do_sample=True, temperature=1e4, top_k=0)
    assert len(ids) == 300
    assert not {captioner.model.image_token, *range(first, first + STYLES * TOKENS)} & set(ids)


def test_a_folder_is_captioned_in_process_and_resumes(models, data, tuned, tmp_path, monkeypatch) -> None:
    """Rows equal the captioner's own captions, also where the job is done in two parts."""

    def run(out: Path, *more: str) -> dict[tuple[str, int], str]:
        words = ["--model-path", str(tuned["llava"]), "--image-root", str(data), "--out", str(out), *more]
        words += [
            "--engine",
            "transformers",
            "--workers",
            "0",
            "--max-new-tokens",
            "12",
            "--max-redraws",
            "0",
        ]
        monkeypatch.setattr(
            sys, "argv", ["caption.py", *words, "--shard-size", "3", "--max-failed-share", "1"]
        )
        script.main()
        rows = [row for file in sorted(out.rglob("[0-9]*.jsonl")) for row in read_jsonl(file)]
        return {(row["image"], row["style_id"]): row["caption"] for row in rows}

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", "--shards", "1:2")
    assert run(tmp_path / "parts") == whole and len(whole) == 16
    captioner = load_vlm_captioner(tuned["llava"])
    for (name, style), text in list(whole.items())[:4]:
        image = Image.open(data / name).convert("RGB")
        assert captioner.caption(image, style, 12) == text


def test_engines_refuse_captioners_of_another_family(models, data, tuned, tmp_path, monkeypatch) -> None:
    for engine, model, expected in (
        ("native", tuned["qwen2_5_vl"], "--engine transformers"),
        ("transformers", models["llava"], "--engine native"),
    ):
        words = ["--model-path", str(model), "--image-root", str(data), "--out", str(tmp_path / engine)]
        monkeypatch.setattr(sys, "argv", ["caption.py", *words, "--engine", engine])
        with pytest.raises(UsageError, match=expected):
            script.main()
        assert not (tmp_path / engine / "plan.json").exists()


def test_logits_that_are_not_finite_are_a_failure(data, tuned) -> None:
    captioner = load_vlm_captioner(tuned["qwen3_vl"])
    with torch.no_grad():
        captioner.model.style_bank.prompts[1].fill_(float("nan"))
    image = Image.open(data / "0.png").convert("RGB")
    captioner.caption(image, 0, 4)
    with pytest.raises(FloatingPointError, match="not finite"):
        captioner.caption(image, 1, 4)


def test_captions_of_two_captioners_are_joined(models, data, tuned, tmp_path, monkeypatch) -> None:
    """{image: captions of both}, and which model wrote what; the wrong jobs are refused."""

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["caption.py", *words])
        script.main()

    jobs = [tmp_path / "qwen", tmp_path / "llava"]
    for job, family in zip(jobs, ("qwen2_5_vl", "llava"), strict=True):
        words = ["--model-path", str(tuned[family]), "--image-root", str(data), "--engine", "transformers"]
        words += ["--workers", "0", "--max-new-tokens", "10", "--max-redraws", "0", "--limit", "3"]
        run(*words, "--out", str(job), "--max-failed-share", "1", "--keep-rejected")
    own = [read_json(job / "captions.json") for job in jobs]
    assert all(own)
    out = tmp_path / "both.json"
    run("merge", *map(str, jobs), "--out", str(out))
    joined = read_json(out)
    for image, texts in joined.items():
        assert texts == list(dict.fromkeys(own[0].get(image, []) + own[1].get(image, [])))
    sources = read_json(tmp_path / "both.json.sources.json")
    assert [job["model_path"] for job in sources] == [str(tuned["qwen2_5_vl"]), str(tuned["llava"])]
    assert sources[0]["model"] != sources[1]["model"]
    assert sum(job["captions"] for job in sources) == sum(map(len, joined.values()))
    for row in read_jsonl(tmp_path / "both.json.sources.jsonl"):
        for text, job in zip(joined[row["image"]], row["jobs"], strict=True):
            assert text in own[job][row["image"]]
    with pytest.raises(UsageError, match="named twice"):
        run("merge", str(jobs[0]), str(jobs[0]), "--out", str(out))
    with pytest.raises(UsageError, match="expected OUT1 OUT2"):
        run("merge", *map(str, jobs))
