"""Decoding: equal to the recorded reference, to transformers, and to itself whatever the batch."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decode_helpers import S, V, tiny_captioner
from PIL import Image

from ham.captioner.checkpoint import load_captioner
from ham.captioner.decode import Batches, generate
from ham.captioner.engine import GROWTH, NO_STYLE, Decoder, DecodeSettings, ImageJob
from ham.captioner.model import Captioner
from ham.captioner.slots import Slots
from ham.captioner.steps import Steps
from ham.captioner.stream import CaptionStream
from ham.generation import style_draws as styles_module
from ham.llava.preprocess import preprocess
from ham.runtime import UsageError


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny_captioner()


@pytest.fixture(autouse=True)
def made_up_prompt(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The tiny captioner's prompt: made-up ids. Tests with the recorded checkpoint use the real ones."""
    if "parity" not in request.fixturenames:
        monkeypatch.setattr("ham.captioner.engine.prompt_pieces", lambda *_: ([1, 7, 9], [11, 4, 6, 5]))


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def ids_of(decoder: Decoder, images: torch.Tensor, style_ids: list[list[int]]) -> list[list[list[int]]]:
    return [[one.ids for one in own] for own in decoder.caption(images, style_ids)]


# ------------------------------------------------------------------------------------------------- the recorded reference


@pytest.fixture(scope="module")
def recorded(parity: Path) -> tuple[Captioner, dict, list[Image.Image]]:
    record = json.loads((parity / "llava_tiny.json").read_text(encoding="utf-8"))["generation"]
    arrays = np.load(parity / "llava_tiny.npz")
    images = [Image.fromarray(arrays[f"image_{number}"]) for number in range(3)]
    return load_captioner(parity / "llava_tiny", vision_tower="checkpoint"), record, images


def test_greedy_captions_equal_the_reference(recorded: tuple, parity: Path) -> None:
    captioner, record, images = recorded
    entries = record["captions"]
    styles = [[entry["style"] for entry in entries if entry["image"] == number] for number in range(3)]
    decoder = Decoder(captioner, DecodeSettings(template="llava_v1", max_new_tokens=20))
    batch = torch.stack([preprocess(image, captioner.image_size_px) for image in images])
    found = [one for own in decoder.caption(batch, styles) for one in own]
    assert [one.ids for one in found] == [entry["new_ids"] for entry in entries]
    assert [one.text for one in found] == [entry["text"].strip() for entry in entries]
    texts = generate(captioner, images, styles, template="llava_v1", max_new_tokens=20, batch_size=2)
    assert [text for own in texts for text in own] == [entry["text"].strip() for entry in entries]


def test_other_templates_equal_the_reference(recorded: tuple, parity: Path) -> None:
    captioner, record, images = recorded
    for entry in record["other_templates"]:
        decoder = Decoder(captioner, DecodeSettings(template=entry["conv_mode_used"], max_new_tokens=20))
        batch = preprocess(images[entry["image"]], captioner.image_size_px)[None]
        assert decoder.caption(batch, [[entry["style"]]])[0][0].ids == entry["new_ids"], entry[
            "conv_mode_used"
        ]


def test_stopping_equals_the_reference(recorded: tuple, parity: Path) -> None:
    captioner, record, images = recorded
    entry = record["eos_stop"]
    decoder = Decoder(captioner, DecodeSettings(template=entry["conv_mode_used"], max_new_tokens=20))
    decoder.stop_ids = {entry["eos_token_id_used"]}
    batch = preprocess(images[entry["image"]], captioner.image_size_px)[None]
    found = decoder.caption(batch, [[entry["style"], 4, 5]])[0][0]
    assert found.ids == entry["new_ids"]


# ------------------------------------------------------------------------------------------------------------ transformers


