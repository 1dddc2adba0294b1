"""The Python API: what the snippets of the README do not show."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ham
from ham.images import ImageError
from ham.runtime import UsageError

WEIGHTS = Path(ham.__file__).parent / "world" / "weights"


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def captioner():
    return ham.load_captioner(WEIGHTS / "styles", device="cpu")


@pytest.fixture(scope="module")
def retrieval() -> ham.Retrieval:
    return ham.load_retrieval(WEIGHTS / "clip", device="cpu")


def test_help_explains_everything() -> None:
    text = pydoc.render_doc(ham, renderer=pydoc.plaintext)
    for name in ("load_captioner", "caption_images", "load_retrieval", "encode_images", "encode_texts"):
        assert name in text
    for name in ham.__all__:
        assert len(getattr(ham, name).__doc__) > 80, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ham.nothing  # noqa: B018


def test_importing_ham_loads_no_torch() -> None:
    code = "import ham, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_styles_for_all_or_for_each_image(captioner, image: Image.Image) -> None:
    same = ham.caption_images(captioner, [image, image], styles=[0, 5], max_new_tokens=20)
    each = ham.caption_images(captioner, [image, image], styles=[[5], [0, 5]], max_new_tokens=20)
    assert same[0] == same[1] and each == [[same[0][1]], same[0]]
    assert len(ham.caption_images(captioner, [image], max_new_tokens=5)[0]) == 1


@pytest.mark.parametrize(
    ("styles", "message"),
    [([8], "style 8 does not exist"), ([[0], [1]], "1 images but 2"), ([-2], "style -2")],
)
def test_impossible_styles_are_named(captioner, image: Image.Image, styles: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ham.caption_images(captioner, [image], styles=styles)


def test_unreadable_images_are_named(captioner, retrieval: ham.Retrieval, tmp_path: Path) -> None:
    for call in (
        lambda: ham.caption_images(captioner, [tmp_path / "no.jpg"]),
        lambda: retrieval.encode_images(["no.jpg"]),
    ):
        with pytest.raises(ImageError, match=r"no\.jpg"):
            call()


def test_paths_pictures_and_batches_give_equal_embeddings(
    retrieval: ham.Retrieval, image: Image.Image, tmp_path: Path
) -> None:
    image.save(tmp_path / "a.png")
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one = retrieval.encode_images(
        [tmp_path / "a.png", str(tmp_path / "a.png"), image.convert("RGBA"), flipped]
    )
    assert one.shape[0] == 4 and torch.allclose(one.norm(dim=1), torch.ones(4))
    assert (
        torch.equal(one[0], one[1]) and torch.allclose(one[0], one[2]) and not torch.allclose(one[0], one[3])
    )
    assert torch.allclose(retrieval.encode_images([image, flipped], batch_size=1), one[2:], atol=1e-6)


def test_one_sentence_must_be_in_a_list(retrieval: ham.Retrieval) -> None:
    assert retrieval.encode_texts(["a man", "a woman"]).shape == retrieval.encode_texts(["a", ""]).shape
    with pytest.raises(UsageError, match="expects a list"):
        retrieval.encode_texts("a man")
