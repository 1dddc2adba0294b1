"""The metrics against the recorded reference, against a full argsort with cumulative sums, and by hand."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ham.reid import metrics
from ham.reid.metrics import METRICS, retrieval_metrics, similarity_metrics
from ham.runtime import UsageError, WorkError


def slow_metrics(
    similarity: torch.Tensor, query_ids: torch.Tensor, gallery_ids: torch.Tensor
) -> dict[str, float]:
    """The obvious way: a full stable argsort and cumulative sums."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    matches = (gallery_ids[order] == query_ids[:, None]).double()
    matches = matches[matches.sum(1) > 0]
    hits = matches.cumsum(1)
    result = {f"R{cut}": 100 * (hits[:, :cut] > 0).any(1).double().mean().item() for cut in (1, 5, 10)}
    places = torch.arange(1, matches.shape[1] + 1)
    result["mAP"] = 100 * ((hits / places * matches).sum(1) / matches.sum(1)).mean().item()
    last = (matches * places).amax(1)
    return {**result, "mINP": 100 * (matches.sum(1) / last).mean().item()}


def only(found: dict[str, float]) -> dict[str, float]:
    return {name: found[name] for name in METRICS}


def test_equal_the_recorded_reference(parity: Path) -> None:
    with np.load(parity / "rank.npz") as file:
        recorded = {name: torch.from_numpy(file[name]) for name in file.files}
    text_to_image = similarity_metrics(
        recorded["similarity"], recorded["q_pids"], recorded["g_pids"], chunk=7
    )
    image_to_text = similarity_metrics(recorded["similarity"].T, recorded["g_pids"], recorded["q_pids"])
    for side, found in (("t2i", text_to_image), ("i2t", image_to_text)):
        cmc = recorded[f"{side}.cmc"].tolist()
        assert [found["R1"], found["R5"], found["R10"]] == pytest.approx([cmc[0], cmc[4], cmc[9]], abs=1e-4)
        assert found["mAP"] == pytest.approx(recorded[f"{side}.mAP"].item(), abs=1e-3)
        assert found["mINP"] == pytest.approx(recorded[f"{side}.mINP"].item(), abs=1e-3)
        assert found["unmatched"] == 0


def test_by_hand() -> None:
    """First query: positives at ranks 1 and 3. Second query: one positive, at rank 4 of 4."""
    similarity = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.9, 0.5, 0.7, 0.1]])
    found = similarity_metrics(similarity, [7, 8], [7, 7, 6, 8])
    assert found["R1"] == 50.0 and found["R5"] == found["R10"] == 100.0
    assert found["mAP"] == pytest.approx(100 * ((1 / 1 + 2 / 3) / 2 + 1 / 4) / 2)
    assert found["mINP"] == pytest.approx(100 * (2 / 3 + 1 / 4) / 2)
    assert (found["queries"], found["unmatched"]) == (2, 0)


