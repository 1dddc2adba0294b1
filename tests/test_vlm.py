"""The backbone for any image-text-to-text model: added tokens, prompts through its own template, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ham.records import read_json, style_token, write_json
from ham.runtime import UsageError
from ham.vlm.export import extend_tables, save_folder
from ham.vlm.load import is_vision_language_model, limit_pixels, load_model, projector_names
from ham.vlm.prompts import PromptWriter, chat_template_of, with_style
from ham.vlm.vocabulary import add_tokens, extend_embedding

tiny_vlm = pytest.importorskip(
    "tiny_vlm", exc_type=ImportError, reason="needs the current transformers (Qwen2.5-VL, Qwen3-VL)"
)

STYLES, TOKENS = 3, 4
IMAGE = Image.new("RGB", (60, 160), (200, 30, 40))
ASK = "Describe the person"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("vlm")
    return {name: write(top / name) for name, write in tiny_vlm.WRITERS.items()}


def open_with_styles(folder: Path):
    """Load a model, add STYLES x TOKENS tokens with random rows; returns (model, writer, rows, first id)."""
    model = load_model(folder)
    first = add_tokens(model.tokenizer, [style_token(s, k) for s in range(STYLES) for k in range(TOKENS)])
    rows = torch.nn.Parameter(
        torch.randn(STYLES * TOKENS, model.width, generator=torch.Generator().manual_seed(3))
    )
    extend_embedding(model.network, lambda: rows, first, len(rows))
    writer = PromptWriter(
        model.processor, with_style(chat_template_of(model.processor), STYLES, TOKENS), model.end_ids
    )
    return model, writer, rows, first


@pytest.mark.parametrize("family", list(tiny_vlm.WRITERS))
def test_the_style_follows_the_image_in_the_prompt(folders, family) -> None:
    model, writer, _, first = open_with_styles(folders[family])
    writer.check(STYLES, TOKENS)
    plain = writer.encode(IMAGE, ASK, None)["input_ids"][0].tolist()
    styled = writer.encode(IMAGE, ASK, 2)["input_ids"][0].tolist()
    expected = list(range(first + 2 * TOKENS, first + 3 * TOKENS))
    start = styled.index(expected[0])
    assert styled[start : start + TOKENS] == expected
    assert styled[:start] + styled[start + TOKENS :] == plain
    image_id = next(
        getattr(model.network.config, name)
        for name in ("image_token_id", "image_token_index")
        if hasattr(model.network.config, name)
    )
    assert max(i for i, one in enumerate(styled) if one == image_id) < start


@pytest.mark.parametrize("family", list(tiny_vlm.WRITERS))
def test_only_the_answer_and_its_end_are_learned(folders, family) -> None:
    model, writer, _, _ = open_with_styles(folders[family])
    example = writer.encode_example(IMAGE, ASK, 1, "a man in red.")
    labels = example["labels"][0]
    assert model.tokenizer.decode(labels[labels >= 0]) == "a man in red.<|im_end|>"
    assert int(example["input_ids"][0, -1]) in model.end_ids
    assert {value.shape[1] for value in example.values() if value.dim() == 2 and len(value) == 1} >= {
        len(labels)
    }


@pytest.mark.parametrize("family", list(tiny_vlm.WRITERS))
def test_rows_train_alone_and_the_export_gives_the_same_logits(folders, family, tmp_path) -> None:
    model, writer, rows, first = open_with_styles(folders[family])
    table = model.network.get_input_embeddings().base.weight
    before = table.clone()
    example = writer.encode_example(IMAGE, ASK, 1, "a man in red.")
    optimizer = torch.optim.Adam([rows], lr=0.1)
    losses = []
    for _ in range(30):
        loss = model.network(**example).loss
        optimizer.zero_grad()
        loss.backward()
        assert set(rows.grad.flatten(1).abs().sum(1).nonzero().flatten().tolist()) <= set(
            range(TOKENS, 2 * TOKENS)
        )
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert torch.equal(table, before)

    prompts = [writer.encode(IMAGE, ASK, style) for style in (None, 0, STYLES - 1)]
    with torch.no_grad():
        expected = [model.network(**prompt).logits[0, -1] for prompt in prompts]
    extend_tables(model.network, rows, first)
    mark = {"first_style_token": first, "num_styles": STYLES, "style_tokens": TOKENS}
    save_folder(tmp_path / "out", model.network, model.processor, writer.template, mark, "card")

    exported = load_model(tmp_path / "out")
    again = PromptWriter(exported.processor, chat_template_of(exported.processor), exported.end_ids)
    assert read_json(tmp_path / "out" / "config.json")["ham"] == mark
    for style, prompt, logits in zip((None, 0, STYLES - 1), prompts, expected, strict=True):
        found = again.encode(IMAGE, ASK, style)
        assert torch.equal(found["input_ids"], prompt["input_ids"])
        with torch.no_grad():
            seen = exported.network(**found).logits[0, -1]
        torch.testing.assert_close(seen[:first], logits[:first], rtol=0, atol=1e-5)
        assert seen[first : first + len(rows)].max() < seen[:first].max()  # a style token never wins


def test_tables_grow_where_the_vocabulary_is_full(folders, tmp_path) -> None:
    """A tied table without spare rows: input and output are untied and grow; old rows stay."""
    folder = tiny_vlm.write_qwen2_5_vl(tmp_path / "model")
    config = read_json(folder / "config.json")
    model = load_model(folder)
    size = len(model.tokenizer)
    model.network.resize_token_embeddings(size)
    model.network.save_pretrained(tmp_path / "full")
    model.processor.save_pretrained(tmp_path / "full")
    assert config["text_config"]["vocab_size"] > size

    model, writer, rows, first = open_with_styles(tmp_path / "full")
    assert first == size
    old = model.network.get_input_embeddings().base.weight.clone()
    extend_tables(model.network, rows, first)
    save_folder(tmp_path / "out", model.network, model.processor, writer.template, {"x": 1}, "card")
    exported = load_model(tmp_path / "out")
    table, head = (
        get().weight
        for get in (exported.network.get_input_embeddings, exported.network.get_output_embeddings)
    )
    assert table.data_ptr() != head.data_ptr() and len(table) == len(head) == size + len(rows)
    assert torch.equal(table[:size], old) and torch.equal(table[size:], rows)
    torch.testing.assert_close(head[size:], old.mean(0).expand(len(rows), -1))


def test_the_pixel_budget_is_kept(folders) -> None:
    model = load_model(folders["qwen2_5_vl"], max_pixels=56 * 84)
    writer = PromptWriter(model.processor, chat_template_of(model.processor), model.end_ids)
    grid = writer.encode(Image.new("RGB", (400, 900)), ASK, None)["image_grid_thw"][0]
    assert int(grid.prod()) * 14 * 14 <= 56 * 84
    with pytest.raises(UsageError, match=r"--max_pixels 100 .*smallest"):
        limit_pixels(model.processor, 100, "here")
    with pytest.raises(UsageError, match="fixed size"):
        load_model(folders["llava"], max_pixels=5000)


def test_models_that_cannot_be_tuned_are_refused(folders, tmp_path) -> None:
    import shutil

    def changed(name: str, change) -> Path:
        folder = tmp_path / name
        shutil.copytree(folders["llava"], folder)
        change(folder)
        return folder

    def without_template(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()

    def deaf_template(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text("<image>{{ messages | length }}<|im_end|>")

    def code(folder: Path) -> None:
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"auto_map": {"AutoModel": "evil.Evil"}})

    with pytest.raises(UsageError, match="no chat template"):
        load_model(changed("no-template", without_template))
    with pytest.raises(UsageError, match="places style 0 0 times"):
        open_with_styles(changed("deaf", deaf_template))[1].check(STYLES, TOKENS)
    with pytest.raises(UsageError, match="never run here"):
        load_model(changed("code", code))
    with pytest.raises(UsageError, match="no module ends with nowhere"):
        projector_names(load_model(folders["llava"]).network, "nowhere")
    with pytest.raises(UsageError, match=r"Linear.*ordinary"):
        network = load_model(folders["llava"]).network
        network.get_input_embeddings = lambda: torch.nn.Linear(2, 2)
        extend_embedding(network, lambda: None, 0, 1)
    with pytest.raises(UsageError, match="already"):
        tokenizer = load_model(folders["llava"]).tokenizer
        add_tokens(tokenizer, ["<|style_0_0|>"])
        add_tokens(tokenizer, ["<|style_0_0|>"])


def test_a_folder_is_recognized_by_content(folders, tmp_path) -> None:
    assert all(is_vision_language_model(folder) for folder in folders.values())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert not is_vision_language_model(tmp_path) and not is_vision_language_model(tmp_path / "nothing")


def test_a_model_without_image_token_is_refused(folders, tmp_path) -> None:
    """GIT takes an image beside its text, not as tokens of the prompt."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(**sizes, vocab_size=400, vision_config={**sizes, "image_size": 28, "patch_size": 14})
    GitForCausalLM(config).save_pretrained(tmp_path)
    GitProcessor(CLIPImageProcessor(), tiny_vlm.make_tokenizer()).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="neither image_token_id nor image_token_index"):
        load_model(tmp_path)


