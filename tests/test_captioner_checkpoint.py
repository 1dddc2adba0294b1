"""Reading every layout of one and the same tiny LLaVA, our adapter, merging back, and refusing what is incomplete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ham.captioner import layouts
from ham.captioner.checkpoint import add_styles, load_captioner, main, save_adapter
from ham.captioner.merge import merge
from ham.captioner.model import Captioner
from ham.captioner.shards import tensor_names, write_shards
from ham.captioner.tokenizer import IMAGE_TOKEN
from ham.runtime import UsageError, exit_code_of, log

TOKENIZER = Path(__file__).parent / "data" / "captioner" / "tokenizer"
V, D, INNER, LAYERS, HEADS, STYLES, TOKENS = 420, 32, 48, 2, 2, 4, 10
TOWER_CONFIG = {"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                "num_attention_heads": 1, "image_size": 28, "patch_size": 14, "hidden_act": "quick_gelu",
                "layer_norm_eps": 1e-5, "num_channels": 3}
CONFIG = {"model_type": "llava", "vocab_size": V, "hidden_size": D, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
          "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "hidden_act": "silu", "rms_norm_eps": 1e-5,
          "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rope_scaling": None,
          "tie_word_embeddings": False, "mm_vision_tower": "plain-clip", "mm_hidden_size": 64, "mm_vision_select_layer": -2,
          "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False,
          "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "tokenizer_model_max_length": 512,
          "tokenizer_padding_side": "right"}
TEXT_CONFIG = {key: CONFIG[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                            "num_key_value_heads", "hidden_act", "rms_norm_eps", "max_position_embeddings")}
HF_CONFIG = {"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"], "vision_feature_layer": -2,
             "vision_feature_select_strategy": "default", "image_token_index": V,
             "text_config": {**TEXT_CONFIG, "model_type": "llama", "vocab_size": V + 64},
             "vision_config": TOWER_CONFIG}


def tower_shapes() -> dict[str, tuple[int, ...]]:
    W, I = TOWER_CONFIG["hidden_size"], TOWER_CONFIG["intermediate_size"]  # noqa: E741
    shapes = {"embeddings.class_embedding": (W,), "embeddings.patch_embedding.weight": (W, 3, 14, 14),
              "embeddings.position_embedding.weight": (5, W)}
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (W,), f"{norm}.bias": (W,)}
    for layer in range(TOWER_CONFIG["num_hidden_layers"]):
        start = f"encoder.layers.{layer}."
        for name, out, width in (*((f"self_attn.{one}_proj", W, W) for one in ("q", "k", "v", "out")),
                                 ("mlp.fc1", I, W), ("mlp.fc2", W, I)):
            shapes |= {f"{start}{name}.weight": (out, width), f"{start}{name}.bias": (out,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{start}{norm}.weight": (W,), f"{start}{norm}.bias": (W,)}
    return shapes


def llm_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{one}_proj.weight": (D, D) for one in "qkvo"}
        shapes |= {f"{start}mlp.{one}_proj.weight": (INNER, D) for one in ("gate", "up")}
        shapes |= {f"{start}mlp.down_proj.weight": (D, INNER), f"{start}input_layernorm.weight": (D,),
                   f"{start}post_attention_layernorm.weight": (D,)}
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 + ("norm" in name and name.endswith("weight"))
            for name, shape in shapes.items()}


def plain_tower() -> dict[str, torch.Tensor]:
    return random_tensors(tower_shapes(), seed=1)


def original_tensors() -> dict[str, torch.Tensor]:
    """A HAM checkpoint's tensors; the tower inside is not the plain one."""
    shapes = llm_shapes() | {"model.mm_projector.0.weight": (D, 64), "model.mm_projector.0.bias": (D,),
                             "model.mm_projector.2.weight": (D, D), "model.mm_projector.2.bias": (D,),
                             "model.style_prompt.style_prompts": (STYLES * TOKENS, D), "model.image_newline": (D,),
                             "model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}
    inside = {layouts.TOWER + name: tensor for name, tensor in random_tensors(tower_shapes(), seed=2).items()}
    return random_tensors(shapes, seed=0) | inside


def write_folder(folder: Path, tensors: dict[str, torch.Tensor], config: dict, *, tower: bool = True, form: str = "safetensors"
                 ) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    if form == "safetensors":
        save_file(tensors, str(folder / "model.safetensors"))
    elif form == "safetensors shards":
        for number, half in enumerate(halves):
            save_file(half, str(folder / f"model-0000{number + 1}-of-00002.safetensors"))
        index = {name: f"model-0000{number + 1}-of-00002.safetensors" for number, half in enumerate(halves) for name in half}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    elif form == "bin shards":
        for number, half in enumerate(halves):
            torch.save(half, folder / f"pytorch_model-0000{number + 1}-of-00002.bin")
        index = {name: f"pytorch_model-0000{number + 1}-of-00002.bin" for number, half in enumerate(halves) for name in half}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    elif form == "shards without index":
        for number, half in enumerate(halves):
            torch.save(half, folder / f"pytorch_model-0000{number + 1}-of-00002.bin")
    else:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "bin")
    if tower:
        write_tower(folder / "plain-clip")
    return folder