def test_equal_similarities_keep_the_gallery_order() -> None:
    similarity = torch.zeros(1, 4)
    assert similarity_metrics(similarity, [5], [5, 1, 2, 3])["mAP"] == 100.0
    assert similarity_metrics(similarity, [5], [1, 2, 3, 5])["mAP"] == 25.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 30),
    persons=st.integers(1, 8),
    levels=st.sampled_from([2, 5, 1000]),
    chunk=st.sampled_from([1, 3, 256]),
)
def test_equal_a_full_sort_with_ties_too(
    seed: int, queries: int, gallery: int, persons: int, levels: int, chunk: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    similarity = torch.randint(levels, (queries, gallery), generator=draw).float()
    query_ids = torch.randint(persons, (queries,), generator=draw)
    gallery_ids = torch.randint(persons, (gallery,), generator=draw)
    found = similarity_metrics(similarity, query_ids, gallery_ids, chunk=chunk)
    expected = slow_metrics(similarity, query_ids, gallery_ids)
    matched = int((query_ids[:, None] == gallery_ids).any(1).sum())
    assert (found["queries"], found["unmatched"]) == (matched, queries - matched)
    if matched:
        assert only(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("levels", [2, 9, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ranking_kernels_agree(levels: int, dtype: torch.dtype) -> None:
    """The kernel for GPUs is plain torch, so that it can be held against the CPU's here."""
    draw = torch.Generator().manual_seed(0)
    similarity = (torch.randint(levels, (20, 50), generator=draw) - levels // 2).to(dtype)
    columns = np.stack([np.random.default_rng(i).permutation(50)[:6] for i in range(20)])
    columns[::3, 4:] = -1
    assert np.array_equal(
        metrics._ranks_numpy(similarity, columns), metrics._ranks_torch(similarity, columns)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_features_are_normalized_on_both_sides(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    query, gallery = (torch.randn(n, 16, generator=draw).to(dtype) for n in (30, 80))
    query_ids, gallery_ids = (torch.randint(9, (n,), generator=draw) for n in (30, 80))
    lengths = torch.rand(80, 1, generator=draw).to(dtype) + 0.5
    similarity = (
        torch.nn.functional.normalize(query.double(), dim=1)
        @ torch.nn.functional.normalize(gallery.double(), dim=1).T
    )
    expected = slow_metrics(similarity, query_ids, gallery_ids)
    assert only(retrieval_metrics(2 * query, gallery, query_ids, gallery_ids, chunk=7)) == pytest.approx(
        expected, abs=1e-9
    )
    if dtype != torch.bfloat16:  # rescaling rounds there
        assert only(retrieval_metrics(query, lengths * gallery, query_ids, gallery_ids)) == pytest.approx(
            expected, abs=1e-9
        )


def test_queries_without_a_match_are_counted_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.5, 0.6]])
    with caplog.at_level(logging.WARNING, logger="ham"):
        found = similarity_metrics(similarity, [1, 99, 2], [1, 2])
    assert (found["R1"], found["queries"], found["unmatched"]) == (100.0, 2, 1)
    assert "1 of 3 queries have no match" in caplog.text and "99" in caplog.text


def test_no_match_at_all_gives_nan_and_no_crash() -> None:
    found = retrieval_metrics(torch.randn(3, 4), torch.randn(2, 4), [1, 2, 3], [8, 9])
    assert all(math.isnan(found[name]) for name in METRICS) and found["unmatched"] == 3


def test_ids_come_as_lists_arrays_tensors_or_words() -> None:
    similarity = torch.eye(3)
    for ids in ([4, 5, 6], np.array([4, 5, 6]), torch.tensor([4, 5, 6]), ["a", "b", "c"]):
        assert similarity_metrics(similarity, ids, ids)["R1"] == 100.0


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"found \[2, 3\] and \[4, 5\]"):
        retrieval_metrics(torch.ones(2, 3), torch.ones(4, 5), [0, 1], [0, 1, 2, 3])
    with pytest.raises(UsageError, match="2 query ids for 3 query rows"):
        similarity_metrics(torch.ones(3, 2), [0, 1], [0, 1])
    with pytest.raises(UsageError, match="gallery is empty"):
        similarity_metrics(torch.ones(3, 0), [0, 1, 2], [])
    with pytest.raises(WorkError, match="1 of 2 gallery features hold NaN"):
        retrieval_metrics(torch.ones(2, 2), torch.tensor([[1.0, math.nan], [1.0, 0.0]]), [0, 1], [0, 1])
    with pytest.raises(WorkError, match="NaN in 1 of 2 rows"):
        similarity_metrics(torch.tensor([[math.nan, 1.0], [0.0, 1.0]]), [0, 1], [0, 1])


def test_the_chunk_follows_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card, sizes = torch.device("cuda"), []
    for free in (80 << 30, 1 << 30, 0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        sizes.append(metrics._chunk_that_fits(card, 20_000))
    assert sizes[0] > 4 * metrics.CHUNK and sizes[0] > sizes[1] > sizes[2] == 1
    assert metrics._chunk_that_fits(torch.device("cpu"), 20_000) == metrics.CHUNK


def test_matmul_precision_is_restored() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        retrieval_metrics(torch.eye(2), torch.eye(2), [0, 1], [0, 1])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_unknown_identity_matches_nothing() -> None:
    feats = torch.eye(4)
    found = retrieval_metrics(feats, feats, [-1, -1, 3, 4], [-1, -1, 4, 3])
    assert (found["queries"], found["unmatched"], found["R1"]) == (2, 2, 0.0)
    found = similarity_metrics(torch.eye(3), [-1, -1, -1], [-1, -1, -1])
    assert found["queries"] == 0 and np.isnan(found["R1"])
