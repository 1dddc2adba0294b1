"""CLIP: the recorded reference, open_clip and transformers as oracles, every weight layout, the tokenizer."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from ham.clip import (
    CLIPConfig,
    build_clip,
    default_tokenizer,
    eot_positions,
    load_clip,
    resize_positions,
    save_clip,
    tokenize,
)
from ham.clip.positions import grid_of_patches
from ham.runtime import UsageError

TOKENS = json.loads((Path(__file__).parent / "data/clip/tokens.json").read_text(encoding="utf-8"))
SMALL = CLIPConfig(
    image_size_px=(48, 16),
    patch_px=8,
    stride_px=8,
    embed_dim=24,
    vision_width=32,
    vision_layers=2,
    vision_heads=2,
    text_width=48,
    text_layers=2,
    text_heads=3,
    vocab_size=100,
)
IDS = torch.tensor([[98, 5, 7, 99, 0, 0], [98, 1, 2, 3, 4, 99], [98, 99, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def small():
    return build_clip(SMALL, seed=1).eval()


@pytest.fixture()
def images():
    return torch.randn(3, 3, 48, 16, generator=torch.Generator().manual_seed(0))


def assert_same_weights(clip, other) -> None:
    ours, theirs = clip.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ------------------------------------------------------------------------------------------------------------- reference


def test_equals_recorded_reference(parity: Path) -> None:
    recorded = {name: torch.from_numpy(value) for name, value in np.load(parity / "irra_tiny.npz").items()}
    clip = load_clip(parity / "irra_tiny.safetensors", (96, 32), 16).eval()
    images, ids = recorded["batch.images"], recorded["batch.caption_ids"]
    with torch.no_grad():
        for name, value in {
            "image_tokens": clip.encode_image_tokens(images),
            "image_global": clip.encode_image(images),
            "text_global": clip.encode_text(ids),
        }.items():
            torch.testing.assert_close(
                value, recorded[name], rtol=1e-4, atol=2e-5, msg=lambda why, name=name: f"{name}: {why}"
            )


def test_resized_positions_equal_recorded_reference(parity: Path) -> None:
    with np.load(parity / "clip_tiny.npz") as recorded:
        expected = torch.from_numpy(recorded["resized_positional_embedding"])
        weights = parity / "clip_tiny.safetensors"  # in whole recordings only
        old = (
            load_file(weights)["visual.positional_embedding"]
            if weights.exists()
            else recorded["positional_embedding"]
        )
    positions = torch.as_tensor(old)
    grid = grid_of_patches(len(positions) - 1, (1,))
    torch.testing.assert_close(resize_positions(positions, grid, (6, 2)), expected, rtol=0, atol=1e-6)


def test_attention_rows_equal_recorded_reference(parity: Path) -> None:
    recorded = {name: torch.from_numpy(value) for name, value in np.load(parity / "rde_tiny.npz").items()}
    clip = load_clip(parity / "rde_tiny.safetensors", (96, 48), 16).eval()
    _, image_row = clip.encode_image_with_attention(recorded["batch.images"])
    _, text_row = clip.encode_text_with_attention(recorded["batch.caption_ids"])
    torch.testing.assert_close(image_row, recorded["image_attention_cls_row"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(text_row, recorded["text_attention_eot_row"], rtol=1e-4, atol=1e-6)
    assert not image_row.requires_grad


def open_clip_model(config: CLIPConfig, quick_gelu: bool = True) -> open_clip.CLIP:
    return open_clip.CLIP(
        config.embed_dim,
        quick_gelu=quick_gelu,
        vision_cfg={
            "image_size": config.image_size_px,
            "patch_size": config.patch_px,
            "width": config.vision_width,
            "layers": config.vision_layers,
            "head_width": config.vision_width // config.vision_heads,
        },
        text_cfg={
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
    ).eval()


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_features_and_gradients_equal_open_clip(images, quick_gelu: bool) -> None:
    theirs = open_clip_model(SMALL, quick_gelu)
    ours = build_clip(CLIPConfig(**{**SMALL.__dict__, "quick_gelu": quick_gelu}))
    ours.load_state_dict(theirs.state_dict())
    ids = torch.cat([IDS, torch.zeros(3, 71, dtype=torch.long)], dim=1)
    for clip in (ours, theirs):
        (clip.encode_image(images).square().sum() + clip.encode_text(ids).square().sum()).backward()
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.encode_text(ids), theirs.encode_text(ids), rtol=1e-4, atol=1e-5)
    other = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        if name != "logit_scale":
            torch.testing.assert_close(value.grad, other[name].grad, rtol=1e-3, atol=1e-4)


def test_global_features_are_the_tokens_at_cls_and_eot(small, images) -> None:
    with torch.no_grad():
        torch.testing.assert_close(small.encode_image(images), small.encode_image_tokens(images)[:, 0])
        tokens = small.encode_text_tokens(IDS)
        torch.testing.assert_close(small.encode_text(IDS), tokens[torch.arange(3), torch.tensor([3, 5, 1])])
        with_row, row = small.encode_text_with_attention(IDS)
    torch.testing.assert_close(with_row, tokens)
    torch.testing.assert_close(row.sum(dim=1), torch.ones(3))
    assert row[0, 4:].eq(0).all()  # causal: nothing behind EOT


def test_padding_behind_eot_does_not_change_the_feature(small) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            small.encode_text(IDS[:1]), small.encode_text(IDS[:1, :4]), rtol=1e-5, atol=1e-6
        )


def test_eot_is_the_last_highest_id() -> None:
    assert eot_positions(torch.tensor([[9, 3, 10, 4, 10, 0], [9, 10, 0, 0, 0, 0]])).tolist() == [4, 1]


def test_overlapping_patches(parity: Path) -> None:
    clip = load_clip(parity / "irra_tiny.safetensors", (96, 32), 8)
    assert clip.config.grid == (11, 3)
    assert clip.encode_image_tokens(torch.zeros(1, 3, 96, 32)).shape == (1, 34, 64)


def test_compiles_without_graph_breaks(small, images) -> None:
    compiled = torch.compile(small.encode_image, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), small.encode_image(images))
    compiled = torch.compile(small.encode_text_with_attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS)[1], small.encode_text_with_attention(IDS)[1])


def test_bfloat16_autocast_stays_close(small, images) -> None:
    with torch.no_grad():
        exact = small.encode_image(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough, text = small.encode_image(images), small.encode_text(IDS)
    assert torch.cosine_similarity(rough.float(), exact).min() > 0.999
    assert torch.cosine_similarity(text.float(), small.encode_text(IDS)).min() > 0.999


# ------------------------------------------------------------------------------------------------------------- positions


def test_positions_resize_by_hand() -> None:
    """A 2x2 grid to 4x1: rows at -0.25 (clamped), 0.25, 0.75, 1.25 (clamped), the one column between both."""
    positions = torch.tensor([[9.0], [0.0], [1.0], [10.0], [11.0]])
    assert resize_positions(positions, (2, 2), (4, 1))[:, 0].tolist() == [9.0, 0.5, 3.0, 8.0, 10.5]
    assert resize_positions(positions, (2, 2), (2, 2)) is positions


def test_square_positions_are_resized_also_when_the_count_is_equal(tmp_path: Path) -> None:
    square = build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": (32, 32)}))
    save_file(square.state_dict(), tmp_path / "square.safetensors")
    tall = load_clip(tmp_path / "square.safetensors", (64, 16), 8)
    expected = resize_positions(square.visual.positional_embedding.data, (4, 4), (8, 2))
    torch.testing.assert_close(tall.visual.positional_embedding.data, expected)
    assert not torch.equal(expected, square.visual.positional_embedding.data)


def test_an_input_size_that_is_not_said_is_read_from_a_persons_checkpoint(tmp_path: Path) -> None:
    """48 patches are no square: 12x4 of 8 px. A plain CLIP is taken to the project's 384x128."""
    tall = build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": (96, 32)}))
    torch.save(
        {"model": {f"base_model.{name}": value for name, value in tall.state_dict().items()}},
        tmp_path / "irra.pth",
    )
    loaded = load_clip(tmp_path / "irra.pth", None, None)
    assert (loaded.config.image_size_px, loaded.config.stride_px) == ((96, 32), 8)
    square = build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": (32, 32)}))
    save_file(square.state_dict(), tmp_path / "square.safetensors")
    assert load_clip(tmp_path / "square.safetensors", None, None).config.grid == (48, 16)


