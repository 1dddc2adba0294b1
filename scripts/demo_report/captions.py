"""Measure the captions of a run against what was drawn, and describe one typical pedestrian in several styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ham.generation.diversity import measure
from ham.images import open_image
from ham.records import path_below, read_json, read_jsonl
from ham.runtime import UsageError, log, numpy_generator
from ham.world.attributes import agree
from ham.world.chances import worth_telling
from ham.world.parser import parse, score_content
from scripts.demo_report.folder import RunFolder

Attributes = dict[str, str]
SOURCES = {
    "static": "captions_static/captions.json",
    "template": "captions_template/captions.json",
    "HAM": "captions/captions.json",
}
STYLES, CANDIDATES, TOKENS = 8, 12, 120


def drawn_attributes(run: RunFolder) -> dict[str, Attributes]:
    """Read what was drawn on each image of the pool."""
    truth = run.folder / "world" / "truth" / "SYNTH-PEDES-images.jsonl"
    return {row["image_path"]: row["attributes"] for row in read_jsonl(truth)}


def compare_sources(
    run: RunFolder, drawn: dict[str, Attributes], most: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Measure equally many captions of each source: {source: diversity measures, precision, recall and f1 in percent}."""
    pairs = {
        name: read_captions(run.folder / file, drawn)
        for name, file in SOURCES.items()
        if (run.folder / file).is_file()
    }
    human = read_jsonl(run.folder / "world" / "truth" / "SYNTH-PEDES-captions.jsonl")
    pairs["humans"] = [(row["image_path"], row["caption"]) for row in human]
    too_few = {name: len(found) for name, found in pairs.items() if len(found) < 2}
    if too_few:
        raise UsageError(
            f"{run.folder}: too few captions to compare: {too_few}; expected at least 2 of each source"
        )
    count = min(most, *map(len, pairs.values()))
    log.info("measuring %d captions of each of %s", count, ", ".join(pairs))
    results = {}
    for name, found in pairs.items():
        rows = sorted(numpy_generator(seed, "report", name).permutation(len(found))[:count].tolist())
        captions = [found[row][1] for row in rows]
        truths = [drawn[found[row][0]] for row in rows]
        content = {key: 100 * share for key, share in score_content(captions, truths).items()}
        results[name] = {**measure(captions, seed), **content}
    return results


def read_captions(file: Path, drawn: dict[str, Attributes]) -> list[tuple[str, str]]:
    """Read {image: [caption, ...]} as pairs. Raises UsageError for an image that the pool does not hold."""
    found = read_json(file)
    unknown = next((image for image in found if image not in drawn), None)
    if unknown is not None:
        raise UsageError(
            f"{file}: image '{unknown}' is not in the world's pool; captions and world must be of one run"
        )
    return [(image, caption) for image, captions in found.items() for caption in captions]


def typical_pedestrian(run: RunFolder, drawn: dict[str, Attributes], seed: int) -> dict[str, Any]:
    """Describe one image in eight random styles, each beside a human caption of that style.

    Of twelve images drawn at random, the one whose share of true claims is nearest to the mean of the twelve is shown.
    """
    from ham.captioner.checkpoint import load_captioner
    from ham.captioner.decode import generate

    human: dict[int, list[str]] = {}
    for row in read_jsonl(run.folder / "styles" / "assignments.jsonl"):
        for style_id in row["style_ids"]:
            human.setdefault(style_id, []).append(row["caption"])
    rng = numpy_generator(seed, "report", "pedestrian")
    names = [sorted(drawn)[index] for index in rng.permutation(len(drawn))[:CANDIDATES]]
    style_ids = sorted(rng.permutation(sorted(human))[:STYLES].tolist())
    paths = [path_below(run.folder / "world" / "SYNTH-PEDES", name) for name in names]
    captions = generate(
        load_captioner(run.folder / "captioner"),
        [open_image(path) for path in paths],
        [style_ids] * len(names),
        run.plan["settings"]["prompt"],
        max_new_tokens=TOKENS,
    )
    described = [
        [
            {"style_id": style_id, **check_claims(caption, drawn[name])}
            for style_id, caption in zip(style_ids, own)
        ]
        for name, own in zip(names, captions)
    ]
    shares = [share_right(voices) for voices in described]
    mean = sum(shares) / len(shares)
    typical = min(range(len(names)), key=lambda index: abs(shares[index] - mean))
    for voice in described[typical]:
        own = human[voice["style_id"]]
        voice["human"] = own[rng.integers(len(own))]
    return {
        "image": paths[typical],
        "drawn": in_words(drawn[names[typical]]),
        "voices": described[typical],
        "candidates": len(names),
    }


def share_right(voices: list[dict[str, Any]]) -> float:
    """Return the share of right claims of several captions, percent; 0 without claims."""
    claims = sum(voice["claims"] for voice in voices)
    wrong = sum(len(voice["wrong"]) for voice in voices)
    return 100 * (claims - wrong) / max(claims, 1)


def check_claims(caption: str, truth: Attributes) -> dict[str, Any]:
    """Compare the claims of a caption with what was drawn."""
    said = parse(caption)
    wrong = [
        attribute_in_words(field, value)
        for field, value in said.items()
        if field not in truth or not agree(field, value, truth[field])
    ]
    return {"caption": caption, "claims": len(said), "wrong": wrong}


def in_words(truth: Attributes) -> str:
    """Return what was drawn in words, colors before garments."""
    colors = {
        name.removesuffix("_colour"): value for name, value in truth.items() if name.endswith("_colour")
    }
    words = []
    for name, value in worth_telling(truth).items():
        if name == "hair_length" and value in ("short", "shoulder", "long"):
            words.append(f"{value} {colors.get('hair', '')} hair")
        elif not name.endswith("_colour"):
            color = "" if name == "lower_length" else colors.get(name.removesuffix("_length"), "")
            words.append(f"{color} {attribute_in_words(name, value)}".strip())
    return ", ".join(words)


def attribute_in_words(field: str, value: str) -> str:
    """Return one attribute in words: "navy shoes", "short hair", "knee-length", "no bag", "from the back"."""
    part = field.split("_")[0]
    part = {"upper": "upper garment", "lower": "lower garment"}.get(part, part)
    if value == "none":
        return f"no {part}"
    if field == "lower_length":
        return f"{value}-length"
    if field.endswith(("_colour", "_length")) and value not in ("bald", "ponytail"):
        return f"{value} {part}"
    if field == "sleeve":
        return value if value == "sleeveless" else f"{value} sleeves"
    return f"from the {value}" if field == "view" else value


def matches_query(query: str, truth: Attributes) -> bool | None:
    """Return whether every claim of a query holds for what was drawn; None when the parser finds no claim in it."""
    claims = check_claims(query, truth)
    return None if not claims["claims"] else not claims["wrong"]
