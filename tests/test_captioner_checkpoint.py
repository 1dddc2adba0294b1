"""Reading every layout of one and the same tiny LLaVA, and refusing what is incomplete or odd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_llava import (
    CONFIG,
    HF_CONFIG,
    STYLES,
    TOKENIZER,
    TOKENS,
    TOWER_CONFIG,
    D,
    V,
    hf_tensors,
    llm_shapes,
    logits_of,
    original_tensors,
    plain_tower,
    tower_shapes,
    write_folder,
    write_tower,
)

from ham.captioner.checkpoint import load_captioner
from ham.llava import layouts
from ham.llava.transformers_compat import IS_LEGACY, build_llm, llm_config
from ham.runtime import UsageError, log


@pytest.fixture(autouse=True)
def log_reaches_pytest() -> Iterator[None]:
    handlers, log.propagate = log.handlers[:], True
    yield
    log.handlers[:], log.propagate = handlers, True


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("original") / "llava", original_tensors(), CONFIG)


@pytest.fixture(scope="module")
def expected(original: Path) -> torch.Tensor:
    return logits_of(load_captioner(original))


# --------------------------------------------------------------------------------------------------------------- reading


def test_every_tensor_lands_where_it_belongs(original) -> None:
    captioner = load_captioner(original)
    state, tensors = captioner.model.state_dict(), original_tensors()
    for name in llm_shapes():
        assert torch.equal(state[f"llm.{name}"], tensors[name])
    for part in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(state[f"projector.{part}"], tensors[f"model.mm_projector.{part}"])
    assert torch.equal(state["style_bank.prompts"].flatten(0, 1), tensors["model.style_prompt.style_prompts"])
    tower = {
        name.removeprefix("vision_tower."): one
        for name, one in state.items()
        if name.startswith("vision_tower.")
    }
    assert tower.keys() == {
        name for name in tower_shapes() if not name.startswith(("post_layernorm", "encoder.layers.1."))
    }
    assert all(torch.equal(tensor, plain_tower()[name]) for name, tensor in tower.items())
    assert (
        captioner.num_styles,
        captioner.style_tokens,
        captioner.image_size_px,
        captioner.num_image_tokens,
    ) == (4, 10, 28, 4)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in captioner.model.parameters())
    assert not any(module.training for module in captioner.model.modules())


@pytest.mark.parametrize(
    "form", ["safetensors shards", "bin", "old bin", "bin shards", "shards without index"]
)
def test_every_form_of_weight_file_is_read(tmp_path, expected, form) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG, form=form)
    captioner = load_captioner(folder)
    for file in folder.glob("*model*"):
        file.unlink()  # what was loaded does not lean on the files
    assert torch.equal(logits_of(captioner), expected)


@pytest.mark.parametrize("spelling", [0, 1, 2])
@pytest.mark.parametrize("tower", ["checkpoint", "plain"])
def test_llava_hf_spellings_give_the_same_logits(tmp_path, original, spelling, tower) -> None:
    folder = write_folder(tmp_path / "hf", hf_tensors(spelling), HF_CONFIG, tower=False)
    choice = tower if tower == "checkpoint" else str(original / "plain-clip")
    theirs, ours = load_captioner(folder, vision_tower=choice), load_captioner(original, vision_tower=choice)
    assert theirs.model.llm.config.vocab_size == V
    assert theirs.num_styles == 0
    assert torch.equal(logits_of(theirs, None), logits_of(ours, None))


@pytest.mark.parametrize("kind", ["LlavaNext", "Llava"])
def test_what_transformers_writes_today_is_read(tmp_path, original, kind) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = getattr(transformers, f"{kind}Config")(
        text_config={**HF_CONFIG["text_config"], "pad_token_id": 0},
        vision_config=TOWER_CONFIG,
        image_token_index=V,
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    wanted = {layouts.original_name(name): tensor for name, tensor in hf_tensors(2).items()}
    for name, parameter in model.named_parameters():
        parameter.data = wanted[layouts.original_name(name)].clone()
    model.save_pretrained(tmp_path / "hf")
    for file in TOKENIZER.iterdir():
        shutil.copy(file, tmp_path / "hf")
    loaded = load_captioner(tmp_path / "hf", vision_tower="checkpoint")
    assert torch.equal(
        logits_of(loaded, None), logits_of(load_captioner(original, vision_tower="checkpoint"), None)
    )


def test_padding_token_beyond_the_vocabulary_becomes_unk(tmp_path, caplog) -> None:
    folder = write_folder(tmp_path / "hf", hf_tensors(0), HF_CONFIG, tower=False)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<pad>"}))
    with caplog.at_level("INFO", logger="ham"):
        captioner = load_captioner(folder)
    assert captioner.tokenizer.pad_token_id == 0
    assert "beyond the vocabulary" in caplog.text


# ------------------------------------------------------------------------------------------------------------ the tower


def test_tower_choices_differ_and_are_logged(original, expected, tmp_path, caplog) -> None:
    with caplog.at_level("INFO", logger="ham"):
        inside = load_captioner(original, vision_tower="checkpoint")
        other = load_captioner(original, vision_tower=str(write_tower(tmp_path / "clip", "")))
    assert "vision tower: the one inside the checkpoint" in caplog.text
    assert f"vision tower: {tmp_path / 'clip'}" in caplog.text
    assert not torch.allclose(logits_of(inside), expected, atol=1e-3)
    assert torch.equal(logits_of(other), expected)
    state = inside.model.vision_tower.state_dict()
    assert torch.equal(state["pre_layrnorm.bias"], original_tensors()[layouts.TOWER + "pre_layrnorm.bias"])


def test_tower_of_a_whole_clip_is_taken_without_its_text_half(original, expected, tmp_path) -> None:
    text_half = {"text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(())}
    tower = write_tower(tmp_path / "clip", **text_half)
    (tower / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": TOWER_CONFIG, "text_config": {}})
    )
    assert torch.equal(logits_of(load_captioner(original, vision_tower=str(tower))), expected)


def test_tower_inside_is_inferred_from_its_tensors_when_nothing_describes_it(tmp_path, original) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG, tower=False)
    inferred = load_captioner(folder, vision_tower="checkpoint")
    assert torch.equal(logits_of(inferred), logits_of(load_captioner(original, vision_tower="checkpoint")))


def test_tower_that_is_nowhere_is_an_error_with_the_ways_out(tmp_path) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG, tower=False)
    with pytest.raises(UsageError, match=r"'plain-clip' is neither a folder .*'checkpoint' for the"):
        load_captioner(folder)
    with pytest.raises(UsageError, match="no folder with a config"):
        load_captioner(folder, vision_tower="nowhere/at-all")
    bare = {name: tensor for name, tensor in original_tensors().items() if not name.startswith(layouts.TOWER)}
    with pytest.raises(UsageError, match="there is none among its weights"):
        load_captioner(write_folder(tmp_path / "bare", bare, CONFIG, tower=False), vision_tower="checkpoint")


# ------------------------------------------------------------------------------------------------- incomplete, wrong, odd


@pytest.mark.parametrize(
    "missing",
    ["model.mm_projector.2.bias", "model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"],
)
def test_a_missing_tensor_is_named(tmp_path, missing) -> None:
    tensors = original_tensors()
    del tensors[missing]
    with pytest.raises(UsageError, match=layouts.module_name(missing).replace(".", r"\.")):
        load_captioner(write_folder(tmp_path / "llava", tensors, CONFIG))


def test_missing_parts_are_named(tmp_path) -> None:
    no_projector = {name: one for name, one in original_tensors().items() if "mm_projector" not in name}
    with pytest.raises(UsageError, match="no projector among the weights"):
        load_captioner(write_folder(tmp_path / "a", no_projector, CONFIG))
    only_projector = {name: one for name, one in original_tensors().items() if "mm_projector" in name}
    with pytest.raises(UsageError, match="no language model"):
        load_captioner(write_folder(tmp_path / "b", only_projector, CONFIG))
    folder = write_folder(tmp_path / "c", original_tensors(), CONFIG)
    tower = plain_tower()
    del tower["encoder.layers.0.mlp.fc1.bias"]
    save_file(tower, str(folder / "plain-clip" / "model.safetensors"))
    with pytest.raises(UsageError, match=r"vision_tower\.encoder\.layers\.0\.mlp\.fc1\.bias"):
        load_captioner(folder)
    folder = write_folder(tmp_path / "d", original_tensors(), CONFIG, form="bin shards")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UsageError, match=r"1 missing shard\(s\), e.g. pytorch_model-00002"):
        load_captioner(folder)


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("model.layers.0.self_attn.q_proj.bias", torch.zeros(D), "has no place in this model"),
        ("model.layers.7.input_layernorm.weight", torch.zeros(D), "has no place in this model"),
        ("model.norm.weight", torch.zeros(D + 1), r"is \(33,\), but config.json asks for \(32,\)"),
        (
            "model.style_prompt.style_prompts",
            torch.zeros(STYLES * TOKENS + 3, D),
            "43 rows .* styles of 10 tokens",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, tensor, message) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors() | {name: tensor}, CONFIG)
    with pytest.raises(UsageError, match=message):
        load_captioner(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_aspect_ratio": "anyres"}, "'anyres'.*--image-aspect-ratio pad"),
        ({"image_aspect_ratio": None}, "heads and feet"),
        ({"model_type": "llava_mistral"}, "'llava_mistral'; expected one of llava"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_projector_type": "linear"}, "expected mlp2x_gelu"),
        ({"mm_vision_select_feature": "cls_patch"}, "expected patch"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"vocab_size": 400}, "tokenizer has 420 ids, the model only 400"),
    ],
)
def test_configs_that_cannot_be_followed_are_refused(original, tmp_path, change, message) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), {**CONFIG, **change})
    with pytest.raises(UsageError, match=message):
        load_captioner(folder)
    if "image_aspect_ratio" in change:
        assert load_captioner(folder, image_aspect_ratio="pad").manifest["image_aspect_ratio"] == "pad"


def test_folders_that_are_no_checkpoints_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_captioner(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no manifest.json .*no config.json"):
        load_captioner(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UsageError, match="no weights"):
        load_captioner(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_captioner(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.x": torch.nn.Linear(1, 1)}, tmp_path / "pytorch_model.bin")  # code, not tensors
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_captioner(tmp_path)


def test_other_token_counts_per_style_are_an_option(original) -> None:
    captioner = load_captioner(original, style_tokens=20)
    assert (captioner.num_styles, captioner.style_tokens) == (2, 20)


@pytest.mark.skipif(IS_LEGACY, reason="transformers 4.31 has no rotary base; see test_legacy_stack.py")
def test_rotary_settings_reach_the_model_in_either_spelling() -> None:
    old = llm_config({**CONFIG, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})
    new = llm_config({**CONFIG, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}})
    plain = llm_config(CONFIG)
    tables = [build_llm(config).model.rotary_emb.inv_freq for config in (old, new, plain)]
    assert torch.equal(tables[0], tables[1])
    assert tables[0][1].item() == pytest.approx(0.5 * 5e5 ** (-2 / 16))
    assert tables[2][1].item() == pytest.approx(1e4 ** (-2 / 16))