def test_positions_that_fit_nothing_are_named(tmp_path: Path) -> None:
    odd = build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": (40, 8)}))
    save_file(odd.state_dict(), tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match="5 patch positions fit neither a square nor the 6x2 patches"):
        load_clip(tmp_path / "odd.safetensors", (48, 16), 8)


# --------------------------------------------------------------------------------------------------------------- layouts


class Holder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def torchscript_of(tensors: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    """An archive whose modules hold the tensors under their names, as OpenAI's does."""
    root = Holder()
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Holder())
            module = getattr(module, part)
        if value.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(value))
        else:
            module.register_buffer(leaf, value)
    return torch.jit.script(root)


def write_layout(name: str, tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    based = {f"base_model.{key}": value for key, value in tensors.items() if key != "logit_scale"}
    heads = {"classifier.weight": torch.zeros(4, 24), "classifier.bias": torch.zeros(4)}
    file = folder / "weights"
    if name == "archive":
        sizes = {key: torch.tensor(7) for key in ("input_resolution", "context_length", "vocab_size")}
        torch.jit.save(
            torchscript_of({key: value.half() for key, value in tensors.items()} | sizes), str(file)
        )
    elif name == "safetensors":
        save_file(tensors, file)
    elif name == "pt":
        torch.save(tensors, file)
    elif name == "state_dict":
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}, file
        )
    elif name == "irra":
        torch.save({"model": based | heads, "epoch": 3}, file)
    elif name == "irra_module":
        torch.save({"model": {f"module.{key}": value for key, value in (based | heads).items()}}, file)
    elif name == "open_clip":
        file = folder / "oc"
        file.mkdir()
        torch.save(tensors, file / "open_clip_pytorch_model.bin")
        (file / "open_clip_config.json").write_text(
            json.dumps(
                {
                    "model_cfg": {
                        "quick_gelu": True,
                        "vision_cfg": {"width": 32, "head_width": 16},
                        "text_cfg": {"heads": 3},
                    }
                }
            )
        )
    elif name == "custom_text":
        text = ("transformer", "token", "positional", "ln_final", "text_projection")
        file = folder / "weights.safetensors"
        save_file(
            {f"text.{key}" if key.startswith(text) else key: value for key, value in tensors.items()}, file
        )
    return file


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "name", ["archive", "safetensors", "pt", "state_dict", "irra", "irra_module", "open_clip", "custom_text"]
)
def test_every_layout_gives_the_same_weights(name: str, small, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "ham")
    loaded = load_clip(write_layout(name, small.state_dict(), tmp_path), (48, 16), 8)
    expected = {
        key: value.half().float() if name == "archive" else value for key, value in small.state_dict().items()
    }
    for key, value in loaded.state_dict().items():
        if key != "logit_scale" or not name.startswith("irra"):
            assert torch.equal(value, expected[key]), key
    line = next(line for line in caplog.messages if "tensors loaded" in line)
    assert "61 tensors loaded" in line if name.startswith("irra") else "62 tensors loaded" in line
    assert ("missing: logit_scale" in line and "classifier.weight" in line) == name.startswith("irra")
    heads = (loaded.visual.transformer.heads, loaded.transformer.heads)
    assert heads == ((2, 3) if name == "open_clip" else (1, 1))


