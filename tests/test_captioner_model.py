"""The splice, the forward and the style bank, against the recorded reference and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ham.captioner.checkpoint import load_captioner
from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank
from ham.llava.conversation import encode_conversation, prompt_pieces
from ham.llava.preprocess import preprocess
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.llava.transformers_compat import IS_LEGACY, set_checkpointing
from ham.runtime import UsageError

CLASS_IDS = torch.tensor([4, 1, 4])
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


@pytest.fixture(scope="module")
def captioner(parity: Path) -> Captioner:
    return load_captioner(parity / "llava_tiny")


@pytest.fixture(scope="module")
def recorded(parity: Path) -> dict[str, torch.Tensor]:
    with np.load(parity / "llava_tiny.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def facts(parity: Path) -> dict:
    return json.loads((parity / "llava_tiny.json").read_text())


def training_batch(recorded: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(recorded[f"train.{name}"] for name in ("input_ids", "labels", "attention_mask", "images"))


@pytest.fixture
def as_before(captioner: Captioner) -> CaptionerModel:
    model = captioner.model
    before = model.max_length, model.padding_side
    yield model
    model.max_length, model.padding_side = before
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


# ------------------------------------------------------------------------------------------------ the recorded reference


def test_ids_labels_and_pixels_of_the_training_batch(captioner, recorded, facts) -> None:
    for number, record in enumerate(facts["conversations"]):
        encoded = encode_conversation(captioner.tokenizer, record["conversations"])
        length = int(recorded["train.attention_mask"][number].sum())
        assert torch.equal(encoded.input_ids, recorded["train.input_ids"][number, :length])
        assert torch.equal(encoded.labels, recorded["train.labels"][number, :length])
        pixels = preprocess(Image.fromarray(recorded[f"image_{number}"].numpy()), captioner.image_size_px)
        assert torch.allclose(pixels, recorded["train.images"][number], atol=1e-5)


@torch.no_grad()
def test_splice_matches_the_reference(captioner, recorded) -> None:
    spliced = captioner.model.splice(*training_batch(recorded), CLASS_IDS)
    assert torch.allclose(spliced.embeddings, recorded["train.inputs_embeds"], **CLOSE)
    assert torch.equal(spliced.labels, recorded["train.new_labels"])
    assert torch.equal(spliced.mask, recorded["train.new_attention_mask"])
    assert torch.equal(spliced.position_ids, recorded["train.position_ids_when_passed_in"])
    projected = captioner.model.encode_images(recorded["train.images"])
    assert torch.allclose(projected, recorded["train.projected_features"], **CLOSE)


@torch.no_grad()
def test_left_padding_matches_the_reference(as_before, recorded) -> None:
    right = as_before(*training_batch(recorded), CLASS_IDS).loss
    as_before.padding_side = "left"
    spliced = as_before.splice(*training_batch(recorded), CLASS_IDS)
    assert torch.allclose(spliced.embeddings.norm(dim=-1), recorded["left.inputs_embeds_row_norms"], **CLOSE)
    assert torch.equal(spliced.labels, recorded["left.labels"])
    assert torch.equal(spliced.mask, recorded["left.attention_mask"])
    assert torch.equal(spliced.position_ids, recorded["left.position_ids"])
    assert torch.allclose(as_before(*training_batch(recorded), CLASS_IDS).loss, right, rtol=1e-5)


@torch.no_grad()
def test_truncation_matches_the_reference(as_before, recorded) -> None:
    as_before.max_length = 60
    spliced = as_before.splice(*training_batch(recorded), CLASS_IDS)
    assert torch.allclose(
        spliced.embeddings.norm(dim=-1), recorded["truncated60.inputs_embeds_row_norms"], **CLOSE
    )
    assert torch.equal(spliced.labels, recorded["truncated60.labels"])
    assert torch.equal(spliced.mask, recorded["truncated60.attention_mask"])


@torch.no_grad()
def test_samples_with_no_one_and_two_images_match_the_reference(captioner, recorded) -> None:
    ids = recorded["mixed.input_ids"]
    spliced = captioner.model.splice(ids, ids, ids != 0, recorded["mixed.images"], CLASS_IDS)
    assert torch.allclose(spliced.embeddings, recorded["mixed.inputs_embeds"], **CLOSE)
    assert torch.equal(spliced.labels, recorded["mixed.labels"])
    assert torch.equal(spliced.mask, recorded["mixed.attention_mask"])


def test_logits_loss_and_gradients_match_the_reference(as_before, recorded, facts) -> None:
    as_before.style_bank.requires_grad_(True)
    as_before.projector.requires_grad_(True)
    output = as_before(*training_batch(recorded), CLASS_IDS, return_logits=True)
    at = recorded["train.logit_positions"]
    real = recorded["train.new_attention_mask"][:, at]
    assert torch.allclose(output.logits[:, at][real], recorded["train.logits"][real], **CLOSE)
    assert torch.allclose(output.loss, recorded["train.loss"], rtol=1e-4)

    output.loss.backward()
    gradient = as_before.style_bank.prompts.grad  # [S, K, D]
    assert torch.allclose(gradient.flatten(0, 1), recorded["train.style_grad"], rtol=1e-3, atol=1e-6)
    norms = gradient.flatten(1).norm(dim=1)
    assert torch.allclose(norms, recorded["train.style_grad_norm_per_style"], rtol=1e-3)
    assert norms.nonzero().flatten().tolist() == facts["used_styles"]
    assert all(norms[style] == 0.0 for style in (0, 2, 3, 5))
    for name, parameter in as_before.projector.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(
            facts["grad_norms"][f"model.mm_projector.{name}"], rel=1e-3
        )
    trained = [name for name, parameter in as_before.named_parameters() if parameter.grad is not None]
    assert all(name.startswith(("style_bank.", "projector.")) for name in trained)


@torch.no_grad()
def greedy(
    captioner: Captioner, pixels: torch.Tensor, style: int, template: str, prompt: str, stop: int, steps: int
) -> tuple[list[int], torch.Tensor]:
    """The slow obvious way: the whole sequence again for every token. Returns the ids and each step's logits."""
    before, after = prompt_pieces(captioner.tokenizer, prompt, template)
    ids, scores = [], []
    while len(ids) < steps and (not ids or ids[-1] != stop):
        sequence = torch.tensor([[*before, IMAGE_TOKEN_INDEX, *after, *ids]])
        logits = captioner.model(sequence, images=pixels[None], style_ids=torch.tensor([style])).logits[0, -1]
        scores.append(logits)
        ids.append(int(logits.argmax()))
    return ids, torch.stack(scores)


