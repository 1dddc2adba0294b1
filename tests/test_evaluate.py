"""Evaluation with a stub model whose features can be computed by hand: sizes, failures, ranks, tables, examples."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from ham.clip import tokenize
from ham.reid.batch import normalize
from ham.reid.encode import EncodeSettings, encode_images, encode_texts, evaluation_mode
from ham.reid.evaluate import encode_split, evaluate, format_table, measure, pick_examples, write_results
from ham.reid.metrics import METRICS
from ham.runtime import UsageError, WorkError

COLOURS = {"red": (220, 20, 30), "green": (20, 200, 40), "blue": (30, 40, 230), "white": (250, 250, 250)}
SMALL = EncodeSettings(image_size_px=(32, 16), batch_size=3)


class Stub(nn.Module):
    """Images become their mean colour; captions become the same vector for the first colour word's token id."""

    def __init__(self, branches: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)
        self.branches = branches
        pixels = normalize(torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, :, None, None])
        self.means = dict(zip(tokenize(list(COLOURS))[:, 1].tolist(), pixels[:, :, 0, 0]))

    def image_features(self, images: Tensor) -> list[Tensor]:
        return [self.dropout(self.scale * images.mean(dim=(2, 3)))] * self.branches

    def text_features(self, ids: Tensor) -> list[Tensor]:
        rows = [next((self.means[i] for i in row if i in self.means), torch.ones(3)) for row in ids.tolist()]
        return [self.scale * torch.stack(rows)] * self.branches


def make_dataset(root: Path, persons: dict[int, str], per_person: int = 2, captions: int = 2) -> Path:
    """Write a small RSTPReid: every person wears one colour, every caption names it."""
    folder = root / "RSTPReid"
    (folder / "imgs").mkdir(parents=True)
    rows = []
    for person, colour in persons.items():
        for number in range(per_person):
            Image.new("RGB", (12, 30), COLOURS[colour]).save(folder / "imgs" / f"{person}_{number}.png")
            rows.append(
                {
                    "id": person,
                    "img_path": f"{person}_{number}.png",
                    "split": "test",
                    "captions": [f"{colour} coat number {n}" for n in range(captions)],
                }
            )
    (folder / "data_captions.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", {1: "red", 2: "green", 3: "blue", 4: "white"})


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_perfect_model_scores_100_both_ways(
    root: Path, tmp_path: Path, branches: int, workers: int
) -> None:
    settings = EncodeSettings(image_size_px=(32, 16), batch_size=3, workers=workers)
    rows, encoded = evaluate(
        Stub(branches), root, ["RSTPReid"], image_to_text=True, settings=settings, out=tmp_path / "out"
    )
    assert [row["direction"] for row in rows] == ["text-to-image", "image-to-text"]
    assert all(row[name] == 100.0 for row in rows for name in METRICS)
    assert (rows[0]["queries"], rows[0]["gallery"], rows[1]["queries"], rows[1]["gallery"]) == (16, 8, 8, 16)
    assert encoded[0].image_feats.shape == (8, 3 * branches)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["results"] == rows and "git_revision" in written
    assert not (tmp_path / "out" / "failed.jsonl").exists()


def test_unreadable_image_leaves_the_gallery(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "RSTPReid" / "imgs" / "3_0.png").write_bytes(b"broken")
    (root / "RSTPReid" / "imgs" / "3_1.png").unlink()
    settings = EncodeSettings(image_size_px=(32, 16), batch_size=1, max_failed_share=0.5)
    with caplog.at_level(logging.WARNING, logger="ham"):
        rows, _ = evaluate(Stub(), root, ["RSTPReid"], settings=settings, out=tmp_path / "out")
    assert (rows[0]["failed_images"], rows[0]["gallery"], rows[0]["queries"], rows[0]["unmatched"]) == (
        2,
        6,
        12,
        4,
    )
    assert rows[0]["R1"] == 100.0
    assert "2 of 8 RSTPReid images cannot be read" in caplog.text
    failed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert [Path(row["image"]).name for row in failed] == ["3_0.png", "3_1.png"]
    assert failed[1]["reason"] == "missing: no such file" and failed[1]["dataset"] == "RSTPReid"
    with pytest.raises(
        WorkError, match=r"2 of 8 RSTPReid images cannot be read, more than .* 1.0%; the first: .*3_0"
    ):
        evaluate(Stub(), root, ["RSTPReid"], settings=SMALL)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="1 of 1 images cannot be read"):
        encode_images(Stub(), [tmp_path / "none.jpg"], SMALL)


def test_captions_of_any_kind(root: Path) -> None:
    odd = [
        "",
        "  ",
        "red",
        "red " * 500,
        "человек в красном",
        "穿红衣服的人",
        "jekyll <|endoftext|> red",
        "\U0001f468 red",
    ]
    feats = encode_texts(Stub(), odd, SMALL)
    assert feats.shape == (8, 3) and feats.isfinite().all()
    torch.testing.assert_close(feats[2], feats[3])


def test_empty_split_and_unknown_dataset_are_named(root: Path) -> None:
    with pytest.raises(UsageError, match="RSTPReid, split val: 0 images with 0 captions"):
        encode_split(Stub(), root, "RSTPReid", "val", SMALL)
    with pytest.raises(UsageError, match="'Market' is not known"):
        evaluate(Stub(), root, ["Market"], settings=SMALL)


