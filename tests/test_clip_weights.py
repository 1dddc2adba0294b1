"""Loading CLIP weights: what a source does not record, tensors that are no part of a CLIP, longer texts, larger towers."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from test_clip import IDS, SMALL, assert_same_weights, images, open_clip_model, small  # noqa: F401  (the fixtures)

from ham.clip import (
    CLIPConfig,
    build_clip,
    load_clip,
    resize_positions,
    resize_text_positions,
    save_clip,
)
from ham.clip.hugging_face import to_hugging_face
from ham.runtime import UsageError

# --------------------------------------------------------------------------- what a source does not record, and surprises


def irra_file(clip, file: Path, **more: torch.Tensor) -> Path:
    """A checkpoint of IRRA's code: it records neither heads nor sizes."""
    torch.save({"model": {f"base_model.{name}": one for name, one in clip.state_dict().items()} | more}, file)
    return file


def small_at(size: tuple[int, int], **more):
    return build_clip(CLIPConfig(**{**SMALL.__dict__, "image_size_px": size, **more}))


@pytest.mark.parametrize(("size", "warned"), [((64, 32), True), ((96, 32), True), ((384, 128), False)])
def test_a_persons_checkpoint_is_used_at_the_size_of_its_positions(
    size: tuple[int, int], warned: bool, tmp_path: Path, caplog
) -> None:
    clip = small_at(size)
    loaded = load_clip(irra_file(clip, tmp_path / "x.pth"), None, None)
    assert loaded.image_size_px == size and loaded.config.stride_px == 8
    assert torch.equal(loaded.visual.positional_embedding, clip.visual.positional_embedding)
    assert ("records no input size" in caplog.text) == warned


def test_a_persons_checkpoint_whose_size_cannot_be_known_is_refused(tmp_path: Path) -> None:
    overlapping = small_at((48, 16), stride_px=4)  # 11 x 3 patches
    file = irra_file(overlapping, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=r"33 patch positions .*--image-size-px.*--stride-px"):
        load_clip(file, None, None)
    loaded = load_clip(file, (48, 16), 4)
    assert torch.equal(loaded.visual.positional_embedding, overlapping.visual.positional_embedding)


def test_resizing_a_persons_checkpoint_is_warned_of(tmp_path: Path, caplog) -> None:
    file = irra_file(small_at((64, 32)), tmp_path / "x.pth")
    load_clip(file, (96, 32), 8)
    assert "was trained with 8x4 patches and is used with 12x4" in caplog.text


