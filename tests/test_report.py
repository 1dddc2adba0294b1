"""The report, on a run made by hand: sections and figures are there, data is escaped, gaps are named, nothing overflows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ham.records import CaptionRow, read_json, write_json, write_jsonl
from ham.report.samples import write_samples
from ham.report.style_map import write_page
from ham.runtime import UsageError, exit_code_of, log
from scripts.demo_report import __main__ as program
from scripts.demo_report import captions
from scripts.demo_report import experiment as committed
from scripts.demo_report.folder import NEEDED, read_run

TOP = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--virtual-time-budget=5000",
]
DATASETS = ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid")
HOSTILE = 'A man in <script>alert(1)</script> & "red" ' + "verylongword" * 20
ATTRIBUTES = {
    "gender": "man",
    "hair_length": "short",
    "hair_colour": "black",
    "upper": "jacket",
    "upper_colour": "red",
    "lower": "jeans",
    "lower_colour": "blue",
    "bag": "none",
    "view": "front",
}
SECTIONS = (
    "five-stages",
    "the-synthetic-dataset",
    "the-styles",
    "one-pedestrian-in-several-styles",
    "diversity-of-the-captions",
    "correctness-of-the-captions",
    "training",
    "direct-transfer",
    "the-experiment",
    "fine-tuning",
    "queries-and-results",
    "search",
    "machine-versions-seeds-times",
)


def scores(dataset: str, r1: float, **more) -> dict:
    return {
        "dataset": dataset,
        "split": "test",
        "direction": "text-to-image",
        "R1": r1,
        "R5": r1 + 1,
        "R10": r1 + 2,
        "mAP": r1 / 2,
        "mINP": r1 / 4,
        "queries": 20,
        "gallery": 10,
        "unmatched": 0,
        "failed_images": 0,
        **more,
    }


def make_training(folder: Path, datasets: tuple[str, ...], losses: tuple[str, ...], final: float) -> None:
    steps = [
        {
            "event": "step",
            "step": step,
            "epoch": 1 + step // 3,
            "time_s": step,
            **dict.fromkeys(losses, 3 / step),
        }
        for step in range(1, 7)
    ]
    evals = [
        {
            "event": "eval",
            "step": step,
            "epoch": epoch,
            "time_s": step + 1,
            **scores(name, final - 5 * (2 - epoch)),
        }
        for epoch, step in ((1, 3), (2, 6))
        for name in datasets
    ]
    write_jsonl(folder / "metrics.jsonl", steps + evals)
    (folder / "config.yaml").write_text("# git revision abc123\nepochs: 2\nseed: 7\n")
    write_json(folder / "val-best" / "results.json", {"step": 3, "epoch": 1, "rows": []})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run of four pedestrians and two styles, written by hand."""
    folder = tmp_path / "run"
    counts = {
        name: {"train": {"persons": 2, "images": 4, "captions": 8}} for name in (*DATASETS, "SYNTH-PEDES")
    }
    write_json(folder / "world" / "world.json", {"preset": "nano", "seed": 3, "counts": counts})
    for name in (*DATASETS, "SYNTH-PEDES"):
        images = [f"{at}.jpg" for at in range(4)]
        root = folder / "world" / name / ("" if name == "SYNTH-PEDES" else "imgs")
        root.mkdir(parents=True)
        for at, image in enumerate(images):
            Image.new("RGB", (40, 100), (60 * at, 90, 160)).save(root / image)
        write_jsonl(
            folder / "world" / "truth" / f"{name}-images.jsonl",
            ({"image_path": image, "attributes": ATTRIBUTES} for image in images),
        )
        write_jsonl(
            folder / "world" / "truth" / f"{name}-captions.jsonl",
            (
                {
                    "image_path": image,
                    "caption": f"A man with short black hair, a red jacket and blue jeans, {image}",
                }
                for image in images
            ),
        )
    write_json(
        folder / "styles" / "styles.json",
        {
            "datasets": ["CUHK-PEDES"],
            "schemes": {"kmeans": [0, 1], "ups": [1, 2]},
            "seed": 4,
            "git_revision": "abc123",
            "counts": {"captions": 1234, "styles": 2, "records": 1300, "captions_without_style": 0},
        },
    )
    write_jsonl(folder / "styles" / "metrics.jsonl", [{"stage": "clusters", "seconds": 5.0}])
    write_jsonl(
        folder / "styles" / "assignments.jsonl",
        ({"image": "a", "caption": HOSTILE, "style_ids": [at]} for at in (0, 1)),
    )
    write_json(
        folder / "captioner" / "training.json",
        {"num_styles": 2, "git_revision": "abc123", "training": {"seed": 5}},
    )
    write_json(folder / "captioner" / "manifest.json", {})
    write_jsonl(
        folder / "captioner" / "metrics.jsonl",
        [
            {"step": 1, "loss": 2.5, "time_s": 9},
            {"step": 2, "loss": 1.25, "time_s": 4},
            {"step": 2, "train_loss": 1.8, "time_s": 5},
        ],
    )
    write_json(
        folder / "captions" / "plan.json",
        {
            "settings": {"captions_per_image": 2, "prompt": "Describe <it>.", "seed": 6},
            "info": {"git_revision": "abc123"},
        },
    )
    write_json(
        folder / "captions" / "summary.json",
        {"complete": True, "images": 4, "captions_accepted": 8, "acceptance_pct": 97.5},
    )
    write_json(folder / "captions" / "00000.json", {"seconds": 3.5})
    write_json(
        folder / "captions" / "captions.json",
        {
            f"{at}.jpg": ["A man in a green jacket and blue jeans", f"He has red shoes {at}"]
            for at in range(4)
        },
    )
    write_json(
        folder / "transfer_start" / "evaluation.json", {"results": [scores(name, 10.0) for name in DATASETS]}
    )
    write_json(
        folder / "transfer" / "evaluation.json",
        {
            "git_revision": "abc123",
            "results": [scores(name, r1) for name, r1 in zip(DATASETS, (33.33, 20.0, 30.0))],
        },
    )
    make_training(folder / "pretrain", DATASETS, ("sdm_loss",), 33.0)
    make_training(folder / "finetune_irra", DATASETS[:1], ("sdm_loss", "id_loss", "mlm_loss"), 41.5)
    make_training(folder / "finetune_rde", DATASETS[:1], ("bge_loss", "tse_loss"), 44.25)
    make_training(folder / "finetune_clip", DATASETS[:1], ("sdm_loss", "id_loss", "mlm_loss"), 30.0)
    return folder