def write_tower(folder: Path, prefix: str = "vision_model.", **more: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TOWER_CONFIG))
    save_file({prefix + name: tensor for name, tensor in plain_tower().items()} | more, str(folder / "model.safetensors"))
    return folder


@pytest.fixture(autouse=True)
def log_reaches_pytest() -> Iterator[None]:
    handlers, log.propagate = log.handlers[:], True
    yield
    log.handlers[:], log.propagate = handlers, True


@torch.inference_mode()
def logits_of(captioner: Captioner, style: int | None = 1) -> torch.Tensor:
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([[1, 300, 301, IMAGE_TOKEN, 302, 303]])
    return captioner.model(ids, images=pixels, class_ids=None if style is None else torch.tensor([style])).logits


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
    tower = {name.removeprefix("vision_tower."): one for name, one in state.items() if name.startswith("vision_tower.")}
    assert tower.keys() == {name for name in tower_shapes() if not name.startswith(("post_layernorm", "encoder.layers.1."))}
    assert all(torch.equal(tensor, plain_tower()[name]) for name, tensor in tower.items())
    assert (captioner.num_styles, captioner.style_tokens, captioner.image_size_px, captioner.num_image_tokens) == (4, 10, 28, 4)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in captioner.model.parameters())
    assert not any(module.training for module in captioner.model.modules())


@pytest.mark.parametrize("form", ["safetensors shards", "bin", "old bin", "bin shards", "shards without index"])
def test_every_form_of_weight_file_is_read(tmp_path, expected, form) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG, form=form)
    captioner = load_captioner(folder)
    for file in folder.glob("*model*"):
        file.unlink()      # what was loaded does not lean on the files
    assert torch.equal(logits_of(captioner), expected)


def hf_spelling(name: str, spelling: int) -> str | None:
    """The three ways in which transformers has written LLaVA-NeXT."""
    if name.endswith("inv_freq") or "style_prompt" in name:
        return None
    new = spelling == 2
    start = "" if spelling == 0 else "model."
    if name.startswith(layouts.TOWER):
        return f"{start}vision_tower.vision_model.{name[len(layouts.TOWER):]}"
    if name.startswith(layouts.PROJECTOR):
        number, kind = name[len(layouts.PROJECTOR):].split(".")
        return f"{start}multi_modal_projector.linear_{1 if number == '0' else 2}.{kind}"
    if name == "model.image_newline":
        return f"{start}image_newline"
    if name == "lm_head.weight":
        return name if new else f"{start}language_model.lm_head.weight"
    return f"model.language_model.{name.removeprefix('model.')}" if new else f"{start}language_model.{name}"


def hf_tensors(spelling: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in original_tensors().items():
        if name in (layouts.EMBEDDINGS, layouts.HEAD):
            tensor = torch.cat([tensor, torch.full((64, D), 9.0)])      # the padding that llava-hf adds
        if hf_spelling(name, spelling):
            tensors[hf_spelling(name, spelling)] = tensor
    return tensors


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
        text_config={**HF_CONFIG["text_config"], "pad_token_id": 0}, vision_config=TOWER_CONFIG, image_token_index=V)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    wanted = {layouts.original_name(name): tensor for name, tensor in hf_tensors(2).items()}
    for name, parameter in model.named_parameters():
        parameter.data = wanted[layouts.original_name(name)].clone()
    model.save_pretrained(tmp_path / "hf")
    for file in TOKENIZER.iterdir():
        shutil.copy(file, tmp_path / "hf")
    loaded = load_captioner(tmp_path / "hf", vision_tower="checkpoint")
    assert torch.equal(logits_of(loaded, None), logits_of(load_captioner(original, vision_tower="checkpoint"), None))


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
    (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": TOWER_CONFIG, "text_config": {}}))
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


@pytest.mark.parametrize("missing", ["model.mm_projector.2.bias", "model.layers.1.mlp.up_proj.weight", "lm_head.weight",
                                     "model.norm.weight"])
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


@pytest.mark.parametrize("name, tensor, message", [
    ("model.layers.0.self_attn.q_proj.bias", torch.zeros(D), "has no place in this model"),
    ("model.layers.7.input_layernorm.weight", torch.zeros(D), "has no place in this model"),
    ("model.norm.weight", torch.zeros(D + 1), r"is \(33,\), but config.json asks for \(32,\)"),
    ("model.style_prompt.style_prompts", torch.zeros(STYLES * TOKENS + 3, D), "43 rows .* styles of 10 tokens"),
])
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, tensor, message) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors() | {name: tensor}, CONFIG)
    with pytest.raises(UsageError, match=message):
        load_captioner(folder)


