"""Style prompts in any image-text-to-text model: tuning, resuming, loading, captions, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import kill_all
from safetensors.torch import load_file, save_file

from ham.captioner import train
from ham.captioner.families import family_of
from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.captioner.vlm_export import compare, export_vlm
from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError, WorkError
from ham.vlm.load import load_model
from ham.vlm.prompts import PromptWriter, chat_template_of

tiny_vlm = pytest.importorskip("tiny_vlm", exc_type=ImportError, reason="needs the current transformers")

STYLES, TOKENS = 3, 4
TEXTS = ("a man in red.", "The person is walking.", "jeans, jacket")
FAMILIES = list(tiny_vlm.WRITERS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("models")
    return {name: write(top / name) for name, write in tiny_vlm.WRITERS.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 records: images of many shapes, so that Qwen's samples differ in their number of image tokens."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    records = []
    for number in range(8):
        pixels = rng.integers(0, 255, (120 + 9 * number, 40 + 12 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for style, text in enumerate(TEXTS):
            turns = [
                {"from": "human", "value": "<image>\nDescribe the person."},
                {"from": "gpt", "value": text},
            ]
            record = {"id": f"{number}_{style}", "image": f"{number}.png", "conversations": turns}
            records.append(record | {"style_id": style, "class_id": style})
    write_json(folder / "instructions.json", records)
    return folder


def options(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--data_path", str(data / "instructions.json")),
        *("--image_folder", str(data), "--output_dir", str(out), "--style_tokens", str(TOKENS)),
        *("--style_init", "vocab", "--style_prompt_lr", "1e-1", "--mm_projector_lr", "1e-3"),
        *("--per_device_train_batch_size", "6", "--num_train_epochs", "2", "--logging_steps", "1"),
        *("--use_cpu", "True", "--save_steps", "2", "--dataloader_num_workers", "0", *more),
    ]


def tune(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *options(*arguments)])
    train.main()


@pytest.fixture(scope="module")
def tuned(models, data, tmp_path_factory) -> dict[str, Path]:
    out = {name: tmp_path_factory.mktemp("tuned") / name for name in FAMILIES}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in out.items():
            more = ("--family", "vlm") if name == "llava" else ()
            tune(patch, models[name], data, folder, *more)
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_styles_and_projector_train_and_nothing_else(models, tuned, family) -> None:
    tensors = load_file(str(tuned[family] / "adapter.safetensors"))
    assert tensors.pop("style_prompts").shape == (STYLES, TOKENS, 64)
    assert tensors and all(name.startswith("projector.") for name in tensors)
    losses = [row["loss"] for row in read_jsonl(tuned[family] / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]

    captioner = load_vlm_captioner(tuned[family])
    base = load_model(models[family])
    trained = {"multi_modal_projector", "merger", "deepstack_merger_list"}
    moved = {
        name
        for name, parameter in base.network.named_parameters()
        if not torch.equal(parameter, captioner.model.network.get_parameter(wrapped(name)))
    }
    assert moved and all(trained & set(name.split(".")) for name in moved)


def wrapped(name: str) -> str:
    """Return a parameter's name inside the captioner, whose input embedding is wrapped."""
    return name.replace("embed_tokens.weight", "embed_tokens.base.weight")


