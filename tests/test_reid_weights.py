"""Weights of the methods: round trips, what a finetune start takes, and what is said when a checkpoint is the wrong one."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_reid import tiny_clip

from ham.clip import CLIPConfig, build_clip, load_clip, save_clip, tokenize
from ham.clip.layouts import read_weights
from ham.reid.irra import IRRAOptions
from ham.reid.methods import build_method
from ham.reid.rde import RDEOptions
from ham.reid.weights import export_pth, import_pth, load_method, main, save_method, start_method
from ham.runtime import UsageError, exit_code_of
from ham.tensor_files import index, write_file

SMALL = tiny_clip(vision_heads=4, text_heads=2, context_length=12)
IRRA_SMALL = IRRAOptions(cross_layers=2)
IMAGES = torch.randn(3, 3, 24, 16, generator=torch.Generator().manual_seed(0))
IDS = tokenize(["a man in a red coat", "a zebra", "coat"], text_length=12)


def small_method(name: str):
    torch.manual_seed(0)
    return build_method(name, build_clip(SMALL, seed=3), 5, irra=IRRA_SMALL).eval()


def features(method) -> list[torch.Tensor]:
    with torch.no_grad():
        return [*method.image_features(IMAGES), *method.text_features(IDS)]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert torch.equal(one, other)


# ----------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", ["sdm", "irra", "rde"])
def test_our_checkpoint_keeps_everything(name: str, tmp_path: Path) -> None:
    method = small_method(name)
    file = save_method(method, tmp_path)
    assert file == tmp_path / "model.safetensors"
    assert {"visual.conv1.weight", "token_embedding.token_ids"} < load_file(file).keys()
    assert_same(features(load_method(tmp_path)), features(method))
    back = start_method(name, tmp_path, 5, None, None, irra=IRRA_SMALL)
    ours, theirs = method.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["sdm", "irra", "rde"])
def test_export_and_import_give_the_same_features(name: str, tmp_path: Path) -> None:
    method = small_method(name)
    save_method(method, tmp_path / "ours")
    export_pth(tmp_path / "ours", tmp_path / "theirs.pth")
    written = torch.load(tmp_path / "theirs.pth", weights_only=True)["model"]
    assert written["base_model.token_embedding.weight"].shape == (49408, 24)
    assert "base_model.logit_scale" not in written and "base_model.token_embedding.token_ids" not in written
    assert_same(features(load_method(tmp_path / "theirs.pth")), features(method))
    import_pth(tmp_path / "theirs.pth", tmp_path / "back")
    assert_same(features(load_method(tmp_path / "back")), features(method))


def test_export_of_a_whole_vocabulary_returns_tensor_for_tensor(tmp_path: Path) -> None:
    whole = build_clip(CLIPConfig(**{**SMALL.__dict__, "vocab_size": 600, "token_ids": None}))
    save_method(build_method("irra", whole, 5, irra=IRRA_SMALL), tmp_path / "ours")
    export_pth(tmp_path / "ours", tmp_path / "theirs.pth")
    import_pth(tmp_path / "theirs.pth", tmp_path / "back")
    ours, back = (
        load_file(tmp_path / "ours/model.safetensors"),
        load_file(tmp_path / "back/model.safetensors"),
    )
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)


def test_command_line_exports_and_imports(tmp_path: Path, monkeypatch, capsys) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["ham.reid.weights", *map(str, words)])
        return exit_code_of(main)

    monkeypatch.setattr(
        "ham.reid.weights.set_up_logging", lambda: None
    )  # it would take the log away from later tests
    save_method(small_method("irra"), tmp_path / "ours")
    assert run("export", tmp_path / "ours", tmp_path / "a.pth") == 0
    assert run("import", tmp_path / "a.pth", tmp_path / "b", "--image-size-px", 48, 32, "--stride-px", 8) == 0
    assert load_method(tmp_path / "b").base_model.config.grid == (6, 4)
    assert run("export", tmp_path / "nowhere", tmp_path / "c.pth") == 2
    assert "no such file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ reference's checkpoints


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference_irra_checkpoint_loads_whole(parity: Path, tmp_path: Path, prefix: str, caplog) -> None:
    tensors = load_file(parity / "irra_tiny.safetensors")
    torch.save(
        {"model": {f"{prefix}{name}": value for name, value in tensors.items()}, "epoch": 60},
        tmp_path / "best.pth",
    )
    caplog.set_level(logging.INFO, "ham")
    method = start_method("irra", tmp_path / "best.pth", 7, (96, 32), 16, irra=IRRA_SMALL)
    state = method.state_dict()
    assert state.keys() - tensors.keys() == {"base_model.logit_scale"} and tensors.keys() <= state.keys()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())
    assert "new: none; not used: none" in caplog.text


def test_reference_rde_checkpoint_loads_whole(parity: Path, tmp_path: Path, caplog) -> None:
    tensors = load_file(parity / "rde_tiny.safetensors")
    torch.save({"model": tensors}, tmp_path / "best.pth")
    caplog.set_level(logging.INFO, "ham")
    for method in (
        start_method("rde", tmp_path / "best.pth", image_size_px=(96, 48)),
        load_method(tmp_path / "best.pth", image_size_px=(96, 48), stride_px=16),
    ):
        state = method.state_dict()
        assert all(torch.equal(state[name], value) for name, value in tensors.items())
    assert "new: none; not used: none" in caplog.text


# ------------------------------------------------------------------------------------------------------------ fine points


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        (
            "irra",
            "new: classifier, cross_attn, cross_modal_transformer, ln_pre_t, ln_pre_i, ln_post and 1 more",
        ),
        ("rde", "new: visul_emb_layer, texual_emb_layer"),
    ],
)
def test_finetune_start_takes_the_towers_and_says_that_the_heads_are_new(
    name: str, heads: str, tmp_path: Path, caplog
) -> None:
    pretrained = small_method("sdm")
    save_method(pretrained, tmp_path)
    caplog.set_level(logging.INFO, "ham")
    method = start_method(name, tmp_path, 5, (24, 16), 8, irra=IRRA_SMALL)
    theirs = pretrained.base_model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in method.base_model.state_dict().items())
    assert f"heads loaded: none; {heads}; not used: none" in caplog.text


def test_a_classifier_of_another_number_of_persons_is_new_and_the_other_heads_are_kept(
    tmp_path: Path, caplog
) -> None:
    save_method(small_method("irra"), tmp_path)
    caplog.set_level(logging.INFO, "ham")
    method = start_method("irra", tmp_path, 9, (24, 16), 8, irra=IRRA_SMALL)
    assert method.classifier.weight.shape == (9, 24)
    assert torch.equal(method.mlm_head.fc.weight, small_method("irra").mlm_head.fc.weight)
    assert "new: classifier; not used: classifier" in caplog.text


def test_a_text_tower_never_fills_the_cross_modal_transformer(tmp_path: Path) -> None:
    """The reference matches by suffix: `transformer.resblocks.0...` of a plain CLIP lands in the heads."""
    save_clip(build_clip(CLIPConfig(**{**SMALL.__dict__, "text_heads": 1}), seed=3), tmp_path)
    method = start_method("irra", tmp_path, 5, (24, 16), 8, irra=IRRA_SMALL)
    text = method.base_model.transformer.resblocks[0].mlp.c_fc.weight
    assert not torch.equal(method.cross_modal_transformer.resblocks[0].mlp.c_fc.weight, text)


@pytest.mark.parametrize("name", ["sdm", "irra"])
def test_wrong_checkpoint_names_the_missing_heads(name: str, tmp_path: Path) -> None:
    save_method(small_method(name), tmp_path)
    with pytest.raises(
        UsageError, match="no RDE checkpoint: the heads visul_emb_layer, texual_emb_layer are missing"
    ):
        load_method(tmp_path, "rde")


def test_rde_checkpoint_serves_as_plain_clip_when_asked(tmp_path: Path) -> None:
    method = small_method("rde")
    save_method(method, tmp_path)
    assert_same(
        features(load_method(tmp_path, "irra")), [method.encode_image(IMAGES), method.encode_text(IDS)]
    )
    assert torch.equal(load_clip(tmp_path, None, None).encode_image(IMAGES), method.encode_image(IMAGES))


def test_rde_of_another_width_is_read_from_the_weights(tmp_path: Path) -> None:
    method = build_method("rde", build_clip(SMALL), rde=RDEOptions(tse_dim=32)).eval()
    save_method(method, tmp_path)
    assert load_method(tmp_path).image_features(IMAGES)[1].shape == (3, 32)


# ------------------------------------------------------------------------------------------- methods, sizes, heads, extras


@pytest.mark.parametrize("word", ["RDE", "IRRA", "foo", "rde+irra", "Rde", "sdm+foo", " "])
@pytest.mark.parametrize("trained", ["rde", "irra", "sdm"])
def test_an_unknown_method_is_refused_for_every_checkpoint(word: str, trained: str, tmp_path: Path) -> None:
    save_method(small_method(trained), tmp_path)
    with pytest.raises(UsageError, match="is not known: use rde, irra"):
        load_method(tmp_path, word)


@pytest.mark.parametrize("trained", ["rde", "irra", "sdm"])
def test_a_checkpoint_records_or_reveals_its_method(trained: str, tmp_path: Path, caplog) -> None:
    method = small_method(trained)
    save_method(method, tmp_path / "ours")
    export_pth(tmp_path / "ours", tmp_path / "theirs.pth")
    for source in (tmp_path / "ours", tmp_path / "theirs.pth"):
        assert_same(features(load_method(source)), features(method))
        assert "differ from those" not in caplog.text
    if trained == "rde":
        load_method(tmp_path / "theirs.pth", "irra")
        assert "is a checkpoint of rde and is used as irra" in caplog.text


def test_a_recorded_method_whose_heads_are_gone_is_refused(tmp_path: Path) -> None:
    """Not in silence as its global branch."""
    save_method(small_method("rde"), tmp_path)
    found = index(tmp_path)
    kept = {name: value for name, value in found.stream() if not name.startswith("texual_emb_layer")}
    write_file(tmp_path / "model.safetensors", kept, found.metadata)
    with pytest.raises(UsageError, match="is no RDE checkpoint: the heads texual_emb_layer are missing"):
        load_method(tmp_path)
    load_method(tmp_path, "irra")
    facts = json.loads(found.metadata["ham.clip"]) | {"method": "unknown-plugin"}
    write_file(tmp_path / "model.safetensors", kept, {"ham.clip": json.dumps(facts)})
    with pytest.raises(UsageError, match="records its method: method 'unknown-plugin' is not known"):
        load_method(tmp_path)


def foreign_file(method, file: Path, **more: torch.Tensor) -> Path:
    """A checkpoint of the reference's code: no record of heads or sizes."""
    torch.save({"model": dict(method.state_dict()) | more}, file)
    return file