class SplittingTokenizer:
    """A tokenizer that takes added tokens into its vocabulary but splits them, or leaves a hole between their ids."""

    def __init__(self, ids: list[int], split: list[int]) -> None:
        self.ids, self.split = ids, split

    def get_vocab(self) -> dict[str, int]:
        return {}

    def add_tokens(self, tokens: list, special_tokens: bool) -> None:
        assert special_tokens and len(tokens) == len(self.ids)

    def convert_tokens_to_ids(self, names: list[str]) -> list[int]:
        return self.ids

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self.split}


def test_tokenizers_that_cannot_hold_styles_are_refused() -> None:
    names = [style_token(0, 0), style_token(0, 1)]
    assert add_tokens(SplittingTokenizer([7, 8], [7, 8]), names) == 7
    with pytest.raises(UsageError, match=r"splits the added token <\|style_0_0\|> .*fast tokenizer"):
        add_tokens(SplittingTokenizer([7, 8], [3, 4, 8]), names)
    with pytest.raises(UsageError, match="do not follow each other"):
        add_tokens(SplittingTokenizer([7, 9], [7, 9]), names)


def test_rows_of_a_scaled_embedding_are_scaled_and_others_are_refused() -> None:
    class Scaled(torch.nn.Embedding):
        embed_scale = torch.tensor(3.0)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * self.embed_scale

    class Shifted(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + 1

    network = torch.nn.Module()
    rows = torch.arange(6.0).view(2, 3)
    network.set_input_embeddings = lambda table: None
    network.get_input_embeddings = lambda: Scaled(5, 3)
    embedded = extend_embedding(network, lambda: rows, 5, 2)(torch.tensor([6, 1]))
    assert torch.equal(embedded[0], 3 * rows[1])
    network.get_input_embeddings = lambda: Shifted(5, 3)
    with pytest.raises(UsageError, match="Shifted"):
        extend_embedding(network, lambda: rows, 5, 2)


@pytest.mark.parametrize("style", [STYLES, -1, "1"])
def test_the_template_refuses_what_it_cannot_place(folders, style) -> None:
    from jinja2 import TemplateError

    _, writer, _, _ = open_with_styles(folders["qwen3_vl"])
    with pytest.raises(TemplateError, match=f"style {style} does not exist; this model has styles 0 to 2"):
        writer.text(ASK, style)
    with pytest.raises(TemplateError, match="a list of parts"):
        writer.processor.apply_chat_template(
            [{"role": "user", "content": ASK}], chat_template=writer.template, style=1
        )
