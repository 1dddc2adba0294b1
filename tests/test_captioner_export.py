"""The llava-hf export: stock transformers gives our captions, and our loader finds the styles again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_captioner_train import base as plain_base  # noqa: F401
from test_captioner_train import data, run, words  # noqa: F401
from tiny_llava import (
    CONFIG,
    HF_CONFIG,
    TOWER_CONFIG,
    D,
    hf_tensors,
    logits_of,
    original_tensors,
    write_folder,
)

from ham.captioner import llava_export
from ham.captioner.checkpoint import add_styles, load_captioner, main, merge, save_adapter
from ham.captioner.decode import generate
from ham.captioner.llava_export import export_llava
from ham.llava import layouts
from ham.llava.preprocess import open_image, square_image
from ham.llava.transformers_compat import IS_LEGACY
from ham.records import read_jsonl
from ham.runtime import UsageError, WorkError, exit_code_of
from ham.tensor_files import index
from ham.world.build import build_world

pytestmark = pytest.mark.skipif(IS_LEGACY, reason="the export needs transformers 5")
SHIPPED = Path(__file__).resolve().parent.parent / "ham" / "world" / "weights" / "llava"


@pytest.fixture(scope="module")
def world_adapter(tmp_path_factory) -> Path:
    """The world's LLaVA with four random styles that change what it says."""
    captioner = load_captioner(SHIPPED)
    add_styles(captioner, 4, 10, "vocab", seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in captioner.model.projector.parameters():
        parameter.data += 1e-3 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("world") / "adapter"
    save_adapter(folder, captioner, prompt="Describe the person in the image.")
    return folder


@pytest.fixture(scope="module")
def exported(world_adapter, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export_llava(world_adapter, out)
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Image.Image]:
    """20 pedestrians of the synthetic dataset, squared as the captioner does."""
    folder = tmp_path_factory.mktemp("world")
    build_world(folder / "nano", "nano", 0, 1)
    files = sorted((folder / "nano").rglob("*.jpg"))
    return [square_image(open_image(file), 126) for file in files[:: len(files) // 20][:20]]


class Stock:
    """An export in transformers, as its documentation uses one: nothing of this package."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, image: Image.Image, prompt: str, style: int | None) -> dict[str, torch.Tensor]:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        given = {} if style is None else {"style": style}
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, **given
        )
        return self.processor(text=text, images=image, add_special_tokens=False, return_tensors="pt")

    @torch.no_grad()
    def caption(self, image: Image.Image, prompt: str, style: int | None, tokens: int) -> str:
        inputs = self.inputs(image, prompt, style)
        ids = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        made = ids[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(made, skip_special_tokens=True).strip()


def test_stock_transformers_gives_our_captions_token_for_token(exported, world_adapter, pictures) -> None:
    """20 images x 4 styles and none, greedy, float32; 40 new tokens."""
    captioner, stock = load_captioner(world_adapter), Stock(exported)
    prompt = captioner.manifest["prompt"]
    ours = generate(captioner, pictures, [[0, 1, 2, 3]] * 20, max_new_tokens=40)
    plain = generate(captioner, pictures, [[-1]] * 20, max_new_tokens=40)
    for image, captions, without in zip(pictures, ours, plain, strict=True):
        assert [stock.caption(image, prompt, style, 40) for style in range(4)] == captions
        assert stock.caption(image, prompt, None, 40) == without[0]
    assert len({caption for captions in ours for caption in captions}) > 20, (
        "the captions must differ to say anything"
    )


def test_our_loader_finds_the_styles_again(exported, world_adapter, pictures) -> None:
    found, own = load_captioner(exported), load_captioner(world_adapter)
    assert (found.num_styles, found.style_tokens, found.template) == (4, 10, own.template)
    assert found.manifest["prompt"] == own.manifest["prompt"]
    for name, parameter in own.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), parameter), name
    styles = [[0, 3], [1, -1][:1]]
    assert generate(found, pictures[:2], styles, max_new_tokens=20) == generate(
        own, pictures[:2], styles, max_new_tokens=20
    )


def test_merging_the_export_back_gives_the_same_tensors(exported, world_adapter, tmp_path) -> None:
    merge(world_adapter, tmp_path / "direct")
    merge(exported, tmp_path / "back")
    direct, back = index(tmp_path / "direct"), index(tmp_path / "back")
    for name in direct:
        assert torch.equal(direct.read(name).float(), back.read(name).float()), name
    assert all(name.startswith(layouts.TOWER) for name in set(back) - set(direct))
    export_llava(tmp_path / "back", tmp_path / "again")
    first, second = index(exported), index(tmp_path / "again")
    assert set(first) == set(second)
    assert all(torch.equal(first.read(name).float(), second.read(name).float()) for name in first)


def test_tuning_goes_on_from_an_export(exported, data, tmp_path, monkeypatch) -> None:
    start = load_captioner(exported)
    run(monkeypatch, *words(exported, data, tmp_path, "--max_steps", "6", "--save_strategy", "no"))
    tuned = load_captioner(tmp_path)
    assert (tuned.num_styles, tuned.style_tokens) == (4, 10)
    moved = (tuned.model.style_bank.prompts - start.model.style_bank.prompts).flatten(1).norm(dim=1)
    assert (moved[[0, 1, 3]] > 0).all() and moved[2] == 0
    assert [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    export_llava(tmp_path, tmp_path / "exported again")


# -------------------------------------------------------------------------------------------------------------- other bases


@pytest.fixture(scope="module")
def ham(tmp_path_factory) -> Path:
    """A HAM checkpoint in the original layout; the tower inside is not the plain one."""
    return write_folder(tmp_path_factory.mktemp("ham") / "ham", original_tensors(), CONFIG)


@pytest.mark.parametrize("template", ["v1", "llava_v1", "llava_v0"])
@pytest.mark.parametrize("tower", [None, "checkpoint"])
def test_a_ham_checkpoint_exports_with_every_template_and_the_tower_that_runs(
    ham, tmp_path, template, tower
) -> None:
    captioner = load_captioner(ham, vision_tower=tower, template=template)
    save_adapter(tmp_path / "adapter", captioner)
    export_llava(tmp_path / "adapter", tmp_path / "out", vision_tower=tower)
    found = load_captioner(tmp_path / "out")
    assert found.template == template
    assert torch.equal(logits_of(found), logits_of(captioner))


@pytest.mark.parametrize("spelling", [0, 1, 2])
def test_llava_hf_bases_export_without_their_padding(tmp_path, spelling) -> None:
    base = write_folder(tmp_path / "hf", hf_tensors(spelling), HF_CONFIG, tower=False)
    captioner = load_captioner(base, vision_tower="checkpoint")
    add_styles(captioner, 3, 2, "vocab", seed=1)
    save_adapter(tmp_path / "adapter", captioner)
    export_llava(tmp_path / "adapter", tmp_path / "out")
    assert torch.equal(logits_of(load_captioner(tmp_path / "out")), logits_of(captioner))
    assert index(tmp_path / "out")["language_model.model.embed_tokens.weight"].shape == (420 + 1 + 6, D)


def test_a_plain_llava_exports_with_no_style(plain_base, tmp_path) -> None:
    export_llava(plain_base, tmp_path / "out")
    found = load_captioner(tmp_path / "out")
    assert found.num_styles == 0 and torch.equal(
        logits_of(found, None), logits_of(load_captioner(plain_base), None)
    )
    with pytest.raises(Exception, match="style 0 does not exist"):
        Stock(tmp_path / "out").inputs(Image.new("RGB", (28, 28)), "Who?", 0)


def test_half_precision_weights_keep_float32_styles(tmp_path) -> None:
    tensors = {name: tensor.half() for name, tensor in original_tensors().items()}
    captioner = load_captioner(write_folder(tmp_path / "llava", tensors, CONFIG))
    captioner.model.style_bank.prompts.data += 1e-5
    save_adapter(tmp_path / "adapter", captioner)
    export_llava(tmp_path / "adapter", tmp_path / "out", max_shard_gib=1e-4)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    found = load_captioner(tmp_path / "out").model
    assert torch.equal(found.style_bank.prompts, captioner.model.style_bank.prompts)


# ------------------------------------------------------------------------------------------------------------------- files


def test_the_files_are_what_engines_expect(exported) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["model_type"] == "llava"
    assert config["image_token_index"] == 1300 and config["image_seq_length"] == 81
    mark = config["ham"]
    assert (mark["num_styles"], mark["style_tokens"], mark["first_style_token"]) == (4, 10, 1301)
    assert (mark["prompt"], mark["template"]) == ("Describe the person in the image.", "v1")
    assert config["text_config"]["vocab_size"] == 1341
    tower = index(exported)
    assert (
        f"vision_tower.vision_model.encoder.layers.{config['vision_config']['num_hidden_layers'] - 1}.mlp.fc1.bias"
        in tower
    )
    assert "vision_tower.vision_model.post_layernorm.weight" in tower
    processor = json.loads((exported / "preprocessor_config.json").read_text())
    assert processor["do_pad"] is True and processor["size"] == {"height": 126, "width": 126}
    assert json.loads((exported / "processor_config.json").read_text())["num_additional_image_tokens"] == 1
    tokenizer = json.loads((exported / "tokenizer.json").read_text())
    added = {one["content"]: one for one in tokenizer["added_tokens"]}
    assert added["<|style_3_9|>"]["id"] == 1340
    assert not any(one["normalized"] or one["lstrip"] or one["rstrip"] for one in added.values())
    written = (exported / "tokenizer_config.json").read_text()
    assert "TokenizersBackend" not in written and "local_files_only" not in written
    card = (exported / "README.md").read_text()
    assert all(
        piece in card for piece in ("vllm serve", "sglang", "1301 to 1340", "license", "Describe the person")
    )


def test_the_added_tokens_are_never_the_best(exported) -> None:
    head = index(exported).read("language_model.lm_head.weight").float()
    hidden = torch.randn(500, head.shape[1], generator=torch.Generator().manual_seed(0))
    logits = hidden @ head.T
    assert (logits[:, 1300:].max(1).values < logits[:, :1300].max(1).values).all()


def test_the_start_token_comes_once_and_the_style_behind_the_image(exported) -> None:
    stock = Stock(exported)
    for style in (None, 2):
        ids = stock.inputs(Image.new("RGB", (126, 126)), "Who?", style)["input_ids"][0].tolist()
        assert ids.count(1) == 1 and ids[0] == 1
        last = len(ids) - 1 - ids[::-1].index(1300)
        behind = ids[last + 1 : last + 11]
        assert (behind == list(range(1321, 1331))) == (style == 2)


@pytest.mark.parametrize("style", [4, -1, "1", 1.5])
def test_a_style_that_does_not_exist_is_an_error_of_the_template(exported, style) -> None:
    with pytest.raises(Exception, match="does not exist; this model has styles 0 to 3"):
        Stock(exported).inputs(Image.new("RGB", (126, 126)), "Who?", style)


# ------------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("part", ["logits", "ids", "added"])
def test_a_wrong_export_is_never_written(world_adapter, tmp_path, monkeypatch, part) -> None:
    def spoiled(function: Any) -> Any:
        def wrapped(*words: Any, **options: Any) -> Any:
            value = function(*words, **options)
            if part == "ids":
                value["pre_tokenizer"]["prepend_scheme"] = "first"
            elif part == "logits":
                value[-1] += 0.5
            else:
                value = torch.cat([value[:1300], 50 * value[:20], -50 * value[:21]])
            return value

        return wrapped

    name = {"logits": "with_style_rows", "ids": "tokenizer_json", "added": "with_mean_rows"}[part]
    monkeypatch.setattr(llava_export, name, spoiled(getattr(llava_export, name)))
    said = {
        "logits": "first logits for style 3 are",
        "ids": "other ids from position",
        "added": "would write an added token",
    }
    with pytest.raises(WorkError, match=said[part]):
        export_llava(world_adapter, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_styles": 5}, "records 5 styles up to id 1350, but there are 1341 embeddings"),
        ({"vocab_size": "x"}, r"ham\.vocab_size"),
        ({"first_style_token": 10**6}, "records 4 styles"),
    ],
)
def test_a_mark_that_does_not_fit_is_refused(exported, tmp_path, change, said) -> None:
    import shutil

    folder = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["ham"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=said):
        load_captioner(folder)


def test_the_command_writes_both_layouts(world_adapter, tmp_path, monkeypatch, capsys) -> None:
    command = ["checkpoint", "merge", "--model-path", str(world_adapter), "--out", str(tmp_path / "hf")]
    monkeypatch.setattr(sys, "argv", [*command, "--layout", "llava-hf"])
    assert exit_code_of(main) == 0
    assert exit_code_of(main) == 2
    assert "is not empty" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command[:-1], str(tmp_path / "original")])
    assert exit_code_of(main) == 0
    assert load_file(str(tmp_path / "original" / "model.safetensors"))[layouts.STYLES].shape == (40, 96)
    assert TOWER_CONFIG["image_size"] == 28
