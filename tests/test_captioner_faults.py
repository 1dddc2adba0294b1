"""Damaged and foreign checkpoints and instruction files: one clear line before any weight is read, never a wrong result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_llava import (
    CONFIG,
    HF_CONFIG,
    TOWER_CONFIG,
    D,
    hf_tensors,
    llm_shapes,
    logits_of,
    original_tensors,
    random_tensors,
    write_folder,
)

from ham.captioner.checkpoint import add_styles, load_captioner, merge, open_checkpoint, save_adapter
from ham.captioner.data import InstructionFile
from ham.runtime import UsageError


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "llava", original_tensors(), CONFIG)


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    captioner = load_captioner(base)
    add_styles(captioner, 3, 2, "vocab", seed=1)
    captioner.model.projector[2].bias.data += 0.123456789
    save_adapter(tmp_path / "adapter", captioner, prompt="Say what they wear.")
    return tmp_path / "adapter"


# ------------------------------------------------------------------------------------------------------------------- merge


def test_merge_keeps_instruction_template_and_precision(adapter, tmp_path) -> None:
    merge(adapter, tmp_path / "merged")
    merged, own = load_captioner(tmp_path / "merged"), load_captioner(adapter)
    assert merged.manifest["prompt"] == "Say what they wear."
    assert (merged.template, merged.style_tokens, merged.num_styles) == (own.template, 2, 3)
    assert torch.equal(logits_of(merged, 2), logits_of(own, 2))


def test_merge_of_a_half_precision_base_does_not_round_the_adapter(tmp_path) -> None:
    tensors = {name: tensor.half() for name, tensor in original_tensors().items()}
    captioner = load_captioner(write_folder(tmp_path / "llava", tensors, CONFIG))
    captioner.model.projector[2].weight.data += 1e-5
    save_adapter(tmp_path / "adapter", captioner)
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged = load_captioner(tmp_path / "merged").model
    assert torch.equal(merged.projector[2].weight, captioner.model.projector[2].weight)


def test_merge_of_a_whole_checkpoint_keeps_its_instruction(tmp_path) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), {**CONFIG, "ham": {"prompt": "Who is it?"}})
    merge(folder, tmp_path / "merged")
    assert load_captioner(tmp_path / "merged").manifest["prompt"] == "Who is it?"


def test_merge_writes_what_the_references_loader_needs_beside_the_tower(base, tmp_path) -> None:
    merge(base, tmp_path / "merged")
    settings = json.loads((tmp_path / "merged" / "plain-clip" / "preprocessor_config.json").read_text())
    assert settings["crop_size"] == {"height": 28, "width": 28} and settings["image_std"][0] == 0.26862954
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "merged" / "plain-clip")
    assert processor.crop_size["height"] == 28


# -------------------------------------------------------------------------------------------------------------------- LoRA


def write_lora(folder: Path, base: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "base_model_name_or_path": str(base),
    }
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
        str(folder / "adapter_model.safetensors"),
    )
    return folder


def pair(name: str, out: int = D, width: int = D, rank: int = 2) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_A.weight": torch.full((rank, width), 0.3),
        f"{name}.lora_B.weight": torch.full((out, rank), 0.3),
    }


GOOD = pair("model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize(
    ("tensors", "settings", "said"),
    [
        (
            pair("model.layers.99.self_attn.q_proj"),
            {},
            "changes 1 weights that the base model .* does not have",
        ),
        (pair("transformer.h.0.attn"), {}, "does not have, e.g. 'transformer.h.0.attn.weight'"),
        (
            pair("model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", 64, 64),
            {},
            "vision tower inside .* set the vision tower to 'checkpoint'",
        ),
        (GOOD, {"r": None}, "'r' is None"),
        (GOOD, {"r": 0}, "'r' is 0"),
        (GOOD, {"r": "x"}, "'r' is 'x'"),
        (GOOD, {"r": True}, "'r' is True"),
        (GOOD, {"r": 3}, r"expected \[3, in\] and \[out, 3\]"),
        (GOOD, {"lora_alpha": None}, "'lora_alpha' is None"),
        (GOOD, {"lora_alpha": "4"}, "'lora_alpha' is '4'"),
        (GOOD, {"use_dora": True}, "only plain LoRA"),
        (dict(list(GOOD.items())[:1]), {}, "has no partner"),
        (
            {name.replace("q_proj.lora_B", "k_proj.lora_B"): t for name, t in GOOD.items()},
            {},
            "has no partner",
        ),
        ({name: torch.zeros(0) for name in GOOD}, {}, "is empty: it was saved from ZeRO-3"),
        ({name: t.flatten() for name, t in GOOD.items()}, {}, "expected .2, in."),
        (pair("model.layers.0.self_attn.q_proj", 99), {}, "LoRA for .* is 99 x 32"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_by_load_and_merge(
    base, tmp_path, tensors, settings, said
) -> None:
    folder = write_lora(tmp_path / "lora", base, tensors, **settings)
    with pytest.raises(UsageError, match=said):
        load_captioner(folder)
    if "vision_tower" not in next(iter(tensors)):
        with pytest.raises(UsageError, match=said):
            merge(folder, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_a_lora_on_the_tower_inside_changes_it_and_survives_merge(base, tmp_path) -> None:
    name = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    folder = write_lora(tmp_path / "lora", base, pair(name, 64, 64))
    changed = logits_of(load_captioner(folder, vision_tower="checkpoint"))
    assert not torch.equal(changed, logits_of(load_captioner(base, vision_tower="checkpoint")))
    merge(folder, tmp_path / "merged")
    assert torch.equal(logits_of(load_captioner(tmp_path / "merged")), changed)


@pytest.mark.parametrize("damage", ["cut", "empty", "lfs"])
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin"]
)
def test_damaged_lora_files_are_named(base, tmp_path, name, damage) -> None:
    folder = write_lora(tmp_path / "lora", base, GOOD)
    if name.endswith(".bin"):
        if name == "adapter_model.bin":
            (folder / "adapter_model.safetensors").unlink()
        torch.save({f"base_model.model.{key}": tensor for key, tensor in GOOD.items()}, folder / name)
    content = (folder / name).read_bytes()
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / name).write_bytes({"cut": content[: len(content) // 2], "empty": b"", "lfs": lfs}[damage])
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        load_captioner(folder)


def test_llavas_own_lora_on_a_bare_language_model_loads(tmp_path, base) -> None:
    """LLaVA's finetune_lora.sh: the base is vicuna, the projector comes in non_lora_trainables.bin."""
    whole = original_tensors()
    vicuna = write_folder(
        tmp_path / "vicuna",
        {name: whole[name] for name in llm_shapes()},
        {**CONFIG, "model_type": "llama"},
        tower=False,
    )
    folder = write_lora(tmp_path / "lora", vicuna, GOOD)
    others = {f"base_model.model.{name}": t for name, t in whole.items() if "mm_projector" in name}
    torch.save(others, folder / "non_lora_trainables.bin")
    shutil.copytree(base / "plain-clip", folder / "plain-clip")
    found = logits_of(load_captioner(folder), None)
    expected = logits_of(load_captioner(write_lora(tmp_path / "other", base, GOOD)), None)
    assert torch.allclose(found, expected)
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"bare language model, and there is no config.json"):
        load_captioner(folder)


