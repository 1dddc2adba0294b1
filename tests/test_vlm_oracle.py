"""LLaVA through the `vlm` family equals the native one: the same loss curve from the same start, the same captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_captioner_train import base, losses, run, words  # noqa: F401
from tiny_llava import STYLES, TOKENS, TOWER_CONFIG

from ham.captioner.checkpoint import load_captioner
from ham.captioner.decode import generate
from ham.captioner.export_text import chat_template
from ham.captioner.llava_export import export_llava
from ham.captioner.vlm_adapter import load_vlm_captioner
from ham.llava.transformers_compat import IS_LEGACY
from ham.records import read_json, write_json

pytestmark = pytest.mark.skipif(IS_LEGACY, reason="the `vlm` family needs transformers 5")
STEPS = 20
SIDE = TOWER_CONFIG["image_size"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 records on images that have the tower's size already, so that both preprocessings give the same pixels."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(1)
    texts = ("A man in a red coat.", "The woman wears white shoes. She walks.", "He carries a bag.")
    records = []
    for number in range(24):
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nDescribe the person."},
            {"from": "gpt", "value": texts[number % 3]},
        ]
        style = number % STYLES
        record = {"id": str(number), "image": f"{number}.png", "conversations": turns}
        records.append(record | {"style_id": style, "class_id": style})
    write_json(folder / "instructions.json", records)
    return folder


@pytest.fixture(scope="module")
def stock(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain LLaVA in the llava-hf layout, with a chat template that has a place for styles."""
    out = tmp_path_factory.mktemp("stock") / "llava"
    export_llava(base, out)
    template = chat_template("v1", STYLES, TOKENS)
    (out / "chat_template.jinja").write_text(template)
    for name in ("tokenizer_config.json", "processor_config.json"):
        settings = read_json(out / name)
        if "chat_template" in settings:
            write_json(out / name, settings | {"chat_template": template})
    return out


def test_same_loss_curve_and_same_captions(stock, squares, tmp_path, monkeypatch) -> None:
    # Both tune the same folder: its vocabulary has one row more than the original layout, which the loss would see.
    more = ("--max_steps", str(STEPS), "--style_tokens", str(TOKENS), "--style_count", str(STYLES))
    more += (
        "--per_device_train_batch_size",
        "24",
    )  # every record in every step, whatever the sampler's order
    run(monkeypatch, *words(stock, squares, tmp_path / "native", *more, "--family", "llava"))
    run(monkeypatch, *words(stock, squares, tmp_path / "vlm", *more, "--family", "vlm"))
    native, other = losses(tmp_path / "native"), losses(tmp_path / "vlm")
    assert len(native) == STEPS and native.keys() == other.keys()
    np.testing.assert_allclose(list(other.values()), list(native.values()), rtol=1e-5)
    assert min(native.values()) < native[1] - 0.05  # it learned something

    images = [Image.open(squares / f"{number}.png").convert("RGB") for number in range(4)]
    style_ids = [list(range(STYLES))] * len(images)
    expected = generate(load_captioner(tmp_path / "native"), images, style_ids, max_new_tokens=12)
    captioner = load_vlm_captioner(tmp_path / "vlm")
    found = [[captioner.caption(image, style, 12) for style in range(STYLES)] for image in images]
    assert found == [[text.strip() for text in own] for own in expected]
    assert len({text for own in found for text in own}) > 1