def test_hugging_face_folder_equals_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 100,
        "max_position_embeddings": 12,
        "eos_token_id": 99,
        "bos_token_id": 98,
        "pad_token_id": 0,
    }
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    ).eval()
    with torch.no_grad():  # the library's own start is too flat to tell a mistake from none
        for value in theirs.parameters():
            value.normal_(std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_clip(tmp_path, (32, 32), 8).eval()
    assert (ours.visual.transformer.heads, ours.transformer.heads, ours.config.quick_gelu) == (4, 3, True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image_feats = theirs.visual_projection(theirs.vision_model(pixel_values=images).pooler_output)
        text_feats = theirs.text_projection(theirs.text_model(input_ids=IDS).pooler_output)
        torch.testing.assert_close(ours.encode_image(images), image_feats, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.encode_text(IDS), text_feats, rtol=1e-4, atol=1e-4)


def test_our_checkpoint_keeps_heads_and_image_size(small, tmp_path: Path) -> None:
    save_clip(small, tmp_path)
    loaded = load_clip(tmp_path, image_size_px=None, stride_px=None)
    assert_same_weights(loaded, small)
    assert (loaded.config.image_size_px, loaded.config.stride_px) == ((48, 16), 8)
    assert (loaded.visual.transformer.heads, loaded.transformer.heads) == (2, 3)
    assert load_clip(tmp_path, (96, 32), 8).config.grid == (12, 4)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_precision_weights_become_float32(small, tmp_path: Path) -> None:
    save_file(
        {name: value.bfloat16() for name, value in small.state_dict().items()}, tmp_path / "half.safetensors"
    )
    loaded = load_clip(tmp_path / "half.safetensors", (48, 16), 8)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("visual.transformer.resblocks.1.mlp.c_fc.weight", "visual.transformer.resblocks.1.mlp.c_fc.weight"),
        ("ln_final.bias", "ln_final.bias"),
        ("transformer.", "transformer.resblocks"),
        ("visual.conv1.weight", "visual.conv1.weight"),
    ],
)
def test_a_tower_that_is_not_whole_is_an_error(small, tmp_path: Path, gone: str, named: str) -> None:
    kept = {name: value for name, value in small.state_dict().items() if not name.startswith(gone)}
    save_file(kept, tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match=named):
        load_clip(tmp_path / "part.safetensors", (48, 16), 8)