@pytest.mark.parametrize("change, message", [
    ({"image_aspect_ratio": "anyres"}, "'anyres'.*--image-aspect-ratio pad"),
    ({"image_aspect_ratio": None}, "heads and feet"),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    ({"mm_projector_type": "linear"}, "expected mlp2x_gelu"),
    ({"mm_vision_select_feature": "cls_patch"}, "expected patch"),
    ({"hidden_size": None}, "no 'hidden_size'"),
    ({"vocab_size": 400}, "tokenizer has 420 ids, the model only 400"),
])
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
    torch.save({"model.x": torch.nn.Linear(1, 1)}, tmp_path / "pytorch_model.bin")      # code, not tensors
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_captioner(tmp_path)


def test_other_token_counts_per_style_are_an_option(original) -> None:
    captioner = load_captioner(original, style_tokens=20)
    assert (captioner.num_styles, captioner.style_tokens) == (2, 20)


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
    facts = {"base_model": str(original), "vision_tower": "plain-clip", "template": "llava_v1", "image_size_px": 28,
             "num_styles": 6, "style_tokens": 3, "steps": 7, "max_length": 512}
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
    pairs = {name: (torch.randn(2, llm_shapes()[f"{name}.weight"][1], generator=generator),
                    torch.randn(llm_shapes()[f"{name}.weight"][0], 2, generator=generator)) for name in names}
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none",
                                                            "base_model_name_or_path": str(base), **settings}))
    tensors = {f"base_model.model.{name}.lora_{letter}.weight": tensor for name, pair in pairs.items()
               for letter, tensor in zip("AB", pair)}
    torch.save(tensors, folder / "adapter_model.bin")
    return pairs


def test_lora_is_merged_at_load(original, tmp_path) -> None:
    pairs = write_lora(tmp_path / "lora", original)
    projector = torch.full((D,), 0.25)
    torch.save({"base_model.model.model.mm_projector.0.bias": projector}, tmp_path / "lora" / "non_lora_trainables.bin")
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
    assert torch.allclose(logits_of(load_captioner(tmp_path / "merged"), 5), logits_of(captioner, 5), atol=1e-5)
    save_adapter(tmp_path / "again", captioner)      # tuned on: its base is the adapter with the LoRA
    assert torch.equal(logits_of(load_captioner(tmp_path / "again"), 5), logits_of(captioner, 5))


@pytest.mark.parametrize("settings, message", [
    ({"use_dora": True}, "only plain LoRA"),
    ({"bias": "all"}, "only plain LoRA"),
    ({"peft_type": "IA3"}, "only plain LoRA"),
    ({"base_model_name_or_path": "lmsys/none"}, "--base-model"),
])
def test_odd_loras_are_refused(original, tmp_path, settings, message) -> None:
    write_lora(tmp_path / "lora", original, **settings)
    with pytest.raises(UsageError, match=message):
        load_captioner(tmp_path / "lora")


# --------------------------------------------------------------------------------------------------------------- merging


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(str(file)).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_original_to_ours_to_original_is_identical(tmp_path, dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors().items()}
    folder = write_folder(tmp_path / "llava", tensors, CONFIG)
    save_adapter(tmp_path / "adapter", load_captioner(folder))
    merge(tmp_path / "adapter", tmp_path / "merged", max_shard_gib=100_000 / 2**30)
    merged = all_tensors(tmp_path / "merged")
    assert merged.keys() == tensors.keys()
    assert all(merged[name].dtype == dtype and torch.equal(merged[name], tensor) for name, tensor in tensors.items())
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
    assert torch.equal(logits_of(load_captioner(tmp_path / "merged"), None), logits_of(load_captioner(folder), None))


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
    assert sorted(tensor_names(tmp_path)) == sorted(tensors)
    assert all(torch.equal(all_tensors(tmp_path)[name], tensor) for name, tensor in tensors.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 280
    assert not list(tmp_path.glob("*.part"))


def test_merge_command(adapted, tmp_path, monkeypatch, capsys) -> None:
    folder, _ = adapted
    monkeypatch.setattr("sys.argv", ["checkpoint", "merge", "--model-path", str(folder), "--out", str(tmp_path / "merged")])
    assert exit_code_of(main) == 0
    assert "model.style_prompt.style_prompts" in tensor_names(tmp_path / "merged")
    assert exit_code_of(main) == 2
    assert "not empty" in capsys.readouterr().err
    assert not list(tmp_path.glob(".merged*"))
