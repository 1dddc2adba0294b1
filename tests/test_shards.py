"""Shards, claims, style sequences, plans: who takes what, and what a restart makes of what it finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from generation_helpers import SETTINGS, FakeEngine, make_plan, run_job, start
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ham.generation.image_lists import job_images
from ham.generation.plan import (
    Plan,
    check_settings,
    default_shard_size,
    load_plan,
    settle_plan,
    wait_for_plan,
)
from ham.generation.shards import (
    claim,
    parse_shards,
    partial_file,
    read_partial,
    read_rows,
    rows_file,
    shard_range,
    shards_of,
)
from ham.generation.style_draws import Draw, StylePlan, parse_styles
from ham.locks import FileLock
from ham.records import CaptionRow, read_json, to_json_line
from ham.runtime import UsageError, WorkError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / "images" / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (number, 2 * number, 0)).save(path)
    return tmp_path / "images"


def row(image: str, draw: Draw, status: str = "accepted") -> CaptionRow:
    return CaptionRow(
        image, "a caption", draw.style_id, draw.attempt, status, None if status == "accepted" else "short"
    )


# ---------------------------------------------------------------------------------------------------------------- shards


def test_shards_cover_the_list_once() -> None:
    assert [list(shard_range(shard, 4, 10)) for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@given(st.integers(1, 50), st.integers(1, 8))
def test_ranks_share_the_shards_without_overlap(num_shards: int, world_size: int) -> None:
    taken = [shard for rank in range(world_size) for shard in shards_of(rank, world_size, num_shards)]
    assert sorted(taken) == list(range(num_shards))
    assert list(shards_of(1, 3, 9)) == [1, 4, 7]


def test_a_range_of_shards() -> None:
    assert parse_shards("2:7") == (2, 7)
    assert list(shards_of(0, 2, 6, (2, 7))) == [2, 4] and list(shards_of(1, 2, 6, (2, 7))) == [3, 5]
    for wrong in ("7:2", "3:3", "3", "a:b", "-1:4", ":4"):
        with pytest.raises(UsageError, match="expected a:b"):
            parse_shards(wrong)


def test_default_shard_size() -> None:
    assert [default_shard_size(count) for count in (1, 1_000, 12_000, 256_000, 1_000_000)] == [
        16,
        16,
        47,
        1000,
        1000,
    ]


# ---------------------------------------------------------------------------------------------------------------- styles


def test_styles_of_an_image_are_distinct_then_begin_again() -> None:
    plan = StylePlan(tuple(range(6)), True, captions_per_image=2, max_redraws=4)
    sequence = plan.sequence("a/b.jpg")
    assert len(sequence) == 10 and sorted(sequence[:6]) == list(range(6)) and sequence[6:] == sequence[:4]
    assert plan.sequence("a/b.jpg") == sequence != plan.sequence("a/c.jpg")
    assert StylePlan(tuple(range(6)), True, 2, 4, seed=1).sequence("a/b.jpg") != sequence


def test_styles_are_uniform() -> None:
    plan = StylePlan(tuple(range(10)), True, captions_per_image=1, max_redraws=0)
    counts = [0] * 10
    for number in range(4000):
        counts[plan.sequence(f"{number}.jpg")[0]] += 1
    assert (
        sum((count - 400) ** 2 / 400 for count in counts) < 27.9
    )  # chi square, 9 degrees of freedom, p = 0.001


def test_a_rejected_caption_takes_the_next_style() -> None:
    plan = StylePlan((5, 6, 7, 8), False, captions_per_image=2, max_redraws=4)
    assert plan.replay("x", []) == ([], [Draw(5, 0), Draw(6, 0)])
    first = [row("x", Draw(5, 0), "rejected"), row("x", Draw(6, 0))]
    assert plan.replay("x", first)[1] == [Draw(7, 1)]
    second = [*first, row("x", Draw(7, 1), "rejected")]
    assert plan.replay("x", second)[1] == [Draw(8, 2)]
    third = [*second, row("x", Draw(8, 2), "rejected")]
    assert plan.replay("x", third)[1] == [Draw(5, 3)]  # wraps
    last = [*third, row("x", Draw(5, 3), "rejected"), row("x", Draw(6, 4), "rejected")]
    assert plan.replay("x", last) == (last, [])  # four redraws, then no more


def test_a_torn_round_is_completed_before_redraws() -> None:
    plan = StylePlan((5, 6, 7, 8), False, captions_per_image=2)
    assert plan.replay("x", [row("x", Draw(5, 0), "rejected")])[1] == [Draw(6, 0)]


def test_a_failed_image_is_done() -> None:
    failed = CaptionRow("x", "", None, 0, "failed", "missing: no such file")
    assert StylePlan((0, 1), True, 2).replay("x", [failed]) == ([failed], [])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 4), st.randoms())
def test_no_draw_repeats(num_styles: int, captions: int, redraws: int, random) -> None:
    plan = StylePlan(tuple(range(num_styles)), True, captions, redraws)
    rows: list[CaptionRow] = []
    while draws := plan.replay("x", random.sample(rows, len(rows)))[1]:
        rows += [row("x", draw, random.choice(["accepted", "rejected"])) for draw in draws]
    assert len({(one.style_id, one.attempt) for one in rows}) == len(rows) <= captions * (redraws + 1)
    assert (
        plan.replay("x", random.sample(rows, len(rows)))[0] == rows
    )  # the order drawn, however they are stored


def test_parse_styles() -> None:
    assert parse_styles("random", 3) == ((0, 1, 2), True, 2)
    assert parse_styles("all", 3) == ((0, 1, 2), False, 3)
    assert parse_styles("2,0", 3) == ((2, 0), False, 2)
    assert parse_styles("none", 3) == ((-1,), False, 1)
    assert parse_styles("2,0", 3, 1) == ((2, 0), False, 1)
    for text, message in (
        ("3", "styles 0 to 2"),
        ("-1", "styles 0 to 2"),
        ("1,1", "twice"),
        ("some", "expected random"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_styles(text, 3)
    with pytest.raises(UsageError, match="at least 1"):
        parse_styles("random", 3, 0)
    with pytest.raises(UsageError, match="--styles none"):
        parse_styles("random", 0)


# ----------------------------------------------------------------------------------------------------------- image lists


def test_image_lists_of_every_kind(root: Path, tmp_path: Path) -> None:
    expected = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    (root / "notes.md").write_text("no image")
    assert list(job_images(root)) == expected
    assert list(job_images(root, limit=3)) == expected[:3]
    lists = {
        "list.txt": "b.jpg\n\na.jpg\nb.jpg\n",
        "list.json": '["b.jpg", "a.jpg", "b.jpg"]',
        "annotation.json": '[{"file_path": "b.jpg", "id": 1}, {"img_path": "a.jpg"}]',
        "captions.json": '{"b.jpg": ["x"], "a.jpg": []}',
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert list(job_images(root, tmp_path / name)) == ["b.jpg", "a.jpg"], name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "record 0"),
        ("[{}]", "record 0"),
        ('"x"', "expected a list"),
        ("[]", "no images"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_image_lists(root: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        list(job_images(root, tmp_path / "list.json"))


def test_missing_lists_and_roots(root: Path, tmp_path: Path) -> None:
    for name in ("gone.txt", "gone.json"):
        with pytest.raises(UsageError, match="no such file"):
            list(job_images(root, tmp_path / name))
    with pytest.raises(UsageError, match="no such folder"):
        list(job_images(tmp_path / "gone"))


def test_file_names_that_are_not_utf8_are_refused(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(UsageError, match="not UTF-8"):
        list(job_images(root))


# ----------------------------------------------------------------------------------------------------------------- plans


def test_the_same_command_finds_its_plan(root: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", root)
    assert (len(plan.images), plan.num_shards, plan.shard_size) == (12, 3, 5)
    assert make_plan(tmp_path / "out", root).settings == plan.settings
    assert wait_for_plan(tmp_path / "out", SETTINGS, 5).images[3] == plan.images[3]


@pytest.mark.parametrize(
    "changed", ["seed", "captions_per_image", "fingerprint", "style_pool", "max_redraws"]
)
def test_a_changed_setting_is_refused_by_name(root: Path, tmp_path: Path, changed: str) -> None:
    make_plan(tmp_path / "out", root)
    with pytest.raises(UsageError, match=f"{changed} was .* now 9"):
        make_plan(tmp_path / "out", root, **{changed: 9})


def test_another_list_or_shard_size_is_refused(root: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", root)
    with pytest.raises(UsageError, match="shard_size was 5, now 6"):
        check_settings(plan, SETTINGS, 6)
    Image.new("RGB", (4, 8)).save(root / "new.png")
    with pytest.raises(UsageError, match="12 images then, 13 now"):
        make_plan(tmp_path / "out", root)
    (root / "new.png").rename(root / "2" / "00.png")
    (root / "2" / "02.png").unlink()
    with pytest.raises(UsageError, match="other paths or another order"):
        make_plan(tmp_path / "out", root)


def test_damaged_plans_are_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no such file"):
        load_plan(out)
    make_plan(out, root)
    (out / "images.packed").unlink()
    with pytest.raises(UsageError, match=r"images\.packed is missing"):
        load_plan(out)
    (out / "plan.json").write_text('{"version": 1}')
    with pytest.raises(UsageError, match="not a captioning plan"):
        load_plan(out)
    (out / "plan.json").unlink()
    (out / "00000.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"no plan\.json"):
        settle_plan(out, lambda: ["a"], SETTINGS, {})


def test_waiting_for_a_plan_ends(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="rank 0 wrote none"):
        wait_for_plan(tmp_path, SETTINGS, timeout_s=0.3)


# ---------------------------------------------------------------------------------------------------- claims and partials


def test_a_torn_line_is_cut_off(root: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", root)
    image = plan.images[0]
    first, second = plan.styles.replay(image, [])[1]
    whole = to_json_line(row(image, first))
    partial_file(plan.folder, 0).write_text(whole + to_json_line(row(image, second))[:-5])
    rows, end = read_partial(partial_file(plan.folder, 0))
    assert len(rows) == 1 and end == len(whole)
    opened = claim(plan, 0)
    assert opened.next_draws(image) == [second] and opened.resumed_rows == 1
    opened.add([(row(image, second), 7)])
    opened.close()
    assert [one for one, _ in read_partial(partial_file(plan.folder, 0))[0]] == [
        row(image, first),
        row(image, second),
    ]
    assert claim(plan, 0) is not None  # the lock is free again


def test_a_strange_partial_file_is_refused(root: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", root)
    partial_file(plan.folder, 0).write_text("nonsense\n")
    with pytest.raises(UsageError, match="line 1: not valid JSON"):
        claim(plan, 0)
    partial_file(plan.folder, 1).write_text(to_json_line(row("elsewhere.jpg", Draw(0, 0))))
    with pytest.raises(UsageError, match="not in shard 1"):
        claim(plan, 1)


def test_a_claimed_shard_is_left_to_its_writer(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, root)
    lock = FileLock(out / "locks" / "00001.lock")
    assert lock.try_acquire()
    other = start(out, root)  # locks are between processes
    other.join()
    assert other.exitcode == 0
    assert [rows_file(out, shard).exists() for shard in range(3)] == [True, False, True]
    lock.release()
    run_job(out, root)
    assert rows_file(out, 1).exists()


def test_finished_shards_are_sorted_and_receipted(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = run_job(out, root, engine=FakeEngine(batch_images=3))
    rows = read_rows(rows_file(out, 0))
    assert list(dict.fromkeys(one.image for one in rows)) == [plan.images[index] for index in range(5)]
    receipt = read_json(out / "00000.json")
    assert receipt["accepted"] == sum(one.status == "accepted" for one in rows) and receipt["images"] == 5
    assert (
        sum(receipt["reasons"].values())
        == receipt["rejected"]
        == sum(one.status == "rejected" for one in rows)
    )
    assert json.loads((out / "00000.jsonl").read_text().splitlines()[0])["attempt"] == 0
    assert claim(plan, 0) is None


def test_the_plan_is_pickled_by_path(root: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", root)
    assert isinstance(plan, Plan) and plan.images.__reduce__()[1] == (tmp_path / "out" / "images.packed",)