def test_greedy_captions_match_the_reference(captioner, recorded, facts) -> None:
    generation = facts["generation"]
    cases = generation["captions"] + generation["other_templates"] + [generation["eos_stop"]]
    assert len(cases) >= 8
    for number, case in enumerate(cases):
        stop = case.get("eos_token_id_used", captioner.tokenizer.eos_token_id)
        ids, scores = greedy(
            captioner,
            recorded["train.images"][case["image"]],
            case["style"],
            case["conv_mode_used"],
            generation["query"],
            stop,
            generation["kwargs"]["max_new_tokens"],
        )
        assert ids == case["new_ids"], case
        assert captioner.tokenizer.decode(ids, skip_special_tokens=True).strip() == case["text"].strip()
        if number < 2:
            assert torch.allclose(scores, recorded["gen.image0_scores"][number], **CLOSE)


# --------------------------------------------------------------------------------------------------------------- by hand


class CountingTower(nn.Module):
    """Stands in for CLIP: two patches, whose features are the image's first two values."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        values = pixels.flatten(1)[:, :2, None]
        return SimpleNamespace(last_hidden_state=torch.cat([torch.zeros_like(values[:, :1]), values], 1))


@pytest.fixture
def tiny() -> CaptionerModel:
    """Width 1: embeddings are the ids, images 1000 and more, styles 100 * id + token."""
    llm = nn.Module()
    llm.embedding = nn.Embedding.from_pretrained(torch.arange(10.0)[:, None])
    llm.get_input_embeddings = lambda: llm.embedding
    llm.dtype = torch.float32
    projector = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(projector[0].weight)
    bank = StyleBank(3, 3, 1)
    bank.prompts.data = (100.0 * torch.arange(1, 4)[:, None] + torch.arange(3))[:, :, None]
    return CaptionerModel(llm, CountingTower(), projector, bank)


@torch.no_grad()
def test_splice_by_hand(tiny) -> None:
    ids = torch.tensor([[1, 5, IMAGE_TOKEN_INDEX, 6, 7], [1, IMAGE_TOKEN_INDEX, 8, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 6, 7], [-100, -100, 8, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    images = torch.tensor([[1000.0, 1001, 0], [2000, 2001, 0]])
    spliced = tiny.splice(ids, labels, mask, images, torch.tensor([2, 0]))
    assert spliced.embeddings[:, :, 0].tolist() == [
        [1, 5, 1000, 1001, 300, 301, 302, 6, 7],
        [1, 2000, 2001, 100, 101, 102, 8, 0, 0],
    ]
    assert spliced.labels.tolist() == [[-100] * 7 + [6, 7], [-100] * 6 + [8, -100, -100]]
    assert spliced.mask.tolist() == [[True] * 9, [True] * 7 + [False] * 2]
    assert spliced.position_ids.tolist() == [list(range(9)), [0, 1, 2, 3, 4, 5, 6, 0, 0]]
    plain = tiny.splice(ids, labels, mask, images)
    assert plain.embeddings[:, :, 0].tolist() == [[1, 5, 1000, 1001, 6, 7], [1, 2000, 2001, 8, 0, 0]]


@torch.no_grad()
def test_cut_falls_inside_the_style_tokens(tiny) -> None:
    tiny.max_length = 5
    spliced = tiny.splice(
        torch.tensor([[1, IMAGE_TOKEN_INDEX, 6], [1, 2, 3]]),
        images=torch.tensor([[1000.0, 1001], [2000, 2001]]),
        style_ids=torch.tensor([0, 1]),
    )
    assert spliced.embeddings[:, :, 0].tolist() == [[1, 1000, 1001, 100, 101], [1, 2, 3, 0, 0]]
    assert spliced.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


def test_wrong_numbers_of_images_and_styles_are_refused(tiny) -> None:
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 6], [1, 2, 3]])
    with pytest.raises(UsageError, match="take 2 images but 1 were given"):
        tiny.splice(ids, images=torch.zeros(1, 2))
    with pytest.raises(UsageError, match="no images"):
        tiny.splice(ids)
    with pytest.raises(UsageError, match=r"style id 3 .* 3 styles \(0 to 2\)"):
        tiny.splice(ids, images=torch.zeros(2, 2), style_ids=torch.tensor([0, 3]))
    with pytest.raises(UsageError, match="style id -1"):
        tiny.styles(torch.tensor([-1]))
    tiny.style_bank = None
    with pytest.raises(UsageError, match="plain LLaVA"):
        tiny.styles(torch.tensor([0]))


# ------------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(parity, captioner, recorded, dtype) -> None:
    half = load_captioner(parity / "llava_tiny", dtype=dtype, trainable_dtype=torch.float32)
    assert half.dtype == dtype
    assert half.model.style_bank.prompts.dtype == half.model.projector[0].weight.dtype == torch.float32
    output = half.model(*training_batch(recorded), CLASS_IDS)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(recorded["train.loss"].item(), rel=0.02)


def test_gradient_checkpointing_changes_nothing(as_before, recorded) -> None:
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            set_checkpointing(as_before.llm)
            as_before.train()
        as_before.style_bank.requires_grad_(True)
        as_before.zero_grad(set_to_none=True)
        as_before(*training_batch(recorded), CLASS_IDS).loss.backward()
        gradients.append(as_before.style_bank.prompts.grad.clone())
    set_checkpointing(as_before.llm, on=False)
    as_before.eval()
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.skipif(IS_LEGACY, reason="transformers 4.31 has one attention")
@torch.inference_mode()
def test_attention_implementations_agree(parity, recorded) -> None:
    losses = [
        load_captioner(parity / "llava_tiny", attention=name).model(*training_batch(recorded), CLASS_IDS).loss
        for name in ("sdpa", "eager")
    ]
    assert torch.allclose(*losses, rtol=1e-5)
    with pytest.raises(UsageError, match="use one of"):
        load_captioner(parity / "llava_tiny", attention="fast")