@pytest.mark.parametrize("size", [(256, 128), (384, 128), (192, 64), (224, 224)])
def test_one_size_for_a_foreign_checkpoint_whichever_command(size: tuple[int, int], tmp_path: Path) -> None:
    """Evaluation, import and the size given by hand read the same tensors."""
    clip = build_clip(replace(SMALL, image_size_px=size, patch_px=16, stride_px=16))
    file = foreign_file(build_method("sdm", clip), tmp_path / "x.pth")
    import_pth(file, tmp_path / "imported", heads=(4, 2))
    ways = [
        load_method(file, heads=(4, 2)),
        load_method(read_weights(file), heads=(4, 2)),
        load_method(tmp_path / "imported"),
        load_method(file, image_size_px=size, stride_px=16, heads=(4, 2)),
        start_method("sdm", file, 0, None, None, heads=(4, 2)),
    ]
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = clip.eval().encode_image(images)
    for method in ways:
        assert method.base_model.image_size_px == size
        assert torch.equal(method.eval().encode_image(images), expected)


def test_heads_travel_with_everything_that_we_write(tmp_path: Path) -> None:
    """SMALL has 4 and 2 heads where width // 64 would be 1."""
    method = small_method("irra")
    save_method(method, tmp_path / "a")
    export_pth(tmp_path / "a", tmp_path / "b.pth")
    import_pth(tmp_path / "b.pth", tmp_path / "c")
    export_pth(tmp_path / "c", tmp_path / "d.pth")
    save_clip(load_clip(tmp_path / "d.pth", None, None), tmp_path / "e")
    for source in ("a", "b.pth", "c", "d.pth", "e"):
        clip = load_clip(tmp_path / source, None, None)
        assert (clip.visual.transformer.heads, clip.transformer.heads) == (4, 2)
        assert_same([clip.encode_image(IMAGES)], [method.encode_image(IMAGES)])


def test_the_worlds_weights_record_their_heads() -> None:
    facts = read_weights(Path(__file__).parents[1] / "ham/world/weights/clip").facts
    assert {"vision_heads", "text_heads", "image_size_px", "stride_px"} <= facts.keys()


def test_unknown_tensors_stop_training_and_import_too(tmp_path: Path) -> None:
    file = foreign_file(
        small_method("sdm"), tmp_path / "x.pth", **{"base_model.visual.adapter.w": torch.zeros(2)}
    )
    for run in (
        lambda **more: start_method("sdm", file, 0, (24, 16), 8, heads=(4, 2), **more),
        lambda **more: import_pth(file, tmp_path / "out", (24, 16), 8, heads=(4, 2), **more),
    ):
        with pytest.raises(UsageError, match=r"visual\.adapter\.w.*--ignore-tensors"):
            run()
        run(ignore_tensors=["visual.adapter"])


def test_longer_texts_start_from_resized_positions(tmp_path: Path) -> None:
    save_method(small_method("sdm"), tmp_path)
    assert start_method("sdm", tmp_path, 0, None, None, 20).base_model.config.context_length == 20
