"""The picture: its frames have the right colours, text stays in its column, and a lost image costs a box, not the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from ham.report import fonts, gallery
from ham.report.fonts import load_font, showable
from ham.report.gallery import draw_gallery, wrap
from ham.runtime import UsageError

BLUE = (10, 20, 250)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (20, 50), BLUE).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def row(image: str, rights: list[bool | None], query: str = "a man in blue", **more) -> dict:
    return {
        "query": query,
        "hits": [{"image": image, "score": 0.5, "right": right} for right in rights],
        **more,
    }


def corner_of(sheet: Image.Image, places: int, place: int, number: int = 0) -> tuple[int, int]:
    """Top left of a hit's frame, counted from the right edge, which does not move with the caption column."""
    cell = gallery.THUMB_PX[0] + 2 * gallery.FRAME_PX + gallery.GAP_PX
    line = gallery.THUMB_PX[1] + 2 * gallery.FRAME_PX + gallery.SMALL_FONT_PX + 2 * gallery.GAP_PX
    return sheet.width - gallery.GAP_PX - (places - place) * cell, 2 * gallery.GAP_PX + number * line


@pytest.mark.parametrize("with_image", [False, True])
def test_frames_tell_right_from_wrong_from_unjudged(picture: str, tmp_path: Path, with_image: bool) -> None:
    rights = [True, False, None]
    more = {"query_image": picture} if with_image else {}
    path = draw_gallery(
        [row(picture, rights, **more), row(picture, rights[::-1], **more)], tmp_path / "out" / "g.png"
    )
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        for number, order in enumerate((rights, rights[::-1])):
            for place, right in enumerate(order):
                x, y = corner_of(sheet, 3, place, number)
                assert sheet.getpixel((x + 2, y + 2)) == ImageColor.getrgb(gallery.COLORS[right])
                assert sheet.getpixel((x + gallery.THUMB_PX[0] // 2, y + gallery.THUMB_PX[1] // 2)) == BLUE
                assert sheet.getpixel((x - 2, y + 2)) == (255, 255, 255)


def test_missing_and_broken_images_become_grey_boxes_with_words(picture: str, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    lost = row(picture, [False] * 3)
    lost["hits"][1]["image"], lost["hits"][2]["image"] = (
        str(tmp_path / "torn.jpg"),
        str(tmp_path / "nowhere.jpg"),
    )
    with Image.open(draw_gallery([lost], tmp_path / "g.png")) as sheet:
        for place in (1, 2):
            x, y = corner_of(sheet, 3, place)
            box = sheet.crop(
                (
                    x + gallery.FRAME_PX,
                    y + gallery.FRAME_PX,
                    x + gallery.FRAME_PX + gallery.THUMB_PX[0],
                    y + gallery.FRAME_PX + gallery.THUMB_PX[1],
                )
            )
            colours = {colour: count for count, colour in box.getcolors(10**5)}
            grey = ImageColor.getrgb(gallery.EMPTY)
            assert (
                max(colours, key=colours.get) == grey
                and ImageColor.getrgb(gallery.INK) in colours
                and BLUE not in colours
            )


@pytest.mark.parametrize(
    "query", ["", "word " * 500, "человек в красном", "穿红衣服的人" * 80, "x" * 3000, "line\nbreak\ttab"]
)
def test_any_caption_leaves_the_images_alone(picture: str, tmp_path: Path, query: str) -> None:
    with (
        Image.open(
            draw_gallery([row(picture, [True], query)] * 2, tmp_path / "g.png", title="a title")
        ) as sheet,
        Image.open(
            draw_gallery([row(picture, [True], "short")] * 2, tmp_path / "h.png", title="a title")
        ) as plain,
    ):
        column = gallery.GAP_PX + gallery.TEXT_PX + gallery.GAP_PX
        rest = (column, 0, sheet.width, sheet.height)
        assert sheet.size == plain.size
        assert sheet.crop(rest).tobytes() == plain.crop(rest).tobytes()
        assert sheet.tobytes() != plain.tobytes()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=400), width=st.integers(30, 300), most=st.integers(1, 8))
def test_wrapped_lines_fit_and_lose_nothing_unless_marked(text: str, width: int, most: int) -> None:
    font = load_font(16)
    lines = wrap(text, width, font, most)
    assert 1 <= len(lines) <= most
    assert all(font.getlength(line) <= width or len(line) <= 1 for line in lines)
    whole = "".join(wrap(text, width, font, 10**6)).replace(" ", "")
    assert whole == "".join(text.split()).replace(" ", "")
    if "".join(lines).replace(" ", "") != whole:
        assert lines[-1].endswith("…")


def test_long_captions_end_in_an_ellipsis() -> None:
    lines = wrap("one two three four five six seven", 80, load_font(16), 2)
    assert len(lines) == 2 and lines[-1].endswith("…") and lines[0] == "one two"


def test_nothing_to_draw_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no queries to draw"):
        draw_gallery([], tmp_path / "g.png")


def test_letters_that_no_font_has_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert showable("a man, человек, άνθρωπος") == ("a man, человек, άνθρωπος", fonts.default_file())
    monkeypatch.setattr(fonts, "_installed", tuple)
    assert showable("穿红衣服的人 in red 人")[0] == "[CJK: 6 characters] in red [CJK: 1 character]"
    monkeypatch.setattr(fonts, "_installed", lambda: ("no-font.ttf", "other.ttf"))
    have = fonts._characters(fonts.default_file())
    monkeypatch.setattr(
        fonts, "_characters", lambda file: have | {ord("穿")} if file == "other.ttf" else have - {ord("穿")}
    )
    assert showable("穿 x") == ("穿 x", "other.ttf")


@pytest.mark.parametrize("name", ["out.html", "out", "out.jpg", "folder.png"])
def test_a_path_that_takes_no_png_is_refused(picture: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=r"is a folder|written as PNG"):
        draw_gallery([row(picture, [True])], tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "folder.png"]


def test_a_query_without_hits_is_drawn(picture: str, tmp_path: Path) -> None:
    assert draw_gallery([row(picture, [])], tmp_path / "g.png").is_file()
