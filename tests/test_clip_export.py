"""Exports of the towers: loaded by the libraries that they are for, with equal features."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from test_clip import SMALL, assert_same_weights

from ham.clip import CLIP, build_clip, load_clip, save_clip, tokenize
from ham.clip.export import export_towers
from ham.reid.images import read_image
from ham.reid.methods import build_method
from ham.reid.rde import RDEOptions
from ham.reid.weights import main, save_method
from ham.runtime import UsageError, exit_code_of

CAPTIONS = ["A man in a red coat", "two women, one with a blue umbrella & a dog", "x"]
TALL = replace(SMALL, vocab_size=49408, context_length=20)
SQUARE = replace(TALL, image_size_px=(32, 32))


@pytest.fixture(scope="module")
def tall() -> CLIP:
    return build_clip(TALL, seed=1).eval()


@pytest.fixture(scope="module")
def square() -> CLIP:
    return build_clip(SQUARE, seed=2).eval()


def pixels(clip: CLIP, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *clip.image_size_px, generator=torch.Generator().manual_seed(0))


def photo(folder: Path) -> Path:
    numbers = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(numbers).save(folder / "photo.png")
    return folder / "photo.png"


def our_pixels(file: Path, clip: CLIP) -> torch.Tensor:
    from ham.reid.batch import normalize

    return normalize(torch.from_numpy(read_image(file, clip.image_size_px)).permute(2, 0, 1)[None])


@torch.no_grad()
def test_hugging_face_gives_equal_features_and_ids(square: CLIP, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_towers(square, "hf", tmp_path / "hf")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    images = pixels(square)
    torch.testing.assert_close(
        theirs.visual_projection(theirs.vision_model(pixel_values=images).pooler_output),
        square.encode_image(images),
        rtol=1e-4,
        atol=1e-4,
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "hf")
    batch = tokenizer(CAPTIONS, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    ours = tokenize(CAPTIONS, 20)
    for row, own, mask in zip(batch.input_ids, ours, batch.attention_mask):
        assert row[mask.bool()].tolist() == own[own > 0].tolist()
    features = theirs.text_projection(theirs.text_model(**batch).pooler_output)
    torch.testing.assert_close(features, square.encode_text(ours), rtol=1e-4, atol=1e-4)
    kind = getattr(
        transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor
    )  # transformers 4 has one
    processor = kind.from_pretrained(tmp_path / "hf")
    seen = processor(Image.open(photo(tmp_path)), return_tensors="pt").pixel_values
    torch.testing.assert_close(seen, our_pixels(tmp_path / "photo.png", square), rtol=0, atol=1e-5)
    assert_same_weights(load_clip(tmp_path / "hf", (32, 32), 8), square)


@torch.no_grad()
def test_open_clip_gives_equal_features_and_ids_at_any_shape(tall: CLIP, tmp_path: Path) -> None:
    export_towers(tall, "open_clip", tmp_path / "oc")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'oc'}")
    images = pixels(tall)
    torch.testing.assert_close(
        theirs.eval().encode_image(images), tall.encode_image(images), rtol=1e-4, atol=1e-4
    )
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'oc'}")(CAPTIONS)
    assert torch.equal(ids, tokenize(CAPTIONS, 20))
    torch.testing.assert_close(theirs.encode_text(ids), tall.encode_text(ids), rtol=1e-4, atol=1e-4)
    assert preprocess(Image.open(photo(tmp_path))).shape == (3, 48, 16)
    back = load_clip(tmp_path / "oc", (48, 16), 8)
    assert_same_weights(back, tall)
    assert (back.visual.transformer.heads, back.transformer.heads) == (2, 3)


@torch.no_grad()
@pytest.mark.parametrize("stride_px", [8, 4])
def test_onnx_gives_equal_features_for_any_batch(stride_px: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    clip = build_clip(replace(TALL, stride_px=stride_px), seed=3).eval()
    export_towers(clip, "onnx", tmp_path / "onnx")
    for count in (1, 3):
        images, ids = pixels(clip, count), tokenize(CAPTIONS[:count], 20)
        for name, given, expected in (
            ("image", images, clip.encode_image(images)),
            ("text", ids, clip.encode_text(ids)),
        ):
            session = runtime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx")
            (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    facts = json.loads((tmp_path / "onnx/clip.json").read_text())
    assert facts["image_size_px"] == [48, 16] and facts["text_length"] == 20


@torch.no_grad()
def test_a_compact_vocabulary_is_exported_in_full(tmp_path: Path) -> None:
    kept = tuple(tokenize(CAPTIONS[0])[0].tolist())
    clip = build_clip(replace(SQUARE, token_ids=kept), seed=4).eval()
    export_towers(clip, "open_clip", tmp_path / "oc")
    whole = load_clip(tmp_path / "oc", (32, 32), 8)
    assert whole.vocab_rows == 49408
    ids = tokenize(CAPTIONS, 20)
    torch.testing.assert_close(whole.encode_text(ids), clip.encode_text(ids))


def test_what_a_library_cannot_load_is_refused_and_leaves_nothing(tall: CLIP, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"square images only.*--layout open_clip"):
        export_towers(tall, "hf", tmp_path / "out")
    overlapping = build_clip(replace(SQUARE, stride_px=4))
    for layout in ("hf", "open_clip"):
        with pytest.raises(UsageError, match=r"no overlapping patches.*--layout onnx"):
            export_towers(overlapping, layout, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        export_towers(tall, "open_clip", tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "x"


def test_the_command_exports_every_layout(tmp_path: Path, monkeypatch, capsys, caplog) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["ham.reid.weights", *map(str, words)])
        return exit_code_of(main)

    monkeypatch.setattr("ham.reid.weights.set_up_logging", lambda: None)
    save_clip(build_clip(TALL), tmp_path / "clip")
    assert run("export", tmp_path / "clip", tmp_path / "a.pth") == 0
    assert run("export", "--layout", "open_clip", tmp_path / "clip", tmp_path / "oc") == 0
    assert run("export", "--layout", "hf", tmp_path / "clip", tmp_path / "hf") == 2
    assert "square images only" in capsys.readouterr().err
    assert run("export", "--layout", "hf", tmp_path / "clip", tmp_path / "hf", "--image-size-px", 32, 32) == 0
    assert load_clip(tmp_path / "hf", (32, 32), 8).config.grid == (4, 4)
    save_method(build_method("rde", build_clip(TALL), rde=RDEOptions(tse_dim=8)), tmp_path / "rde")
    assert run("export", "--layout", "open_clip", tmp_path / "rde", tmp_path / "oc2") == 0
    assert "RDE's global features" in caplog.text and "visul_emb_layer" in caplog.text