def test_bases_that_name_each_other_are_refused(base, adapter, tmp_path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    for folder, named in ((adapter, other), (other, adapter)):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.update(base_model=str(named), base_model_relative=None)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="name each other"):
        load_captioner(adapter)
    with pytest.raises(UsageError, match="names itself"):
        load_captioner(write_lora(tmp_path / "lora", tmp_path / "lora", GOOD))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_model", ["x"]),
        ("num_styles", "3"),
        ("style_tokens", 2.5),
        ("prompt", 7),
        ("template", {}),
        ("format", None),
        ("vision_tower", 5),
    ],
)
def test_manifests_with_wrong_values_are_refused(adapter, key, value) -> None:
    manifest = json.loads((adapter / "manifest.json").read_text())
    (adapter / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(UsageError, match=r"manifest\.json|not a folder"):
        load_captioner(adapter)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n", None]
)
def test_a_damaged_adapter_file_is_named(adapter, content) -> None:
    file = adapter / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:700] if content is None else content)
    with pytest.raises(UsageError, match=r"adapter\.safetensors"):
        load_captioner(adapter)


# ------------------------------------------------------------------------------------------------------------------ config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers")
            for value in (0, -1, 10**9, 10**12, "96", 1.5, True, None, [], {})
        ),
        ("hidden_size", 33),
        ("num_attention_heads", 7),
        ("num_key_value_heads", 3),
        ("intermediate_size", 10**9),
        ("num_hidden_layers", 3),
        ("head_dim", 0),
        ("head_dim", "x"),
        ("rope_theta", "x"),
        ("rope_theta", -1),
        ("rope_scaling", "x"),
        ("rope_scaling", {"type": "magic", "factor": 2}),
        ("rope_scaling", {"type": "linear"}),
        ("rope_scaling", {"type": "linear", "factor": "2"}),
        ("hidden_act", "os.system"),
        ("hidden_act", 5),
        ("rms_norm_eps", "x"),
        ("tokenizer_model_max_length", "x"),
        ("tokenizer_model_max_length", -5),
        ("ham", 5),
        ("ham", {"prompt": 5}),
        ("ham", {"style_tokens": 0}),
        ("mm_vision_tower", {}),
        ("mm_vision_select_layer", [-2]),
        ("mm_vision_select_layer", 99),
        ("pad_token_id", 10**9),
        ("eos_token_id", "x"),
        ("tie_word_embeddings", "yes"),
        ("model_type", "gpt2"),
        ("max_position_embeddings", 0),
    ],
)
def test_values_that_no_model_can_have_are_refused(base, tmp_path, key, value) -> None:
    folder = shutil.copytree(base, tmp_path / "llava")
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    with pytest.raises(UsageError) as caught:
        load_captioner(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("image_size", 10**9),
        ("image_size", 42),
        ("patch_size", 0),
        ("patch_size", "14"),
        ("hidden_size", 65),
        ("hidden_size", 128),
        ("num_attention_heads", 0),
        ("num_attention_heads", 5),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", None),
        ("hidden_act", "exec"),
        ("layer_norm_eps", "x"),
        ("num_channels", 4),
    ],
)
def test_towers_that_cannot_be_are_refused(base, tmp_path, key, value) -> None:
    folder = shutil.copytree(base, tmp_path / "llava")
    (folder / "plain-clip" / "config.json").write_text(json.dumps({**TOWER_CONFIG, key: value}))
    with pytest.raises(UsageError) as caught:
        load_captioner(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("vision_feature_layer", [-2], r"'vision_feature_layer': \[-2\]; expected one whole number"),
        ("vision_feature_layer", [-2, -5], "expected one whole number"),
        ("text_config", None, "'text_config': None; expected an object"),
        ("text_config", [], "'text_config'"),
        ("vision_config", None, "'vision_config'"),
        ("vision_feature_select_strategy", 5, "vision_feature_select_strategy"),
    ],
)
def test_odd_llava_hf_configs_are_refused(tmp_path, key, value, said) -> None:
    folder = write_folder(tmp_path / "hf", hf_tensors(2), {**HF_CONFIG, key: value}, tower=False)
    with pytest.raises(UsageError, match=said):
        load_captioner(folder)