@pytest.fixture
def script(run: Path, monkeypatch: pytest.MonkeyPatch):
    """The report program with its models replaced by fixed results."""
    for name, value in (("handlers", []), ("propagate", log.propagate), ("level", log.level)):
        monkeypatch.setattr(log, name, value)
    rng = np.random.default_rng(0)
    sizes = {"kmeans": np.array([700]), "ups": np.array([20])}
    view = SimpleNamespace(
        facts={},
        points=rng.normal(size=(50, 2)),
        centres={"kmeans": np.zeros((1, 2)), "ups": np.full((1, 2), 9.0)},
        outside={"kmeans": 0, "ups": 1},
        sizes=sizes,
        times_covered={name: np.ones(50, int) for name in sizes},
        examples=[],
        explained_pct=41.0,
    )
    images = [str(run / "world" / "CUHK-PEDES" / "imgs" / f"{at % 4}.jpg") for at in range(9)] + [
        "/nowhere.jpg"
    ]
    hits = [{"image": image, "score": 0.5 - at / 10, "right": at == 1} for at, image in enumerate(images)]
    monkeypatch.setattr(program, "read_styles", lambda folder: view)
    monkeypatch.setattr(
        program,
        "rank_queries",
        lambda run, seed: [{"query": HOSTILE, "query_image": images[0], "hits": hits}],
    )
    monkeypatch.setattr(
        program,
        "search_world",
        lambda run, query: {
            "row": {"query": query, "hits": [{**hit, "right": None} for hit in hits]},
            "images": 67,
            "matching": 3,
        },
    )
    monkeypatch.setattr("ham.captioner.checkpoint.load_captioner", lambda path: None)
    monkeypatch.setattr(
        "ham.captioner.decode.generate",
        lambda captioner, images, styles, prompt, max_new_tokens: [
            ["A man in a green jacket.", HOSTILE][: len(styles[0])] for _ in images
        ],
    )
    return program


