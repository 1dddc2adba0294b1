"""Measure a captioner on the synthetic dataset, where what was drawn and who wrote are known.

    python -m scripts.world.judge_captioner --checkpoint ham/world/weights/llava --world runs/world
    python -m scripts.world.judge_captioner --checkpoint checkpoints/ham --world runs/world --styles runs/styles

Without --styles: the plain captions of unseen persons, and captions with a hint of a manner in the instruction. With --styles:
captions in the learned styles: are they true, and is their manner that of the style's cluster?
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from ham.captioner.checkpoint import load_captioner
from ham.captioner.decode import generate
from ham.captioner.model import Captioner
from ham.datasets import image_root
from ham.llava.preprocess import open_image
from ham.records import path_below, read_jsonl, write_json
from ham.runtime import exit_code_of, numpy_generator, set_up_logging
from ham.world.parser import score_content
from ham.world.syntax import syntax_of
from scripts.world.foundation import read_pictures
from scripts.world.llava import INSTRUCTION


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument(
        "--styles", type=Path, help="folder of build_styles.py that the checkpoint was tuned on"
    )
    parser.add_argument("--images", type=int, default=200, help="pictures looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    set_up_logging()
    captioner = load_captioner(options.checkpoint)
    figures = judge_styles(captioner, options) if options.styles else judge_base(captioner, options)
    print(json.dumps(figures, indent=1))
    if options.out:
        write_json(options.out, figures)


def judge_base(captioner: Captioner, options: argparse.Namespace) -> dict[str, object]:
    """Return plain captions of the foundation's held-out persons; then one hinted caption each."""
    pictures = [picture for picture in read_pictures(options.world) if picture.held_out][: options.images]
    images = [open_image(picture.path) for picture in pictures]
    truths = [picture.attributes for picture in pictures]
    plain = [
        row[0] for row in generate(captioner, images, [[-1]] * len(images), INSTRUCTION, max_new_tokens=120)
    ]
    hinted, wanted = [], []
    for image, picture in list(zip(images, pictures))[: options.images // 2]:
        hint, _, manner = picture.hinted[0]
        hinted.append(generate(captioner, [image], [[-1]], f"{INSTRUCTION} {hint}", max_new_tokens=120)[0][0])
        wanted.append(manner["syntax"])
    return {
        "plain": score_content(plain, truths),
        "plain_is_plain": mean(syntax_of(caption) == "plain" for caption in plain),
        "hinted": score_content(hinted, truths[: len(hinted)]),
        "hinted_syntax_right": mean(syntax_of(caption) == syntax for caption, syntax in zip(hinted, wanted)),
        "examples": list(zip(plain[:4], hinted[:4])),
    }


def judge_styles(captioner: Captioner, options: argparse.Namespace) -> dict[str, object]:
    """Return captions of pool images, each in two styles, against the human captions that the styles were learned from."""
    written: dict[int, list[str]] = {}
    for row in read_jsonl(options.styles / "assignments.jsonl"):
        for style in row["style_ids"]:
            written.setdefault(style, []).append(row["caption"])
    truth = list(read_jsonl(options.world / "truth" / "SYNTH-PEDES-images.jsonl"))
    rng = numpy_generator(options.seed, "judge", "styles")
    chosen = [
        truth[index] for index in rng.choice(len(truth), size=min(options.images, len(truth)), replace=False)
    ]
    root = image_root(options.world, "SYNTH-PEDES")
    images: list[Image.Image] = [open_image(path_below(root, row["image_path"])) for row in chosen]
    styles = [rng.choice(captioner.num_styles, size=2, replace=False).tolist() for _ in images]
    prompt = captioner.manifest.get("prompt", INSTRUCTION)
    captions = [
        caption for row in generate(captioner, images, styles, prompt, max_new_tokens=120) for caption in row
    ]
    asked = [style for row in styles for style in row]
    usual = {style: Counter(map(syntax_of, texts)).most_common(1)[0] for style, texts in written.items()}
    pure = {style for style, (_, count) in usual.items() if count >= 0.5 * len(written[style])}
    return {
        "styles": captioner.num_styles,
        "content": score_content(captions, [row["attributes"] for row in chosen for _ in range(2)]),
        "syntax_is_the_styles": mean(
            syntax_of(caption) == usual[style][0] for caption, style in zip(captions, asked)
        ),
        "syntax_is_the_styles_where_it_has_one": mean(
            syntax_of(caption) == usual[style][0] for caption, style in zip(captions, asked) if style in pure
        ),
        "styles_with_one_syntax": len(pure),
        **nearest_centroid(captions, asked, written),
        "distinct_captions": len(set(captions)) / len(captions),
        "examples": [
            {"style": style, "caption": caption, "a human of the style": written[style][0]}
            for caption, style in list(zip(captions, asked))[:8]
        ],
    }


def nearest_centroid(
    captions: list[str], asked: list[int], written: dict[int, list[str]]
) -> dict[str, float]:
    """Return each caption's style from its text alone: the nearest of the styles' mean vectors (TF-IDF of words and pairs)."""
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", lowercase=False, sublinear_tf=True, min_df=3
    )
    vectorizer.fit(text for texts in written.values() for text in texts)
    names = sorted(written)
    centres = np.stack([np.asarray(vectorizer.transform(written[name]).mean(axis=0))[0] for name in names])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    order = np.argsort(-(vectorizer.transform(captions) @ centres.T), axis=1)
    place = [int(np.flatnonzero(np.array(names)[row] == style)[0]) for row, style in zip(order, asked)]
    return {
        "style_found": mean(rank == 0 for rank in place),
        "style_in_top_5": mean(rank < 5 for rank in place),
        "chance": 1 / len(names),
    }


def mean(values: object) -> float:
    return float(np.mean(list(values)))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
