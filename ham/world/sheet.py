"""The contact sheet: identities x cameras with the captions of several annotators."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ham.datasets import BENCHMARKS
from ham.records import read_jsonl
from ham.world.domains import DOMAINS, POOL
from ham.world.plan import WorldPlan
from ham.world.write import image_root_of

ROW_PX, PICTURE_PX, TEXT_PX, COLUMNS = 252, 84, 760, 4
PERSONS = 3  # of each domain
MARGIN = 8


def write_contact_sheet(out: Path, plan: WorldPlan) -> None:
    """Write `contact_sheet.png`: a row for each of some persons, up to four images of them and up to four captions."""
    rows = []
    for name in (*BENCHMARKS, POOL):
        captions: dict[str, list[tuple[str, str]]] = {}
        for row in read_jsonl(out / "truth" / f"{name}-captions.jsonl"):
            captions.setdefault(row["image_path"], []).append((row["annotator_id"], row["caption"]))
        shots: dict[int, list] = {}
        for shot in plan.shots:
            if shot.domain == name:
                shots.setdefault(shot.person.person_id, []).append(shot)
        everyone = list(shots)
        for person_id in everyone[:: max(1, len(everyone) // PERSONS)][:PERSONS]:
            rows.append((name, person_id, shots[person_id][:COLUMNS], captions))
    width = COLUMNS * (PICTURE_PX + MARGIN) + TEXT_PX + 3 * MARGIN
    sheet = Image.new("RGB", (width, len(rows) * (ROW_PX + MARGIN) + MARGIN), (250, 250, 248))
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    ink = ImageDraw.Draw(sheet)
    for place, (name, person_id, shots_of_person, captions) in enumerate(rows):
        top = MARGIN + place * (ROW_PX + MARGIN)
        for column, shot in enumerate(shots_of_person):
            with Image.open(image_root_of(out, name) / shot.image_path) as picture:
                sheet.paste(
                    picture.convert("RGB").resize((PICTURE_PX, ROW_PX), Image.Resampling.BICUBIC),
                    (MARGIN + column * (PICTURE_PX + MARGIN), top),
                )
        left = 2 * MARGIN + COLUMNS * (PICTURE_PX + MARGIN)
        cameras = ", ".join(str(shot.camera) for shot in shots_of_person)
        ink.text(
            (left, top),
            f"{name}, person {person_id}, cameras {cameras} (of {DOMAINS[name].cameras})",
            (120, 60, 20),
            font=small,
        )
        _write_captions(
            ink,
            (left, top + 20),
            [pair for shot in shots_of_person for pair in captions[shot.image_path]][:5],
            font,
            small,
        )
    sheet.save(out / "contact_sheet.png")


def _write_captions(
    ink: ImageDraw.ImageDraw, at: tuple[int, int], captions: list[tuple[str, str]], font, small
) -> None:
    x, y = at
    for annotator_id, caption in captions:
        lines = textwrap.wrap(caption, 100)[:4]
        if y + 17 * (len(lines) + 1) > at[1] - 20 + ROW_PX:
            return
        ink.text((x, y), annotator_id, (130, 130, 130), font=small)
        for line in lines:
            y += 17
            ink.text((x, y), line, (20, 20, 24), font=font)
        y += 23