def test_style_prompts_of_another_width_are_refused_before_loading(base, tmp_path) -> None:
    tensors = original_tensors() | {"model.style_prompt.style_prompts": torch.zeros(40, 16)}
    with pytest.raises(UsageError, match="but the language model is 32 wide"):
        open_checkpoint(write_folder(tmp_path / "llava", tensors, CONFIG))


def test_nothing_is_read_twice_and_no_weight_is_read_to_open(base, monkeypatch) -> None:
    from ham.tensor_files import TensorIndex

    def no_weights(*_: Any) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(TensorIndex, "stream", no_weights)
    opened = open_checkpoint(base)
    assert (opened.num_styles, opened.num_image_tokens, opened.image_size_px) == (4, 4, 28)
    monkeypatch.undo()
    count = []
    read = type(opened.source.index).__init__
    monkeypatch.setattr(
        TensorIndex, "__init__", lambda self, *words: (count.append(words[0]), read(self, *words))[1]
    )
    load_captioner(base)
    assert sorted(path.name for path in count) == ["llava", "plain-clip"]


def test_a_hub_name_gets_the_command_that_downloads_it() -> None:
    with pytest.raises(UsageError, match=r"hf download liuhaotian/llava-v1.6-vicuna-7b --local-dir"):
        load_captioner("liuhaotian/llava-v1.6-vicuna-7b")


def test_a_prompt_that_leaves_no_room_is_refused(base) -> None:
    from PIL import Image

    from ham.captioner.decode import generate

    captioner = load_captioner(base)
    with pytest.raises(UsageError, match=r"the prompt is too long: .* 512 positions"):
        generate(captioner, [Image.new("RGB", (28, 28))], [[0]], prompt="word " * 3000)


# ------------------------------------------------------------------------------------------------------------ instructions


@pytest.mark.parametrize("value", [2**70, 10**11, 10**9, -1, -(2**70)])
def test_a_class_id_that_no_bank_has_takes_no_memory(tmp_path, value) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"class_id": value}, {"class_id": 0}]))
    file = InstructionFile(tmp_path / "data.json")
    assert file.style_ids.tolist() == [-1, 0] and file.styles_needed() == 1


def test_unused_styles_are_listed(tmp_path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"class_id": 2}, {"class_id": 7}]))
    assert InstructionFile(tmp_path / "data.json").unused_styles(8) == [0, 1, 3, 4, 5, 6]


def test_random_tensors_are_random() -> None:
    """The tests above compare checkpoints by their logits: these must differ between weights."""
    a, b = (random_tensors(llm_shapes(), seed) for seed in (0, 1))
    assert all(not torch.equal(a[name], b[name]) for name in a)
