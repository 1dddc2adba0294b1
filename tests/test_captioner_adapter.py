"""Our adapter, LoRA, and merging both back into the original LLaVA layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_llava import (
    CONFIG,
    HF_CONFIG,
    TOKENS,
    D,
    V,
    hf_tensors,
    llm_shapes,
    logits_of,
    original_tensors,
    write_folder,
)

from ham import tensor_files
from ham.captioner.checkpoint import add_styles, load_captioner, main, merge, save_adapter
from ham.runtime import UsageError, exit_code_of
from ham.tensor_files import write_shards


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("original") / "llava", original_tensors(), CONFIG)


# --------------------------------------------------------------------------------------------------------------- adapter


@pytest.fixture
def adapted(original, tmp_path) -> tuple[Path, torch.Tensor]:
    """An adapter with six styles and a changed projector, and the logits of the captioner it was saved from."""
    captioner = load_captioner(original)
    add_styles(captioner, 6, 3, "vocab", seed=1)
    captioner.model.projector[2].bias.data += 0.5
    captioner.template = "llava_v1"
    save_adapter(tmp_path / "adapter", captioner, steps=7)
    return tmp_path / "adapter", logits_of(captioner, 5)


def test_adapter_comes_back_as_it_was_saved(adapted, original) -> None:
    folder, logits = adapted
    captioner = load_captioner(folder)
    assert torch.equal(logits_of(captioner, 5), logits)
    assert (captioner.num_styles, captioner.style_tokens, captioner.template) == (6, 3, "llava_v1")
    manifest = json.loads((folder / "manifest.json").read_text())
    facts = {
        "base_model": str(original),
        "vision_tower": "plain-clip",
        "template": "llava_v1",
        "image_size_px": 28,
        "num_styles": 6,
        "style_tokens": 3,
        "steps": 7,
        "max_length": 512,
    }
    assert {key: manifest[key] for key in facts} == facts
    assert load_file(str(folder / "adapter.safetensors"))["style_prompts"].shape == (6, 3, D)
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "adapter.safetensors"}


def test_adapter_finds_its_base_after_both_were_moved(adapted, original, tmp_path) -> None:
    folder, logits = adapted
    (tmp_path / "new").mkdir()
    base = shutil.copytree(original, tmp_path / "new" / "base")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"base_model": "/nowhere", "base_model_relative": "../base"}
    moved = Path(shutil.move(folder, tmp_path / "new" / "adapter"))
    (moved / "manifest.json").write_text(json.dumps(manifest))
    assert torch.equal(logits_of(load_captioner(moved), 5), logits)
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"/nowhere.*--base-model"):
        load_captioner(moved)
    assert torch.equal(logits_of(load_captioner(moved, base_model=tmp_path / "elsewhere"), 5), logits)


def test_adapter_remembers_the_tower_it_was_trained_with(original, tmp_path) -> None:
    trained = load_captioner(original, vision_tower="checkpoint")
    save_adapter(tmp_path / "adapter", trained)
    assert torch.equal(logits_of(load_captioner(tmp_path / "adapter")), logits_of(trained))
    merge(tmp_path / "adapter", tmp_path / "merged")
    assert torch.equal(logits_of(load_captioner(tmp_path / "merged")), logits_of(trained))


def test_broken_adapters_are_refused(adapted) -> None:
    folder, _ = adapted
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "num_styles": 7}))
    with pytest.raises(UsageError, match=r"6 styles of 3 tokens, but manifest\.json says 7 of 3"):
        load_captioner(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": "other"}))
    with pytest.raises(UsageError, match="format is 'other'"):
        load_captioner(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(UsageError, match="the adapter is incomplete"):
        load_captioner(folder)


# ------------------------------------------------------------------------------------------------------------------ LoRA


def write_lora(folder: Path, base: Path, **settings) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A LoRA of rank 2, alpha 6, as peft 0.4 and LLaVA's script write it."""
    generator = torch.Generator().manual_seed(9)
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    pairs = {
        name: (
            torch.randn(2, llm_shapes()[f"{name}.weight"][1], generator=generator),
            torch.randn(llm_shapes()[f"{name}.weight"][0], 2, generator=generator),
        )
        for name in names
    }
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 2,
                "lora_alpha": 6,
                "bias": "none",
                "base_model_name_or_path": str(base),
                **settings,
            }
        )
    )
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in zip("AB", pair)
    }
    torch.save(tensors, folder / "adapter_model.bin")
    return pairs


def test_lora_is_merged_at_load(original, tmp_path) -> None:
    pairs = write_lora(tmp_path / "lora", original)
    projector = torch.full((D,), 0.25)
    torch.save(
        {"base_model.model.model.mm_projector.0.bias": projector},
        tmp_path / "lora" / "non_lora_trainables.bin",
    )
    (tmp_path / "lora" / "config.json").write_text(json.dumps(CONFIG))
    state = load_captioner(tmp_path / "lora").model.state_dict()
    for name, (down, up) in pairs.items():
        whole = original_tensors()[f"{name}.weight"] + 3.0 * up @ down
        assert torch.allclose(state[f"llm.{name}.weight"], whole, atol=1e-5)
    assert torch.equal(state["projector.0.bias"], projector)
    untouched = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(state[f"llm.{untouched}"], original_tensors()[untouched])