def test_a_killed_run_resumes_to_the_same_adapter(models, data, tuned, tmp_path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "ham.captioner.train", *options(models["qwen2_5_vl"], data, out)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not (out / "checkpoint-4" / "trainer_state.json").exists() and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        kill_all(process)
    assert not (out / "manifest.json").exists()
    subprocess.run(command, env=env, check=True, capture_output=True)
    for name, tensor in load_file(str(tuned["qwen2_5_vl"] / "adapter.safetensors")).items():
        assert torch.equal(tensor, load_file(str(out / "adapter.safetensors"))[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_captions_like_the_adapter(data, tuned, family, tmp_path) -> None:
    captioner = load_vlm_captioner(tuned[family])
    images = [Image.open(data / f"{number}.png").convert("RGB") for number in range(3)]
    expected = [
        [captioner.caption_ids(image, style, 8) for style in (None, *range(STYLES))] for image in images
    ]
    assert len({tuple(ids) for own in expected for ids in own}) > 1
    export_vlm(tuned[family], tmp_path / "out")

    exported = load_model(tmp_path / "out")
    writer = PromptWriter(exported.processor, chat_template_of(exported.processor), exported.end_ids)
    for image, own in zip(images, expected, strict=True):
        for style, ids in zip((None, *range(STYLES)), own, strict=True):
            inputs = writer.encode(image, captioner.prompt, style)
            found = exported.network.generate(**inputs, max_new_tokens=8, do_sample=False)
            assert found[0, inputs["input_ids"].shape[1] :].tolist() == ids
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{STYLES} styles" in card and json.dumps(captioner.prompt).strip('"') in card
    assert (
        "tokenizers" not in read_json(tmp_path / "out" / "tokenizer_config.json")["tokenizer_class"].lower()
    )


def test_a_wrong_export_is_refused_with_the_figures() -> None:
    ids, logits = torch.tensor([1, 2]), torch.tensor([0.0, 1.0, 0.5])
    compare([(ids, logits)], [(ids, logits)], 2, 1)
    with pytest.raises(WorkError, match=r"0\.5 apart"):
        compare([(ids, logits)], [(ids, logits + torch.tensor([0.5, 0, 0]))], 2, 1)
    with pytest.raises(WorkError, match="tokenizes"):
        compare([(ids, logits)], [(ids + 1, logits)], 2, 1)
    with pytest.raises(UsageError, match="style tokens"):
        compare([(ids, logits)], [(ids, torch.tensor([0.0, 1.0, 3.0]))], 2, 1)


def test_adapters_of_another_base_are_refused(models, tuned, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"model_type qwen2_5_vl, but .* has qwen3_vl"):
        load_vlm_captioner(tuned["qwen2_5_vl"], base_model=models["qwen3_vl"])
    folder = tmp_path / "adapter"
    folder.mkdir()
    manifest = read_json(tuned["llava"] / "manifest.json")
    tensors = load_file(str(tuned["llava"] / "adapter.safetensors"))
    write_json(folder / "manifest.json", manifest | {"width": 96})
    save_file(tensors, str(folder / "adapter.safetensors"))
    with pytest.raises(UsageError, match=r"width 96, but .* has 64"):
        load_vlm_captioner(folder, base_model=models["llava"])
    write_json(
        folder / "manifest.json", {name: value for name, value in manifest.items() if name != "prompt"}
    )
    with pytest.raises(UsageError, match="'prompt' is None"):
        load_vlm_captioner(folder, base_model=models["llava"])
    write_json(folder / "manifest.json", manifest)
    save_file(tensors | {"projector.more": torch.zeros(1)}, str(folder / "adapter.safetensors"))
    with pytest.raises(UsageError, match=r"projector\.more is unknown"):
        load_vlm_captioner(folder, base_model=models["llava"])
    save_file(
        tensors | {"style_prompts": tensors["style_prompts"] * float("nan")},
        str(folder / "adapter.safetensors"),
    )
    with pytest.raises(UsageError, match="not finite"):
        load_vlm_captioner(folder, base_model=models["llava"])
    with pytest.raises(UsageError, match=r"not at .*nowhere"):
        load_vlm_captioner(tuned["llava"], base_model=tmp_path / "nowhere")


def test_bad_records_and_options_are_refused_before_training(models, data, tmp_path, monkeypatch) -> None:
    records = read_json(data / "instructions.json")
    records[1]["image"] = "../outside.png"
    records[2]["conversations"] = []
    records[3]["image"] = "missing.png"
    records[4]["conversations"][1]["value"] = " "
    broken = tmp_path / "broken"
    broken.mkdir()
    write_json(broken / "instructions.json", records)
    for number in range(8):
        (broken / f"{number}.png").write_bytes((data / f"{number}.png").read_bytes())
    with pytest.raises(UsageError) as caught:
        tune(monkeypatch, models["qwen2_5_vl"], broken, tmp_path / "out")
    text = str(caught.value)
    assert all(f"record {number}:" in text for number in (1, 2, 3, 4)) and "4 of 24" in text
    with pytest.raises(UsageError, match="--lora_enable belongs to LLaVA"):
        tune(monkeypatch, models["qwen2_5_vl"], data, tmp_path / "out", "--lora_enable", "True")
    with pytest.raises(UsageError, match="no module ends with nothing"):
        tune(monkeypatch, models["qwen2_5_vl"], data, tmp_path / "out", "--projector_modules", "nothing")
    assert not (tmp_path / "out" / "adapter.safetensors").exists()


def test_the_family_is_found_from_the_files(models, tuned, tmp_path) -> None:
    assert [family_of(models[name]) for name in FAMILIES] == ["vlm", "vlm", "llava"]
    assert family_of(models["llava"], "vlm") == "vlm" and family_of(tuned["llava"]) == "vlm"
    with pytest.raises(UsageError, match="--family other"):
        family_of(models["llava"], "other")
    with pytest.raises(UsageError, match="belongs to the family 'vlm'"):
        family_of(tuned["llava"], "llava")


def test_the_estimate_counts_what_is_there(models, data, tmp_path, monkeypatch, capsys) -> None:
    """Parameters as in the loaded model; a smaller pixel budget needs less."""
    import re

    def estimated(*more: str) -> tuple[float, int]:
        tune(monkeypatch, models["qwen2_5_vl"], data, tmp_path / "out", "--estimate", "True", *more)
        text = capsys.readouterr().out
        activations = float(re.search(r"activations +([0-9.]+) GiB", text).group(1))
        return activations, int(re.search(r"(\d+) tokens for an image", text).group(1))

    from ham.captioner.estimate import Settings
    from ham.captioner.vlm_estimate import count_parts, empty_network

    _, tokens = estimated()
    _, fewer = estimated("--max_pixels", "3136")
    assert fewer < tokens and not (tmp_path / "out").exists()
    network = load_model(models["qwen2_5_vl"]).network
    counts = count_parts(empty_network(models["qwen2_5_vl"])[0], None, Settings(3, 4))
    assert counts.pop("style prompts") == 3 * 4 * 64
    assert sum(counts.values()) == sum(parameter.numel() for parameter in network.parameters())
    assert counts["projector"] == sum(one.numel() for one in network.model.visual.merger.parameters())


def test_a_folder_is_captioned_in_process_and_resumes(models, data, tuned, tmp_path, monkeypatch) -> None:
    """Rows equal the captioner's own captions, also where the job is done in two parts."""
    import caption as script

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
    import caption as script

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
    import caption as script

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