def make_page(script, run: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> str:
    out = run.parent / "page.html"
    monkeypatch.setattr(sys, "argv", ["report.py", "--run", str(run), "--out", str(out), *more])
    assert exit_code_of(script.main) == 0
    return out.read_text()


class Outline(HTMLParser):
    """Check that tags close in order; collect section ids, scripts, and images without words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_page_is_whole_and_self_contained(script, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page(script, run, monkeypatch)
    outline = Outline(page)
    assert tuple(outline.sections) == SECTIONS and not outline.open
    tags = [tag for tag, _ in outline.found]
    assert not {"script", "link", "iframe"} & set(tags) and page.count("data:image/png;base64,") == 9
    assert all(
        facts["alt"] and facts["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
        for tag, facts in outline.found
        if tag == "img"
    )
    assert (
        re.findall(r"https?://[^\"<]+", page) == ["https://arxiv.org/abs/2503.09962"] and "url(" not in page
    )
    assert {facts["href"] for tag, facts in outline.found if tag == "a"} == {
        "https://arxiv.org/abs/2503.09962",
        *(f"#{name}" for name in SECTIONS),
    }


def test_figures_of_the_run_are_on_the_page(script, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page(script, run, monkeypatch)
    assert "10.0 → 27.8" in page and "from 10.0 to 27.8" in page  # mean of 33.33, 20 and 30
    assert "<b>1,234</b> human captions" in page and "97.5 % pass the filters" in page
    assert "mean loss of the first and last tenth of the steps: 2.50, 1.25" in page
    assert '<tr class="strong"><td>pretrained</td><td class="n">33.33</td>' in page
    assert (
        '<tr class="pale"><td>CLIP</td><td class="n">10.00</td>' in page
    )  # direct transfer before pretraining
    assert '<td>HAM: pretrained</td><td class="n">33.33</td>' in page
    last, chosen = page.split("the epoch that is best on val")
    for label, r1 in (("CLIP + IRRA", 30.0), ("HAM + IRRA", 41.5), ("HAM + RDE", 44.25)):
        assert f'<td>{label}</td><td class="n">{r1:.2f}</td>' in last
        assert f'<td>{label}</td><td class="n">{r1 - 5:.2f}</td>' in chosen
    assert "+8.2 points of Rank-1 over direct transfer, +11.5 over IRRA from CLIP" in page
    # 5 of 7 claims; green and shoes are wrong
    assert "71.4 % of the claims are true, and they mention 31.2 % of what is worth mentioning" in page
    assert page.count('<li class="right">') == 1 and page.count('<li class="wrong">') == 9
    assert page.count("no picture: missing") == 2
    assert "of 3 claims right</span>; wrong: green upper garment" in page
    assert (
        "preset nano, seed 3" in page
        and "abc123" in page
        and "7 (pretraining, CLIP + IRRA, HAM + IRRA, HAM + RDE)" in page
    )
    assert "No static captions in this run" in page and "No template captions in this run" in page


def test_the_typical_pedestrian_is_nearest_to_the_mean(
    script, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images have all claims right or all wrong; the fourth has half of them right and is shown."""
    right, wrong = "A man in a red jacket.", "A woman in a green jacket."
    answers = [[right, right], [wrong, wrong], [right, wrong], [right, right]]
    monkeypatch.setattr(
        "ham.captioner.decode.generate", lambda captioner, images, *_, **__: answers[: len(images)]
    )
    portrait = captions.typical_pedestrian(read_run(run), captions.drawn_attributes(read_run(run)), seed=0)
    shares = [
        captions.share_right([captions.check_claims(text, ATTRIBUTES) for text in own]) for own in answers
    ]
    mean = sum(shares) / 4
    assert abs(captions.share_right(portrait["voices"]) - mean) == min(abs(share - mean) for share in shares)
    assert portrait["voices"][0]["caption"] == right and portrait["voices"][1]["caption"] == wrong


def test_a_search_is_judged_by_what_was_drawn() -> None:
    assert captions.matches_query("a man in a red jacket", ATTRIBUTES) is True
    assert captions.matches_query("a woman in a red jacket", ATTRIBUTES) is False
    assert captions.matches_query("qqq", ATTRIBUTES) is None


def test_data_is_escaped(script, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page(script, run, monkeypatch, "--query", "<img src=x onerror=alert(1)>")
    assert (
        "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;red&#34;") >= 3
    )
    assert (
        "<img src=x" not in page
        and "&lt;img src=x onerror=alert(1)&gt;" in page
        and "“Describe &lt;it&gt;”." in page
    )


def test_optional_parts_are_shown(script, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {f"{at}.jpg": ["A man in a red jacket"] for at in range(4)}
    write_json(run / "captions_static" / "captions.json", same)
    write_json(run / "captions_template" / "captions.json", same)
    write_jsonl(
        run / "steps.jsonl",
        [
            {"step": "1. Styles", "seconds": 61},
            {"step": "Search", "seconds": 2},
            {"step": "1. Styles", "seconds": 2.4},
        ],
    )
    write_json(run / "ablation.json", experiment())
    page = make_page(script, run, monkeypatch, "--ablation", str(run / "ablation.json"))
    assert "captions in this run" not in page
    assert "1 min 3 s" in page and "1 min 5 s" in page and "for the whole run, without this page" in page
    assert (
        '<tr class="strong"><td>KMeans &amp; UPS</td><td class="n">15.0 ± 5.0</td><td class="n">5.0 ± 1.0</td>'
        in page
    )
    assert "HAM minus static in the experiment: +7.0 ± 0.5 points of Rank-1, higher in 2 of 2 seeds" in page


def test_the_deciding_comparison_shows_variety_truth_and_rank_side_by_side(
    script, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Static, template and styled captions: the experiment's figure, then this run's; a dash where there is none."""
    same = {f"{at}.jpg": ["A man in a red jacket"] for at in range(4)}
    write_json(run / "captions_static" / "captions.json", same)
    write_json(run / "ablation.json", experiment())
    page = make_page(script, run, monkeypatch, "--ablation", str(run / "ablation.json"))
    cells = {
        label: re.findall(
            r"<td class=\"n\">(.*?)<br><small>(.*?)</small></td>",
            re.search(rf"<td>{label}.*?</tr>", page, re.DOTALL)[0],
        )
        for label in ("static: one instruction", "template: textual hints", "HAM: learned styles")
    }
    assert cells["static: one instruction"] == [("89", "100"), ("90", "100"), ("24.1", "–")]
    assert cells["template: textual hints"] == [("61", "–"), ("88", "–"), ("32.0", "–")]
    assert cells["HAM: learned styles"][1:] == [
        ("85", "71"),
        ("15.0 ± 5.0", "27.8"),
    ]  # 5 of 7 claims are right
    assert cells["HAM: learned styles"][0][0] == "60"
    after = page.split("then fine-tuned")[1]
    assert '<td>KMeans &amp; UPS</td><td class="n">50.0</td>' in after


def experiment() -> dict:
    """A small ablation.json of scripts/ablation.py."""

    def one_seed(r1: float, self_bleu: float, precision: float) -> dict:
        captions = {"self_bleu": self_bleu, "precision": precision}
        return {"0": {"human": {"R1": r1, "mAP": r1 / 2}, "captions": captions}}

    captions = {"self_bleu": 60.0, "precision": 0.85}
    seeds = {"0": {"human": {"R1": 10.0, "mAP": 4.0}, "captions": captions}}
    seeds["1"] = {"human": {"R1": 20.0, "mAP": 6.0}, "captions": captions}
    difference = {"mean": 7.0, "error": 0.5, "count": 2, "positive": 2}
    return {
        "rows": {
            "none": {"label": "none", "seeds": {"0": {"human": {"R1": 9.0, "mAP": 4.0}, "captions": None}}},
            "static": {"label": "static", "seeds": one_seed(24.1, 89, 0.9)},
            "templates": {"label": "templates", "seeds": one_seed(32.0, 61, 0.88)},
            "both": {"label": "KMeans & UPS", "is_control": False, "seeds": seeds},
        },
        "finetune": {"both": {"label": "KMeans & UPS", "seeds": {"0": {"human": {"R1": 50.0, "mAP": 40.0}}}}},
        "differences": [{"row": "both", "minus": "static", "human R1": difference}],
        "git_revision": "abc123",
        "ended": "2026-11-26 13:47",
        "command": "python scripts/ablation.py",
    }


def test_the_committed_experiment_is_shown_without_an_option(
    script, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = committed.read_experiment()
    assert {row["label"] for row in found["rows"]} >= {"static, untuned, greedy", "KMeans + UPS"}
    assert found["difference"]["mean"] > 0
    assert "HAM minus static in the experiment" in make_page(script, run, monkeypatch)
    monkeypatch.setattr(committed, "EXPERIMENT", run / "none.json")
    assert "the-experiment" not in make_page(script, run, monkeypatch)


@pytest.mark.parametrize("file", NEEDED)
def test_a_missing_stage_is_named(run: Path, file: str) -> None:
    (run / file).unlink()
    with pytest.raises(UsageError) as error:
        read_run(run)
    assert f"stage {NEEDED[file]}: no {file}" in str(error.value)
    assert f"`RUN={run} bash scripts/demo.sh` makes what is missing" in str(error.value)


def test_unfinished_stages_and_strange_files_are_named(
    script, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", "--run", str(tmp_path / "none")])
    assert exit_code_of(script.main) == 2 and "no such folder" in capsys.readouterr().err
    write_json(run / "captions_static" / "captions.json", {"elsewhere.jpg": ["x"]})
    monkeypatch.setattr(sys, "argv", ["report.py", "--run", str(run)])
    assert (
        exit_code_of(script.main) == 2
        and "'elsewhere.jpg' is not in the world's pool" in capsys.readouterr().err
    )
    for strange in ([], {"rows": []}, {"rows": {"both": {"label": "x"}}}):
        write_json(run / "metrics.json", strange)
        with pytest.raises(UsageError, match=r"not an ablation\.json"):
            script.read_experiment(run / "metrics.json")
    summary = read_json(run / "captions" / "summary.json")
    write_json(run / "captions" / "summary.json", {**summary, "complete": False, "images_merged": 1})
    with pytest.raises(UsageError, match="1 of 4 images are captioned; `RUN="):
        read_run(run)
    write_json(run / "captions" / "summary.json", summary)
    (run / "pretrain" / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="not finished"):
        read_run(run)


# -------------------------------------------------------------------------------------------------------------- the browser


NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"
)


def layout_of(page: Path, width: int) -> dict:
    """Return what a browser of `width` pixels lays out: scroll width, elements beyond the edge, broken images, sections."""
    wrapper = page.with_name("wrapper.html")
    wrapper.write_text(f"""<iframe id="page" src="{page.name}" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="said"></pre><script>onload = () => {{
  const page = document.getElementById("page").contentDocument;
  const beyond = [...page.querySelectorAll("body *")].filter(one => !one.closest(".wide") &&
    (one.getBoundingClientRect().right > {width} + 0.5 || one.getBoundingClientRect().left < -0.5));
  document.getElementById("said").textContent = JSON.stringify({{
    scroll: page.documentElement.scrollWidth, beyond: beyond.map(one => one.tagName + "." + one.className),
    broken: [...page.images].filter(one => !one.naturalWidth).length, images: page.images.length,
    hidden: [...page.querySelectorAll("section, table, .bars")].filter(
      one => one.getBoundingClientRect().height < 20).length,
    sections: page.querySelectorAll("section").length}});
}}</script>""")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, profile, "--window-size=1400,1000", "--dump-dom", wrapper.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="said">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1])


@NEEDS_BROWSER
@pytest.mark.parametrize("width", [1280, 400, 320])
def test_nothing_overflows_in_a_browser(
    script, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    make_page(script, run, monkeypatch)
    seen = layout_of(tmp_path / "page.html", width)
    assert seen["scroll"] <= width and seen["beyond"] == [] and seen["hidden"] == 0
    assert seen["broken"] == 0 and seen["images"] >= 20 and seen["sections"] == len(SECTIONS)


@NEEDS_BROWSER
@pytest.mark.parametrize("width", [1280, 400])
def test_sample_and_style_pages_fit_a_phone(script, run: Path, tmp_path: Path, width: int) -> None:
    root = run / "world" / "SYNTH-PEDES"
    rows = [
        CaptionRow("0.jpg", HOSTILE, 3, 0, "accepted", None),
        CaptionRow("0.jpg", "x", 4, 1, "rejected", "short"),
    ]
    lost = [CaptionRow("a" * 200 + ".jpg", "", None, 0, "failed", "missing: " + "y" * 200)]
    write_samples(
        tmp_path / "samples.html", {"0.jpg": rows, lost[0].image: lost}, root, 2, "prompt: " + HOSTILE
    )
    view = script.read_styles(run)
    view.facts = {
        "counts": {"styles": 2, "captions": 1234, "records": 1300},
        "neutralizer": {"method": "lexicon"},
        "encoder": {"encoder": "chars"},
        "clusters": {"distance": "l2", "standardize": True},
        "K1": 1,
        "K2": 1,
        "beta": 7.0,
        "Q": 20,
        "seed": 0,
    }
    view.examples = [("kmeans", 0, 700, [HOSTILE] * 3), ("ups", 1, 20, ["short"])]
    write_page(tmp_path / "inspect.html", view)
    for name, images in (("samples.html", 1), ("inspect.html", 2)):
        seen = layout_of(tmp_path / name, width)
        assert seen["scroll"] <= width and seen["beyond"] == [], name
        assert seen["broken"] == 0 and seen["images"] == images and seen["hidden"] == 0, name