def test_adapter_may_carry_lora_and_merges_with_it(adapted, original, tmp_path) -> None:
    folder, logits = adapted
    write_lora(folder / "lora", original, use_rslora=True)
    captioner = load_captioner(folder)
    assert not torch.allclose(logits_of(captioner, 5), logits, atol=1e-2)
    merge(folder, tmp_path / "merged")
    assert torch.allclose(
        logits_of(load_captioner(tmp_path / "merged"), 5), logits_of(captioner, 5), atol=1e-5
    )
    save_adapter(tmp_path / "again", captioner)  # tuned on: its base is the adapter with the LoRA
    assert torch.equal(logits_of(load_captioner(tmp_path / "again"), 5), logits_of(captioner, 5))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"use_dora": True}, "only plain LoRA"),
        ({"bias": "all"}, "only plain LoRA"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"base_model_name_or_path": "lmsys/none"}, "--base-model"),
    ],
)
def test_odd_loras_are_refused(original, tmp_path, settings, message) -> None:
    write_lora(tmp_path / "lora", original, **settings)
    with pytest.raises(UsageError, match=message):
        load_captioner(tmp_path / "lora")


# --------------------------------------------------------------------------------------------------------------- merging


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(str(file)).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_original_to_ours_to_original_is_identical(tmp_path, dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors().items()}
    folder = write_folder(tmp_path / "llava", tensors, CONFIG)
    save_adapter(tmp_path / "adapter", load_captioner(folder))
    merge(tmp_path / "adapter", tmp_path / "merged", max_shard_gib=100_000 / 2**30)
    merged = all_tensors(tmp_path / "merged")
    assert merged.keys() == tensors.keys()
    assert all(
        merged[name].dtype == dtype and torch.equal(merged[name], tensor) for name, tensor in tensors.items()
    )
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 2
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config.pop("ham")["style_tokens"] == TOKENS
    assert config == CONFIG
    assert (tmp_path / "merged" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()


def test_reference_checkpoint_survives_the_round_trip(parity, tmp_path) -> None:
    save_adapter(tmp_path / "adapter", load_captioner(parity / "llava_tiny"))
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged, source = all_tensors(tmp_path / "merged"), all_tensors(parity / "llava_tiny")
    assert merged.keys() == source.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in source.items())
    again = load_captioner(tmp_path / "merged")
    assert again.num_styles == 6
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_merged_adapter_equals_the_adapter(adapted, tmp_path) -> None:
    folder, logits = adapted
    merge(folder, tmp_path / "merged")
    captioner = load_captioner(tmp_path / "merged")
    assert (captioner.num_styles, captioner.style_tokens, captioner.template) == (6, 3, "llava_v1")
    assert torch.equal(logits_of(captioner, 5), logits)
    assert all_tensors(tmp_path / "merged")["model.style_prompt.style_prompts"].shape == (18, D)


def test_llava_hf_merges_into_the_original_layout(tmp_path) -> None:
    folder = write_folder(tmp_path / "hf", hf_tensors(1), HF_CONFIG, tower=False)
    merge(folder, tmp_path / "merged")
    merged, source = all_tensors(tmp_path / "merged"), original_tensors()
    expected = {name for name in source if "inv_freq" not in name and "style_prompt" not in name}
    assert merged.keys() == expected
    assert all(torch.equal(merged[name], source[name]) for name in expected)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == V
    assert torch.equal(
        logits_of(load_captioner(tmp_path / "merged"), None), logits_of(load_captioner(folder), None)
    )


def test_bin_shards_with_tied_weights_merge(tmp_path) -> None:
    tensors = original_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folder = write_folder(tmp_path / "llava", {}, CONFIG)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    merge(folder, tmp_path / "merged")
    merged = all_tensors(tmp_path / "merged")
    assert merged.keys() == tensors.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in tensors.items())


def test_shards_hold_every_tensor_once(tmp_path) -> None:
    tensors = {f"t{number}": torch.full((10,), float(number)) for number in range(7)}
    assert write_shards(tmp_path, tensors.items(), max_shard_bytes=80) == 4
    assert sorted(tensor_files.index(tmp_path)) == sorted(tensors)
    assert all(torch.equal(all_tensors(tmp_path)[name], tensor) for name, tensor in tensors.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 280
    assert not list(tmp_path.glob("*.part"))


def test_show_command_says_which_file_holds_what(adapted, original, monkeypatch, capsys) -> None:
    folder, _ = adapted
    monkeypatch.setattr("sys.argv", ["checkpoint", "show", "--model-path", str(folder)])
    assert exit_code_of(main) == 0
    shown = capsys.readouterr().out
    for piece in (
        f"adapter on {original} (original LLaVA layout)",
        "style prompts [6, 3, 32]",
        "conversation template: llava_v1",
        f"plain-clip, found at {original / 'plain-clip'}",
        "projector 4 tensors",
        "style prompts 1 tensors",
    ):
        assert piece in shown, shown
    assert "unknown" not in shown


def test_merge_command(adapted, tmp_path, monkeypatch, capsys) -> None:
    folder, _ = adapted
    monkeypatch.setattr(
        "sys.argv", ["checkpoint", "merge", "--model-path", str(folder), "--out", str(tmp_path / "merged")]
    )
    assert exit_code_of(main) == 0
    assert "model.style_prompt.style_prompts" in tensor_files.index(tmp_path / "merged")
    assert exit_code_of(main) == 2
    assert "not empty" in capsys.readouterr().err
    assert not list(tmp_path.glob(".merged*"))