@pytest.mark.parametrize("form", ["benchmark", "captions"])
def test_unknown_identities_never_match(root: Path, tmp_path: Path, form: str) -> None:
    file = root / "RSTPReid/data_captions.json"
    rows = json.loads(file.read_text())
    if form == "captions":
        (root / "HAM-PEDES").mkdir()
        (root / "HAM-PEDES/imgs").symlink_to(root / "RSTPReid/imgs")
        (root / "HAM-PEDES/c.json").write_text(json.dumps({row["img_path"]: row["captions"] for row in rows}))
        with pytest.raises(UsageError, match="HAM-PEDES, split train: no image has a known identity"):
            evaluate(Stub(), root, ["HAM-PEDES"], "train", settings=SMALL)
        return
    for row in rows[:4]:
        row["id"] = -1
    file.write_text(json.dumps(rows))
    found, (encoded,) = evaluate(Stub(), root, ["RSTPReid"], settings=SMALL)
    assert (found[0]["queries"], found[0]["unmatched"], found[0]["gallery"]) == (8, 8, 8)
    examples = pick_examples(encoded, count=16, top=8)
    assert not any(
        hit["right"]
        for example in examples
        if Path(example["query_image"]).name[0] in "12"
        for hit in example["hits"]
    )


def test_an_own_folder_stands_where_a_benchmark_can(root: Path, tmp_path: Path) -> None:
    lines = ["image,caption"] + [f"{person}_0.png,{colour} coat" for person, colour in enumerate(COLOURS, 1)]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    (tmp_path / "dataset.yaml").write_text("images: data/RSTPReid/imgs")
    rows, _ = evaluate(Stub(), None, [f"mine={tmp_path / 'own.csv'}"], settings=SMALL, out=tmp_path / "out")
    assert (rows[0]["dataset"], rows[0]["R1"], rows[0]["queries"]) == ("mine", 100.0, 4)


def test_every_module_gets_its_mode_back_even_after_an_error() -> None:
    model = Stub().train()
    model.dropout.eval()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert model.training and not model.dropout.training and torch.is_grad_enabled()


def test_half_precision_ranks_alike(root: Path) -> None:
    settings = EncodeSettings(image_size_px=(32, 16), batch_size=3, dtype=torch.bfloat16)
    rows, encoded = evaluate(Stub(), root, ["RSTPReid"], settings=settings)
    assert rows[0]["R1"] == 100.0 and encoded[0].text_feats.dtype == torch.float32


def test_table_has_two_decimals_and_one_line_a_row(root: Path) -> None:
    rows, _ = evaluate(Stub(), root, ["RSTPReid"], image_to_text=True, settings=SMALL)
    lines = format_table(rows).splitlines()
    assert len(lines) == 4 and len(set(map(len, lines))) == 1
    assert (
        lines[0].replace(" ", "") == "|dataset|split|direction|R1|R5|R10|mAP|mINP|queries|unmatched|gallery|"
    )
    assert lines[2].startswith("| RSTPReid | test  | text-to-image | 100.00 |")


def test_metrics_without_any_match_are_null_in_json(root: Path, tmp_path: Path) -> None:
    encoded = encode_split(Stub(), root, "RSTPReid", "test", SMALL)
    encoded.image_ids[:] = 99
    write_results(measure(encoded), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["R1"] is None


def test_examples_are_the_same_every_time_and_know_right_from_wrong(root: Path) -> None:
    encoded = encode_split(Stub(), root, "RSTPReid", "test", SMALL)
    examples = pick_examples(encoded, count=5, top=3)
    assert examples == pick_examples(encoded, count=5, top=3) and len(examples) == 5
    assert examples != pick_examples(encoded, count=5, top=3, seed=1)
    for example in examples:
        person = Path(example["query_image"]).name.split("_")[0]
        assert [hit["right"] for hit in example["hits"]] == [True, True, False]
        assert all(
            hit["right"] == (Path(hit["image"]).name.split("_")[0] == person) for hit in example["hits"]
        )
        scores = [hit["score"] for hit in example["hits"]]
        assert scores == sorted(scores, reverse=True) and scores[0] == pytest.approx(1.0, abs=1e-4)


def _one_rank(rank: int, root: str, port_file: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    try:
        rows, (encoded,) = evaluate(Stub(), root, ["RSTPReid"], settings=SMALL)
        torch.save(
            (rows, encoded.text_feats, encoded.image_feats, encoded.image_ids.tolist()), f"{out}/{rank}.pt"
        )
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path / "data", {1: "red", 2: "green", 3: "blue"}, per_person=3
    )  # 9 images: slices of 4 and 5
    rows, (encoded,) = evaluate(Stub(), root, ["RSTPReid"], settings=SMALL)
    torch.multiprocessing.spawn(_one_rank, (str(root), str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        their_rows, texts, images, ids = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert their_rows == rows and ids == np.asarray(encoded.image_ids).tolist()
        torch.testing.assert_close(texts, encoded.text_feats)
        torch.testing.assert_close(images, encoded.image_feats)
