"""The captioning run with a captioner that costs nothing: rows, redraws, broken images, merging, status, samples, measures."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import resource
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from generation_helpers import FakeEngine, all_rows, make_plan, merged, run_job, start
from PIL import Image

from ham.generation.diversity import bleu, distinct_n, measure, self_bleu, words_of
from ham.generation.engines import Caption
from ham.generation.filters import reject_reason
from ham.generation.image_lists import job_images
from ham.generation.merge import image_captions, merge
from ham.generation.plan import Plan, load_plan, settle_plan
from ham.generation.run import Run
from ham.generation.samples import describe_job, draw_samples
from ham.generation.status import JobWatch, describe
from ham.records import CaptionRow, read_json
from ham.report.samples import write_samples
from ham.runtime import WorkError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(23):
        path = tmp_path / "images" / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (10 * number, 5, 0)).save(path)
    return tmp_path / "images"


def test_every_image_gets_its_captions(root: Path, tmp_path: Path) -> None:
    plan = run_job(tmp_path / "out", root)
    rows = all_rows(tmp_path / "out")
    by_image = defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    assert list(by_image) == list(plan.images)
    for image, own in by_image.items():
        ordered, open_draws = plan.styles.replay(image, own)
        assert ordered == own and not open_draws
        assert [row.style_id for row in own] == plan.styles.sequence(image)[: len(own)]
        assert all((row.status == "accepted") == (reject_reason(row.caption) is None) for row in own)
    assert any(row.attempt for row in rows), "the fake captioner must have some captions rejected"
    assert len({(row.image, row.style_id, row.attempt) for row in rows}) == len(rows)


def test_batches_are_full_across_shards(root: Path, tmp_path: Path) -> None:
    engine = FakeEngine(batch_images=8, reject_every=10**9)
    run_job(tmp_path / "out", root, engine=engine)
    assert engine.calls == [8, 8, 7]  # 23 images in shards of 5


@pytest.mark.parametrize(
    ("world_size", "batch_images", "workers"), [(1, 1, 0), (2, 7, 0), (3, 100, 0), (1, 4, 2)]
)
def test_output_does_not_depend_on_ranks_batches_or_workers(
    root: Path, tmp_path: Path, world_size: int, batch_images: int, workers: int
) -> None:
    run_job(tmp_path / "one", root)
    for rank in reversed(range(world_size)):
        run_job(tmp_path / "two", root, rank, world_size, FakeEngine(batch_images), workers)
    assert merged(tmp_path / "one") == merged(tmp_path / "two")
    for file in (tmp_path / "one").glob("[0-9]*.jsonl"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_always_rejected_captions_are_drawn_five_times_and_left_out(root: Path, tmp_path: Path) -> None:
    plan = run_job(tmp_path / "out", root, engine=FakeEngine(reject_every=1))
    rows = all_rows(tmp_path / "out")
    assert Counter(row.attempt for row in rows) == dict.fromkeys(range(5), 2 * 23)
    assert {row.reason for row in rows} == {"short"}
    summary = merge(plan)
    assert read_json(tmp_path / "out" / "captions.json") == {}
    assert (summary["images_without_caption"], summary["captions_rejected"], summary["reasons"]) == (
        23,
        230,
        {"short": 230},
    )
    kept = (merge(plan, keep_rejected=True), read_json(tmp_path / "out" / "captions.json"))[1]
    assert len(kept) == 23 and all(len(captions) == 2 for captions in kept.values())


def test_kept_rejected_captions_are_the_last_ones() -> None:
    rows = [
        CaptionRow("x", "bad 1", 0, 0, "rejected", "short"),
        CaptionRow("x", "good", 1, 0, "accepted"),
        CaptionRow("x", "bad 2", 2, 1, "rejected", "short"),
    ]
    assert image_captions(rows, 2) == ["good"]
    assert image_captions(rows, 2, keep_rejected=True) == ["good", "bad 2"]
    assert image_captions(rows[1:2], 1, keep_rejected=True) == ["good"]


def test_merge_streams_the_same_json_as_the_library(root: Path, tmp_path: Path) -> None:
    data = merged((run_job(tmp_path / "out", root)).folder)
    captions = json.loads(data)
    assert captions == {
        image: image_captions([row for row in all_rows(tmp_path / "out") if row.image == image], 2)
        for image in captions
    }
    assert data.endswith(b"]\n}\n") and len(captions) == 23


# --------------------------------------------------------------------------------------------------------- broken images


def broken_images(root: Path) -> dict[str, str]:
    """Make every kind of bad file; name -> how its reason begins."""
    whole = (root / "0" / "00.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "whole.jpg")
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:1500])
    (root / "cut.png").write_bytes(whole[:40])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("this is no picture")
    (root / "folder.jpg").mkdir()
    Image.new("1", (12000, 12000)).save(root / "bomb.png")
    return {
        "cut.jpg": "truncated",
        "cut.png": "",
        "empty.jpg": "not an image",
        "text.jpg": "not an image",
        "folder.jpg": "unreadable",
        "bomb.png": "too large",
        "gone.jpg": "missing",
        "../outside.jpg": "outside",
        "/etc/passwd": "outside",
        "": "outside",
    }


def odd_images(root: Path) -> list[str]:
    Image.new("CMYK", (4, 8)).save(root / "cmyk.jpg")
    Image.new("P", (4, 8)).save(root / "palette.png")
    Image.fromarray(np.full((8, 4), 40000, dtype=np.uint16)).save(root / "sixteen.png")
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "turned.jpg", exif=exif)
    return ["cmyk.jpg", "palette.png", "sixteen.png", "turned.jpg", "whole.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_rows_and_the_run_goes_on(root: Path, tmp_path: Path, workers: int) -> None:
    broken, odd = broken_images(root), odd_images(root)
    (tmp_path / "list.json").write_text(json.dumps([*broken, "0/00.png", *odd]))
    plan = make_plan(tmp_path / "template", root)
    out = tmp_path / "out"
    plan = settle_plan(out, lambda: job_images(root, tmp_path / "list.json"), plan.settings, {}, 4)
    Run(plan, FakeEngine(), root, workers=workers).work()
    failed = {row.image: row for row in all_rows(out) if row.status == "failed"}
    assert set(failed) == set(broken)
    for image, row in failed.items():
        assert row.reason.startswith(broken[image]) and (row.caption, row.style_id, row.attempt) == (
            "",
            None,
            0,
        ), row
        assert str(root) not in row.reason and " at 0x" not in row.reason
    assert {row.image for row in all_rows(out) if row.status == "accepted"} == {"0/00.png", *odd}
    summary = merge(plan)
    assert summary["images_failed"] == len(broken) and summary["reasons"]["outside"] == 3
    assert set(read_json(out / "captions.json")) == {"0/00.png", *odd}
    assert {entry["image"] for entry in summary["first_failed"]} == set(broken)
    assert not list(out.glob("*.partial"))


# -------------------------------------------------------------------------------------------------- two jobs, full disks


def test_two_jobs_share_the_shards(root: Path, tmp_path: Path) -> None:
    run_job(tmp_path / "one", root)
    engine = FakeEngine(batch_images=2, pause_s=0.01)
    make_plan(tmp_path / "two", root)
    jobs = [start(tmp_path / "two", root, engine=engine) for _ in range(3)]
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    run_job(tmp_path / "two", root)  # what the others were writing when a job passed by
    assert merged(tmp_path / "one") == merged(tmp_path / "two")


def limited_job(out: Path, root: Path, limit: int) -> None:
    """Run with files limited in size, as on a full disk; exit code 7 for the expected error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run_job(out, root)
    except WorkError as error:
        assert re.search("no space left", str(error)), error
        raise SystemExit(7) from None