UNKNOWN = [
    "adapter.down.weight",
    "visual.adapter.weight",
    "visual.prompt_tokens",
    "visual.transformer.resblocks.0.ls_1.gamma",
    "transformer.resblocks.1.adapter.0.weight",
    "transformer.resblocks.0.attn.lora_A.weight",
    "visual.attn_pool.query",
    "visual.something_new",
    "prompt_learner.ctx",
    "token_embedding.extra",
]


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("prefix", ["", "base_model."])
def test_tensors_that_change_features_are_refused_or_ignored_by_name(
    name: str, prefix: str, small, tmp_path: Path
) -> None:
    tensors = {f"{prefix}{key}": value for key, value in small.state_dict().items()}
    places = [f"{prefix}{name}", name] if name.startswith(("adapter", "prompt")) else [f"{prefix}{name}"]
    for full in places:  # inside the towers' module, or beside it
        torch.save({"model": tensors | {full: torch.zeros(2)}}, tmp_path / "x.pth")
        with pytest.raises(UsageError, match=rf"{name}.*--ignore-tensors"):
            load_clip(tmp_path / "x.pth", (48, 16), 8)
        for ignored in (full, name, name[:-2]):
            loaded = load_clip(tmp_path / "x.pth", (48, 16), 8, ignore_tensors=[ignored])
            assert torch.equal(loaded.visual.proj, small.visual.proj)
        with pytest.raises(UsageError, match="no tensor begins with nothing"):
            load_clip(tmp_path / "x.pth", (48, 16), 8, ignore_tensors=["nothing"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {"ls_init_value": 1e-5}}, "ls_init_value"),
        ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool"),
        ({"vision_cfg": {"global_average_pool": True}}, "global_average_pool"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type"),
        ({"text_cfg": {"heads": "3"}}, "text_heads is recorded as '3'"),
        ({"text_cfg": {"heads": 0}}, "text_heads is recorded as 0"),
        ({"vision_cfg": []}, None),
        ({"vision_cfg": 3}, "'vision_cfg' is '3'"),
    ],
)
def test_an_open_clip_config_that_asks_for_more_than_a_plain_clip(
    change: dict, message: str | None, small, tmp_path: Path
) -> None:
    save_file(small.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True, **change}}))
    if message is None:
        load_clip(tmp_path, (48, 16), 8)
        return
    with pytest.raises(UsageError, match=message):
        load_clip(tmp_path, (48, 16), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": {"num_attention_heads": "4"}}, "vision_heads is recorded as '4'"),
        ({"vision_config": {"num_attention_heads": -1}}, "vision_heads is recorded as -1"),
        ({"vision_config": {"num_attention_heads": 5}}, "cannot be split over 5"),
        ({"vision_config": {"hidden_act": "os.system"}}, "hidden_act is 'os.system'"),
        ({"vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps"),
        ({"text_config": [1]}, "'text_config' is"),
        ([], "expected a JSON object"),
    ],
)
def test_a_damaged_hugging_face_config_is_named(change: object, message: str, small, tmp_path: Path) -> None:
    save_file(
        {name: value.contiguous() for name, value in to_hugging_face(small.state_dict()).items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps(change))
    with pytest.raises(UsageError, match=message):
        load_clip(tmp_path, (48, 16), 8)


def test_heads_that_nothing_records_are_an_option_and_a_guess_is_warned_of(
    small, tmp_path: Path, caplog
) -> None:
    """The kind: a checkpoint of the reference's code, trained from a CLIP whose heads are not 64 wide."""
    file = irra_file(small, tmp_path / "x.pth")
    guessed = load_clip(file, (48, 16), 8)
    assert "does not record its attention heads" in caplog.text and "--heads" in caplog.text
    images = torch.randn(2, 3, 48, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(guessed.encode_image(images), small.encode_image(images), atol=1e-4)
    caplog.clear()
    right = load_clip(file, (48, 16), 8, heads=(2, 3))
    assert torch.equal(right.encode_image(images), small.encode_image(images))
    assert (
        torch.equal(right.encode_text(IDS), small.encode_text(IDS)) and "does not record" not in caplog.text
    )
    with pytest.raises(UsageError, match=r"cannot be split over 5 attention heads.*--heads"):
        load_clip(file, (48, 16), 8, heads=(5, 3))
    save_clip(small, tmp_path / "ours")
    assert torch.equal(load_clip(tmp_path / "ours", None, None).encode_text(IDS), small.encode_text(IDS))
    with pytest.raises(UsageError, match="records 2 vision heads, --heads asks for 4"):
        load_clip(tmp_path / "ours", None, None, heads=(4, 3))


def test_published_widths_have_known_heads(tmp_path: Path, caplog) -> None:
    """ViT-H is 1280 wide with heads of 80: width // 64 would be wrong."""
    huge = build_clip(
        CLIPConfig(
            **{**SMALL.__dict__, "vision_width": 1280, "vision_heads": 16, "text_width": 64, "text_heads": 1}
        )
    )
    save_file({**huge.state_dict()}, tmp_path / "h.safetensors")
    loaded = load_clip(tmp_path / "h.safetensors", (48, 16), 8, heads=None)
    assert loaded.visual.transformer.heads == 16
    assert "vision tower" not in caplog.text and "text tower of width 64" in caplog.text


# ----------------------------------------------------------------------------------------------------------- longer texts


def test_text_positions_are_resized_by_hand() -> None:
    positions = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert resize_text_positions(positions, 8)[:, 0].tolist() == [
        0.0,
        0.25,
        0.75,
        1.25,
        1.75,
        2.25,
        2.75,
        3.0,
    ]
    assert resize_text_positions(positions, 3)[:, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("length", [78, 168, 248])
def test_longer_texts_equal_open_clips_resizing(length: int, small, tmp_path: Path) -> None:
    save_clip(small, tmp_path)
    longer = load_clip(tmp_path, None, None, text_length=length)
    theirs = open_clip_model(CLIPConfig(**{**SMALL.__dict__, "context_length": length}))
    state = small.state_dict()
    open_clip.model.resize_text_pos_embed(state, theirs)
    torch.testing.assert_close(longer.positional_embedding.data, state["positional_embedding"])
    assert longer.config.context_length == length
    ids = torch.cat(
        [IDS[1:2, :1].expand(1, 1), torch.ones(1, length - 2, dtype=torch.long), IDS[1:2, -1:]], dim=1
    )
    assert longer.encode_text(ids).isfinite().all()
    save_clip(longer, tmp_path / "again")
    assert_same_weights(load_clip(tmp_path / "again", None, None), longer)
    assert len(load_clip(tmp_path, None, None, text_length=20).positional_embedding) == 77


def test_long_clip_adds_up_its_two_tables(small, tmp_path: Path) -> None:
    """Long-CLIP's text tower adds one table for the first 20 tokens and the other for the rest."""
    tensors = small.state_dict()
    kept, stretched = torch.randn(248, 48), torch.randn(248, 48)
    tensors["positional_embedding"] = kept
    torch.save(tensors | {"positional_embedding_res": stretched}, tmp_path / "longclip.pt")
    loaded = load_clip(tmp_path / "longclip.pt", (48, 16), 8, heads=(2, 3))
    mask = (torch.arange(248) < 20).float()[:, None]
    torch.testing.assert_close(loaded.positional_embedding.data, kept * mask + stretched * (1 - mask))
    assert loaded.config.context_length == 248
    torch.save(tensors | {"positional_embedding_res": torch.randn(77, 48)}, tmp_path / "wrong.pt")
    with pytest.raises(UsageError, match="two equal tables of Long-CLIP"):
        load_clip(tmp_path / "wrong.pt", (48, 16), 8)


# ----------------------------------------------------------------------------------------- larger towers, less memory


@pytest.mark.parametrize(("size", "grid"), [((384, 128), (27, 9)), ((336, 112), (24, 8))])
def test_patches_of_14_pixels_at_a_persons_size(
    size: tuple[int, int], grid: tuple[int, int], tmp_path: Path
) -> None:
    """ViT-L/14's geometry: 16x16 square positions become 27x9 or 24x8."""
    config = CLIPConfig(**{**SMALL.__dict__, "patch_px": 14, "stride_px": 14, "image_size_px": (224, 224)})
    square = build_clip(config)
    save_file(square.state_dict(), tmp_path / "l.safetensors")
    tall = load_clip(tmp_path / "l.safetensors", size, 14)
    assert tall.config.grid == grid
    expected = resize_positions(square.visual.positional_embedding.data, (16, 16), grid)
    assert torch.equal(tall.visual.positional_embedding.data, expected)
    assert tall.encode_image(torch.zeros(1, 3, *size)).shape == (1, 24)
    assert load_clip(tmp_path / "l.safetensors", size, None).config.stride_px == 14


def test_gradient_checkpointing_changes_memory_not_gradients(images) -> None:
    gradients, kept = [], []
    for enabled in (False, True):
        clip = build_clip(SMALL, seed=1).train()
        clip.set_gradient_checkpointing(enabled)
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tokens, row = clip.encode_image_with_attention(images)
            loss = tokens.square().sum() + row.sum() + clip.encode_text_tokens(IDS).square().sum()
            kept.append(sum(saved))
        loss.backward()
        gradients.append({name: one.grad for name, one in clip.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)
    assert kept[1] < 0.6 * kept[0]
