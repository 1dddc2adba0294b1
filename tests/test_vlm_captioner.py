"""Style prompts in any image-text-to-text model: tuning, resuming after a kill, loading, export, bad input."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ham.captioner import checkpoint
from ham.captioner.families import family_of
from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.captioner.vlm_export import compare, export_vlm
from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError, WorkError
from ham.vlm.load import load_model
from ham.vlm.prompts import PromptWriter, chat_template_of

tiny_vlm = pytest.importorskip("tiny_vlm", exc_type=ImportError, reason="needs the current transformers")
from vlm_runs import (  # noqa: E402, F401
    FAMILIES,
    STYLES,
    TOKENS,
    asking_for,
    data,
    models,
    options,
    tune,
    tune_until_killed,
    tuned,
)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_resumes_to_the_same_adapter(models, data, tuned, tmp_path, monkeypatch, family) -> None:
    """Killed in its sixth step of eight; the same command ends as the run that nothing interrupted."""
    out, more = tmp_path / "killed", asking_for(family)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers.trainer", "peft", "pytest", "tiny_vlm"])
    words = options(models[family], data, out, *more)
    process = context.Process(target=tune_until_killed, args=(5, words))
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    assert (out / "checkpoint-4" / "manifest.json").exists() and not (out / "manifest.json").exists()
    tune(monkeypatch, models[family], data, out, *more)
    for name, tensor in load_file(str(tuned[family] / "adapter.safetensors")).items():
        assert torch.equal(tensor, load_file(str(out / "adapter.safetensors"))[name]), name
    steps = [row["step"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, 9))


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


def test_options_that_contradict_the_model_are_refused(models, data, tuned, tmp_path, monkeypatch) -> None:
    out, qwen = tmp_path / "out", models["qwen2_5_vl"]
    for model, more, said in (
        (qwen, ("--vision_tower", "x"), "--vision_tower belongs to LLaVA"),
        (qwen, ("--mm_vision_select_layer", "-2"), "--mm_vision_select_layer belongs to LLaVA"),
        (qwen, ("--model_max_length", "16"), "record .* tokens with its image .* --model_max_length 16"),
        (tuned["qwen2_5_vl"], ("--style_tokens", "9"), "trained with 4, here is 9"),
        (tuned["qwen2_5_vl"], ("--max_pixels", "9000"), "trained with None, here is 9000"),
        (models["llava"], ("--family", "llava", "--max_pixels", "9000"), "--max_pixels is for other models"),
    ):
        with pytest.raises(UsageError, match=said):
            tune(monkeypatch, model, data, out, *more)
    assert not (out / "adapter.safetensors").exists()
    with pytest.raises(UsageError, match=r"--max_pixels: it was null, now 9000"):
        tune(monkeypatch, qwen, data, tuned["qwen2_5_vl"], "--max_pixels", "9000")


def test_the_command_shows_and_exports_without_a_layout(models, tuned, tmp_path, monkeypatch, capsys) -> None:
    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["checkpoint", *map(str, words)])
        checkpoint.main()
        return capsys.readouterr().out

    adapter = tuned["qwen3_vl"]
    shown = run("show", "--model-path", adapter)
    assert f"styles: {STYLES} of {TOKENS} tokens" in shown and str(models["qwen3_vl"]) in shown
    run("merge", "--model-path", adapter, "--out", tmp_path / "export")
    assert "an export of type qwen3_vl" in run("show", "--model-path", tmp_path / "export")
    assert "a base model without styles" in run("show", "--model-path", models["qwen3_vl"])
    for model, more, said in (
        (adapter, ("--layout", "original"), "--layout original is LLaVA's own"),
        (models["qwen3_vl"], (), "a base model without styles; expected an adapter"),
        (tmp_path / "export", (), "an export, for servers"),
    ):
        with pytest.raises(UsageError, match=said):
            run("merge", "--model-path", model, "--out", tmp_path / "other", *more)
    assert not (tmp_path / "other").exists()