def test_a_full_disk_leaves_whole_files_and_the_job_goes_on(root: Path, tmp_path: Path) -> None:
    run_job(tmp_path / "one", root)
    make_plan(tmp_path / "two", root)
    for limit in (700, 1100, 1300):
        job = multiprocessing.get_context("fork").Process(
            target=limited_job, args=(tmp_path / "two", root, limit)
        )
        job.start()
        job.join()
        assert job.exitcode == 7
        for file in (tmp_path / "two").glob("*.jsonl*"):
            assert file.read_bytes().endswith(b"\n") and [
                json.loads(line) for line in file.read_text().splitlines()
            ]
        assert not list((tmp_path / "two").glob("*.tmp"))
    run_job(tmp_path / "two", root)
    assert merged(tmp_path / "one") == merged(tmp_path / "two")


# -------------------------------------------------------------------------------------------------- status and the page


def test_status_and_merge_work_on_a_job_in_progress(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(out, root, rank=0, world_size=2)
    text = describe(out)
    assert "in progress" in text and "3 of 5 done" in text and "not merged yet" in text
    summary = merge(load_plan(out))
    assert (
        not summary["complete"]
        and summary["images_merged"] == 13
        and len(read_json(out / "captions.json")) == 13
    )
    plan = run_job(out, root, rank=1, world_size=2)
    status = JobWatch(plan).scan()
    rows = all_rows(out)
    assert status.complete and status.images_done == 23
    assert status.accepted == sum(row.status == "accepted" for row in rows)
    assert status.rejected == sum(row.status == "rejected" for row in rows) == sum(status.reasons.values())
    assert merge(plan)["complete"] and "complete" in describe(out)
    assert read_json(out / "summary.json")["images_merged"] == 23
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 23 and lines[-1]["tokens_per_s"] > 0


def sample_page(plan: Plan, root: Path, count: int) -> str:
    samples = draw_samples(plan, count)
    return write_samples(
        plan.folder / "samples.html", samples, root, len(plan.images), describe_job(plan)
    ).read_text()


def test_the_sample_page_is_whole_and_self_contained(root: Path, tmp_path: Path) -> None:
    plan = run_job(tmp_path / "out", root, rank=0, world_size=2)
    page = sample_page(plan, root, 10)
    assert page.count("<article ") == 10 and page.count("data:image/jpeg;base64,") == 10
    assert "http" not in page and "style " in page
    assert sample_page(plan, root, 10) == page and 'name="viewport"' in page
    assert sample_page(plan, root, 99).count("<article ") == 13  # of the finished shards only
    gone = sample_page(plan, tmp_path / "elsewhere", 3)
    assert gone.count("no picture") == 3


def test_the_sample_page_escapes_what_a_model_may_write(root: Path, tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.caption = lambda images, pixels, draws: [
        [Caption("<script>a b c d e f g h", 1)] * len(own) for own in draws
    ]
    page = sample_page(run_job(tmp_path / "out", root, engine=engine), root, 40)
    assert "&lt;script&gt;" in page and "<script>" not in page and "rejected: angle_bracket" in page


# ---------------------------------------------------------------------------------------------------------------- measures


def test_distinct_counts_different_ngrams() -> None:
    texts = [words_of("A red coat, a red bag."), words_of("a RED hat")]
    assert texts == [["a", "red", "coat", "a", "red", "bag"], ["a", "red", "hat"]]
    assert distinct_n(texts, 1) == pytest.approx(100 * 5 / 9)
    assert distinct_n(texts, 2) == pytest.approx(100 * 5 / 7)  # a red x3, red coat, coat a, red bag, red hat
    assert distinct_n([], 1) == 0


def test_self_bleu_of_equal_and_of_disjoint_texts() -> None:
    same = [words_of("one two three four five six")] * 3
    assert self_bleu(same) == pytest.approx(100)
    assert self_bleu([["a", "b", "c", "d", "e"], ["f", "g", "h", "i", "j"]]) == 0


def test_bleu_by_hand() -> None:
    # unigrams 2/3; smoothed: bigrams (1+1)/(2+1), trigrams (0+1)/(1+1), fourgrams (0+1)/(0+1); lengths equal
    expected = 100 * math.exp(0.25 * (math.log(2 / 3) + math.log(2 / 3) + math.log(1 / 2) + 0))
    assert bleu(["a", "b", "x"], [["a", "b", "c"]]) == pytest.approx(expected)
    longer = [["a", "b", "c", "d", "e", "f"]]
    assert bleu(["a", "b", "x"], longer) == pytest.approx(expected * math.exp(1 - 6 / 3))
    assert bleu([], [["a"]]) == 0


def test_measure_of_few_captions() -> None:
    assert measure([]) == {"captions": 0} and measure(["x"]) == {"captions": 1}
    result = measure(["a b c d e f g h", "a b c d e f g h", "i j"])
    assert (result["different"], result["words_p5"], result["words_p95"]) == (66.67, 2, 8)