def test_unusable_sources_are_named(small, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no weights here"):
        load_clip(tmp_path)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a whole archive")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_clip(tmp_path / "cut.pt")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in (20, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(UsageError, match="cannot be read as weights"):
            load_clip(tmp_path / "cut.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_clip(tmp_path / "empty.pt")
    whole = save_clip(small, tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cannot be read as weights"):
        load_clip(tmp_path / "cut.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="holds no CLIP"):
        load_clip(tmp_path / "other.pt")
    wrong = small.state_dict() | {"ln_final.bias": torch.zeros(7)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(UsageError, match=r"ln_final.bias \(7,\) in place of \(48,\)"):
        load_clip(tmp_path / "wrong.safetensors", (48, 16), 8)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="cannot be read"):
        load_clip(tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()


def test_wrong_inputs_are_named(small) -> None:
    with pytest.raises(UsageError, match=r"expected \[B, 3, height, width\]"):
        small.encode_image(torch.zeros(2, 3, 16, 48))
    with pytest.raises(UsageError, match="tokenize with text_length=77"):
        small.encode_text(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(UsageError, match="cannot be split"):
        build_clip(CLIPConfig(**{**SMALL.__dict__, "vision_heads": 5}))
    with pytest.raises(UsageError, match="at least one patch"):
        build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": (48, 4)}))


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    assert_same_weights(build_clip(SMALL, seed=4), build_clip(SMALL, seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    other = build_clip(SMALL, seed=5)
    assert not torch.equal(build_clip(SMALL, seed=4).text_projection, other.text_projection)
    assert all(value.requires_grad and value.isfinite().all() for value in other.parameters())
    assert other.visual.transformer.resblocks[0].attn.in_proj_weight.std().item() == pytest.approx(
        32**-0.5, rel=0.1
    )
    assert other.logit_scale.exp().item() == pytest.approx(1 / 0.07)


# --------------------------------------------------------------------------------------------------- compact vocabularies


def test_compact_embedding_takes_standard_ids(tmp_path: Path) -> None:
    ids = tokenize(["a man in red", "a zebra in red"], text_length=16)
    kept = sorted(set(ids[0].tolist()))
    compact = build_clip(
        CLIPConfig(**{**SMALL.__dict__, "vocab_size": 49408, "token_ids": tuple(kept)})
    ).eval()
    kept = sorted({*kept, 49405})  # the mask always has a row
    assert compact.token_embedding.weight.shape == (len(kept) + 1, 48)
    rows = compact.rows_of(ids)
    assert rows[0].tolist() == [kept.index(i) for i in ids[0].tolist()]
    assert rows[1, 2] == len(kept) and rows[1, 1] == kept.index(320)  # zebra falls back, "a" does not
    whole = build_clip(CLIPConfig(**{**SMALL.__dict__, "vocab_size": 49408}))
    tensors = compact.state_dict()
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][
        compact.rows_of(torch.arange(49408))
    ]
    del tensors["token_embedding.token_ids"]
    whole.load_state_dict(tensors)
    torch.testing.assert_close(compact.encode_text(ids), whole.encode_text(ids))
    assert_same_weights(load_clip(save_clip(compact, tmp_path), None, None), compact)


def test_compact_embedding_refuses_ids_outside() -> None:
    with pytest.raises(UsageError, match="kept out of a vocabulary"):
        build_clip(CLIPConfig(**{**SMALL.__dict__, "token_ids": (3, 100)}))


# ------------------------------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize(
    "row", [row for row in TOKENS["captions"] if row["bpe_ids"] is not None], ids=lambda row: row["text"][:24]
)
def test_tokens_equal_recorded_reference(row: dict) -> None:
    assert default_tokenizer().encode(row["text"]) == row["bpe_ids"]
    assert tokenize(row["text"]).tolist() == [row["ids77"]]
    assert tokenize([row["text"]], text_length=20).tolist() == [row["ids20"]]
    assert default_tokenizer().decode(row["bpe_ids"]) == row["decoded"]


def test_jekyll_is_two_pieces_and_changes_no_other_word() -> None:
    tokenizer = default_tokenizer()
    pieces = [tokenizer.decoder[i] for i in tokenizer.encode("Jekyll hyde")]
    assert "".join(pieces) == "jekyll</w>hyde</w>" and len(pieces) > 2


def test_captions_of_any_kind_give_one_row_each() -> None:
    captions = ["", " ", "!", "word " * 500, "中文" * 300, "\x00\x07", "😀", "a" * 3000, "<|endoftext|>"]
    ids = tokenize(captions)
    assert ids.shape == (9, 77) and ids.dtype == torch.long
    assert ids[:, 0].eq(49406).all()
    assert ids.gather(1, eot_positions(ids)[:, None]).eq(49407).all()
    assert torch.equal(ids, torch.cat([tokenize(caption) for caption in captions]))
    assert tokenize([]).shape == (0, 77)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_any_text_gives_a_row(text: str) -> None:
    (row,) = tokenize(text, text_length=16).tolist()
    assert len(row) == 16 and row[0] == 49406 and 49407 in row[1:]
    last = max(i for i, token in enumerate(row) if token == 49407)
    assert not any(row[last + 1 :])


def test_text_length_has_room_for_start_and_end() -> None:
    assert tokenize("a man", text_length=2).tolist() == [[49406, 49407]]
    with pytest.raises(UsageError, match="text_length is 1"):
        tokenize("a man", text_length=1)


def test_saved_weights_are_whole_or_absent(small, tmp_path: Path, monkeypatch) -> None:
    file = save_clip(small, tmp_path / "clip.safetensors")
    before = load_file(file)

    def full_disk(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ham.tensor_files.writing.raw_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_clip(build_clip(SMALL, seed=2), tmp_path / "clip.safetensors")
    assert load_file(file).keys() == before.keys()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.safetensors"]