def test_captions_equal_a_slow_obvious_loop(captioner: Captioner) -> None:
    """The whole prompt through transformers again for every token, no cache, one caption at a time."""
    images, styles = pixels(3), [[0, 4], [2], [1, 3]]
    found = ids_of(Decoder(captioner, DecodeSettings(max_new_tokens=12)), images, styles)
    model = captioner.model
    with torch.inference_mode():
        for image, own, captions in zip(images, styles, found, strict=True):
            for style_id, ids in zip(own, captions, strict=True):
                x = torch.cat(
                    [
                        model.embed(torch.tensor([[1, 7, 9]])),
                        model.encode_images(image[None]),
                        model.styles(torch.tensor([style_id])),
                        model.embed(torch.tensor([[11, 4, 6, 5]])),
                    ],
                    1,
                )
                expected = []
                while len(expected) < 12 and (not expected or expected[-1] != 2):
                    expected.append(int(model.llm(inputs_embeds=x).logits[0, -1].argmax()))
                    x = torch.cat([x, model.embed(torch.tensor([[expected[-1]]]))], 1)
                assert ids == expected


# ------------------------------------------------------------------------------------------------------- batches, referee


def near_ties(captioner: Captioner) -> Captioner:
    """The same captioner with an output layer full of twins that differ by a few roundings, and two exact twins."""
    twin = replace(captioner, model=copy.deepcopy(captioner.model))
    head = twin.model.llm.lm_head.weight.data
    half = V // 2
    noise = torch.randn(half, 32, generator=torch.Generator().manual_seed(3))
    head[half : 2 * half] = head[:half] * (1 + 1e-7 * noise)
    head[3] = head[4]
    return twin


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("ties", [False, True])
def test_captions_do_not_depend_on_the_batch(captioner: Captioner, ties: bool, temperature: float) -> None:
    captioner = near_ties(captioner) if ties else captioner
    settings = DecodeSettings(
        max_new_tokens=16, temperature=temperature, top_p=0.9 if temperature else 1.0, seed=5
    )
    count = 13
    images = pixels(count)
    styles = [[number % S, (number + 2) % S][: 1 + number % 2] for number in range(count)]
    decoder = Decoder(captioner, settings)
    together = ids_of(decoder, images, styles)
    assert (decoder.rechecked > 10) == ties or temperature
    alone = [
        ids_of(Decoder(captioner, settings), images[i : i + 1], styles[i : i + 1])[0] for i in range(count)
    ]
    assert together == alone
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = ids_of(Decoder(captioner, settings), images[order], [styles[i] for i in order])
    assert [shuffled[order.index(i)] for i in range(count)] == together
    torch.set_num_threads(2)
    assert ids_of(Decoder(captioner, settings), images, styles) == together
    assert len(set(itertools.chain(*[[tuple(ids) for ids in own] for own in together]))) > 5


def test_rows_that_finish_early_leave_the_rest_unchanged(captioner: Captioner) -> None:
    images, styles = pixels(6), [[0, 1, 2]] * 6
    full = ids_of(
        Decoder(captioner, DecodeSettings(max_new_tokens=90)), images, styles
    )  # the cache grows once
    stopping = Decoder(captioner, DecodeSettings(max_new_tokens=90))
    common = max(range(3, V), key=lambda token: sum(token in ids[1:] for own in full for ids in own))
    stopping.stop_ids = {common}
    cut = ids_of(stopping, images, styles)
    expected = [[ids[: ids.index(common) + 1] if common in ids else ids for ids in own] for own in full]
    assert cut == expected and cut != full and len({len(ids) for own in cut for ids in own}) > 3


def test_samples_follow_the_probabilities_and_the_seed(captioner: Captioner) -> None:
    image, draws = pixels(1), 60
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=1, temperature=1.0, seed=0))
    keys = [[str(number) for number in range(draws)]]
    first = [one.ids[0] for one in decoder.caption(image, [[0] * draws], keys)[0]]
    again = [one.ids[0] for one in decoder.caption(image, [[0] * draws], keys)[0]]
    other = Decoder(captioner, DecodeSettings(max_new_tokens=1, temperature=1.0, seed=1)).caption(
        image, [[0] * draws], keys
    )[0]
    assert first == again != [one.ids[0] for one in other] and len(set(first)) > 3


# ------------------------------------------------------------------------------------------------- continuous batching


def ids_in(stream: CaptionStream, images: torch.Tensor, styles: list[list[int]]) -> list[list[list[int]]]:
    return [[one.ids for one in own] for own in stream.caption(images, styles)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("rows", "group"), [(1, 1), (4, 2), (7, 3), (5, 4), (64, 1)])
def test_refilled_slots_write_the_captions_of_one_batch(
    captioner: Captioner, rows: int, group: int, temperature: float
) -> None:
    settings = DecodeSettings(max_new_tokens=90, temperature=temperature, seed=3)
    images, styles = pixels(9), [[0, 1], [2], [3, 4, 0, 1, 2], [], [1, 1], [0], [4, 2, 0], [3], [0, 4]]
    whole = Decoder(captioner, settings)
    tokens = [token for own in ids_of(whole, images, styles) for ids in own for token in ids[1:]]
    whole.stop_ids = {max(range(3, V), key=tokens.count)}  # captions of many lengths
    expected = ids_of(whole, images, styles)
    assert len({len(ids) for own in expected for ids in own}) > 3
    decoder = Decoder(captioner, settings)
    decoder.stop_ids = whole.stop_ids
    stream = CaptionStream(decoder, rows, group)
    assert ids_in(stream, images, styles) == expected
    assert ids_in(stream, images[:2], styles[:2]) == expected[:2]  # the cache is used again


def test_dense_steps_of_fixed_size_write_the_same_captions(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs: all rows computed, a few sizes, tokens read one step late."""
    settings = DecodeSettings(max_new_tokens=70)
    images, styles = pixels(11), [[number % S, (number + 1) % S][: 1 + number % 2] for number in range(11)]
    whole, decoder = Decoder(captioner, settings), Decoder(captioner, settings)
    tokens = [token for own in ids_of(whole, images, styles) for ids in own for token in ids[1:]]
    whole.stop_ids = decoder.stop_ids = {max(range(3, V), key=tokens.count)}
    expected = ids_of(whole, images, styles)
    sizes: list[int] = []
    step = Steps.next

    class LateSlots(Slots):
        def __init__(self, *words: object) -> None:
            super().__init__(*words)
            self.is_gpu = True

    def recorded_step(self: Steps, slots: int, live: None, filled: None) -> object:
        assert live is None and filled is None
        sizes.append(slots)
        return step(self, slots, live, filled)

    monkeypatch.setattr("ham.captioner.stream.Slots", LateSlots)
    monkeypatch.setattr(Steps, "next", recorded_step)
    assert ids_in(CaptionStream(decoder, 8, 2, use_graphs=True), images, styles) == expected
    assert set(sizes) == {1, 2, 4}


def test_images_leave_as_they_finish_and_may_come_back(captioner: Captioner) -> None:
    """A source that has nothing yet is asked again: rejected captions are written again in another style."""
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=8))
    images = pixels(3)
    jobs = [ImageJob(image, [number], None, (number, number)) for number, image in enumerate(images)]
    found = {}
    for job, made in CaptionStream(decoder, 2).run(lambda: jobs.pop(0) if jobs else None):
        found[job.tag] = made[0].ids
        if job.tag[1] < 3:
            jobs.append(ImageJob(job.pixels, [job.tag[1] + 1], None, (job.tag[0], job.tag[1] + 1)))
    assert len(found) == 4 + 3 + 2
    for (image, style), ids in found.items():
        assert ids == ids_of(decoder, images[image : image + 1], [[style]])[0][0]


# ------------------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_captions_without_finite_logits_are_failures(
    captioner: Captioner, value: float, temperature: float
) -> None:
    """One bad style, and a whole bad model; the neighbors and the row's next captions stay as they are."""
    settings = DecodeSettings(max_new_tokens=6, temperature=temperature)
    images, styles = pixels(6), [[0], [1], [2], [1], [3], [4]]
    expected = ids_of(Decoder(captioner, settings), images, styles)
    bad = replace(captioner, model=copy.deepcopy(captioner.model))
    bad.model.style_bank.prompts.data[1] = value
    made = CaptionStream(Decoder(bad, settings), 2).caption(images, styles)
    for own, right, style in zip(made, expected, styles, strict=True):
        if style == [1]:
            assert own[0].text == "" and "NaN or infinite at token 1" in own[0].failure
        else:
            assert own[0].ids == right[0] and own[0].failure is None
    bad.model.llm.lm_head.weight.data[5] = value
    assert all(one.failure for own in Decoder(bad, settings).caption(images, styles) for one in own)


# ------------------------------------------------------------------------------------------------------ batches, bad input


@pytest.mark.parametrize("kind", ["allocate", "prefill", "step"])
def test_a_batch_that_does_not_fit_is_halved(
    captioner: Captioner, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=3))
    expected = ids_of(decoder, pixels(7), [[0]] * 7)
    batches, tried = Batches(decoder, 7), []
    name = {"allocate": "empty_cache", "prefill": "prefill", "step": "step"}[kind]
    whole = getattr(decoder.llama, name)

    def fits_three(*words: object, **more: object) -> object:
        tried.append(batches.stream.rows)
        if batches.stream.rows > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(*words, **more)

    monkeypatch.setattr(decoder.llama, name, fits_three)
    with caplog.at_level("WARNING", logger="ham"):
        found = batches.caption(pixels(7), [[0]] * 7)
    assert [[one.ids for one in own] for own in found] == expected
    assert set(tried) == {7, 3} and batches.images == 3 and "3 captions at a time" in caplog.text
    monkeypatch.setattr(decoder, "encode", lambda *_: (_ for _ in ()).throw(RuntimeError("another error")))
    with pytest.raises(RuntimeError, match="another error"):
        batches.caption(pixels(1), [[0]])


def test_one_caption_that_does_not_fit_ends_the_run(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=3))
    monkeypatch.setattr(decoder.llama, "step", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
    with pytest.raises(MemoryError):
        Batches(decoder, 2).caption(pixels(2), [[0], [1]])


def test_batch_size_on_a_cpu_counts_rows(captioner: Captioner) -> None:
    decoder = Decoder(captioner)
    assert (Batches(decoder).images, Batches(decoder, None, 2).images, Batches(decoder, 5, 2).images) == (
        64,
        32,
        5,
    )
    assert Batches(decoder, None, 1000).images == 1
    many = [[number % S for number in range(150)], [], [1, 2]]
    decoder.settings = DecodeSettings(max_new_tokens=2)
    batches = Batches(decoder, None, 150)
    parts = [[one.ids for one in own] for own in batches.caption(pixels(3), many)]
    assert [len(own) for own in parts] == [150, 0, 2]
    assert parts == ids_of(Decoder(captioner, DecodeSettings(max_new_tokens=2)), pixels(3), many)
    assert GROWTH > 0 and styles_module.NO_STYLE == NO_STYLE


def test_without_style_and_with_ragged_styles(captioner: Captioner) -> None:
    images = pixels(3)
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=5))
    plain = ids_of(decoder, images, [[NO_STYLE]] * 3)
    assert plain != ids_of(decoder, images, [[0]] * 3)
    ragged = ids_of(decoder, images, [[0, 1], [], [2]])
    assert [len(own) for own in ragged] == [2, 0, 1] and ids_of(decoder, images, [[], [], []]) == [[], [], []]
    assert ragged[2][0] == ids_of(decoder, images[2:], [[2]])[0][0]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}]
)
def test_wrong_settings_are_refused(captioner: Captioner, wrong: dict) -> None:
    with pytest.raises(UsageError, match="expected >= 0"):
        Decoder(captioner, DecodeSettings(**wrong))


def test_the_checkpoints_own_instruction_is_the_default(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(captioner.manifest, "prompt", "Who is it?")
    assert Decoder(captioner).prompt == "Who is it?"
    assert Decoder(captioner, DecodeSettings(prompt="Describe.")).prompt == "Describe."
    monkeypatch.delitem(captioner.manifest, "prompt")
    assert Decoder(captioner).prompt is None


def test_wrong_styles_and_lengths_are_refused(captioner: Captioner) -> None:
    decoder = Decoder(captioner)
    for styles, message in (
        ([[S]], f"style {S} asked for"),
        ([[-2]], "style -2"),
        ([[0, NO_STYLE]], "with and without"),
    ):
        with pytest.raises(UsageError, match=message):
            decoder.caption(pixels(1), styles)
    with pytest.raises(UsageError, match="1 images but 2 lists"):
        generate(captioner, [Image.new("RGB", (8, 8))], [[0], [1]])
    with pytest.raises(UsageError, match="batch size"):
        Batches(decoder, -3)
