"""The search page: what it answers, what it refuses to serve, and the page itself in Debian's chromium."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from test_search import COLOURS, SMALL, Stub, paint

from ham.records import NO_STYLE
from ham.reid.search import open_index
from ham.reid.serve import POLICY, listen
from ham.reid.serve_answers import Captioner, describe_html, find_html, parse_styles, picture_bytes
from ham.reid.serve_command import is_local
from ham.runtime import UsageError

CHROMIUM = shutil.which("chromium")
SECRET = b"not for anybody"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "photos"
    for number in range(6):
        for colour in COLOURS:
            paint(folder / f"{colour}/{number}.png", colour)
    (folder / "notes.txt").write_bytes(SECRET)
    (folder.parent / "secret.txt").write_bytes(SECRET)
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")
    return folder


def stub_captioner(num_styles: int = 5) -> Captioner:
    return Captioner(num_styles, lambda image, styles: [f"<b>style</b> {style}" for style in styles])


# ------------------------------------------------------------------------------------------------------------- answers


def test_a_sentence_gives_its_images_and_problems_are_sentences(gallery: Path, tmp_path: Path) -> None:
    model, index = Stub(), open_index(Stub(), gallery, SMALL)
    found = find_html(model, SMALL, index, "a blue coat", None, 4)
    assert found.count("<li>") == 4 and 'alt="rank 1: 1.000, ' in found
    for nothing in ("  ", None):
        assert 'role="alert"' in find_html(model, SMALL, index, nothing, None, 4)
    assert "path of a picture" in find_html(model, SMALL, index, "x/y.jpg", None, 4)
    (tmp_path / "bad.jpg").write_bytes(b"torn")
    assert "cannot be read" in find_html(model, SMALL, index, "", str(tmp_path / "bad.jpg"), 4)
    assert find_html(model, SMALL, index, "", str(gallery / "red/0.png"), 4).count("<li>") == 4
    assert "not in Latin letters" in find_html(model, SMALL, index, "穿红衣服的人", None, 1)
    script = find_html(model, SMALL, index, "<script>alert(1)</script> a.png", None, 1)
    assert "<script>" not in script


def test_names_are_escaped(tmp_path: Path) -> None:
    paint(tmp_path / 'a"><img src=x onerror=alert(1)>.png', "red")
    found = find_html(Stub(), SMALL, open_index(Stub(), tmp_path, SMALL), "red", None, 1)
    assert "<img src=x" not in found and "&lt;img" in found


def test_pictures_come_by_row_alone(gallery: Path) -> None:
    index = open_index(Stub(), gallery, SMALL)
    content, status, _, kind = picture_bytes(index, 0, full=False)
    assert (status, kind) == (200, "image/jpeg") and content.startswith(b"\xff\xd8")
    for row in (-1, len(index), 10**12):
        assert picture_bytes(index, row, full=True)[1] == 404


def test_styles_are_chosen_random_or_none(gallery: Path, tmp_path: Path) -> None:
    image = str(gallery / "red/0.png")
    assert parse_styles("0, 3 4", 5) == [0, 3, 4] and parse_styles("", 5) == []
    for wrong in ("5", "-1", "x", "1.5", "²", "9" * 20):
        with pytest.raises(UsageError, match="is no style; the styles are 0 to 4"):
            parse_styles(wrong, 5)
    with pytest.raises(UsageError, match="at most 8"):
        parse_styles("0 " * 9, 5)
    chosen = describe_html(stub_captioner(), image, "4, 0", 3)
    assert "<dt>Style 4</dt><dd>&lt;b&gt;style&lt;/b&gt; 4</dd>" in chosen and chosen.count("<dt>") == 2
    assert describe_html(stub_captioner(), image, "", 3).count("<dt>Style ") == 3
    without = describe_html(stub_captioner(0), image, None, 3)
    assert f"style&lt;/b&gt; {NO_STYLE}" in without and "Without a style" in without
    assert "Choose a picture" in describe_html(stub_captioner(), None, "", 3)
    assert "is no style" in describe_html(stub_captioner(), image, "77", 3)
    (tmp_path / "bad.jpg").write_bytes(b"torn")
    assert "cannot be read" in describe_html(stub_captioner(), str(tmp_path / "bad.jpg"), "", 3)


def test_a_port_in_use_and_a_foreign_address_are_named() -> None:
    taken = listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(UsageError, match=r"--host 127\.0\.0\.1 --port \d+: .*in use.*choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    with pytest.raises(UsageError, match="--port 99999"):
        listen("127.0.0.1", 99999)
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.3")] == [
        True,
        True,
        True,
        False,
        False,
    ]


# -------------------------------------------------------------------------------------------------------------- server


@pytest.fixture(scope="module")
def server(gallery: Path) -> Iterator[tuple[str, int]]:
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    uvicorn = pytest.importorskip("uvicorn")
    from ham.reid.serve import build_app

    model = Stub()
    app = build_app(model, SMALL, open_index(model, gallery, SMALL), stub_captioner())
    listening = listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    host, port = listening.getsockname()
    for _ in range(200):
        if running.started:
            break
        time.sleep(0.1)
    yield host, port
    running.should_exit = True
    thread.join(timeout=10)


def get(server: tuple[str, int], path: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*server, timeout=20)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.read(), dict(response.getheaders())
    connection.close()
    return found


@pytest.mark.slow
def test_only_pictures_of_the_gallery_are_served(server: tuple[str, int], gallery: Path) -> None:
    status, content, headers = get(server, "/picture/0")
    assert status == 200 and content.startswith(b"\xff\xd8") and headers["content-security-policy"] == POLICY
    outside, inside = gallery.parent / "secret.txt", gallery / "notes.txt"
    tries = ["/picture/-1", "/picture/999", "/picture/x", "/picture/0/../../secret.txt", "/picture/"]
    for target in (
        outside,
        inside,
        gallery / "red/0.png",
        gallery.parent / "outside.png",
        Path("/etc/passwd"),
    ):
        climbing = "../" * 12 + str(target).lstrip("/")
        for path in (
            str(target),
            climbing,
            climbing.replace("../", "%2e%2e%2f"),
            climbing.replace("../", "..%5c"),
        ):
            tries += [
                f"/picture/{path}",
                f"/gradio_api/file={path}",
                f"/gradio_api/file/{path}",
                f"/file={path}",
                f"/static/{path}",
                f"/assets/{path}",
                f"/gradio_api/stream/{path}",
                f"/{path}",
            ]
    for path in tries:
        status, content, _ = get(server, path)
        assert SECRET not in content and b"root:" not in content, path
        assert not content.startswith((b"\x89PNG", b"\xff\xd8")), path
    assert get(server, "/picture/-1")[0] == get(server, "/picture/999")[0] == 404


@pytest.mark.slow
def test_requests_for_another_host_are_refused(server: tuple[str, int]) -> None:
    assert get(server, "/picture/0", host="evil.example")[0] == 400
    assert get(server, "/picture/0", host=f"localhost:{server[1]}")[0] == 200


@pytest.mark.slow
def test_the_page_names_no_other_machine(server: tuple[str, int]) -> None:
    status, page, headers = get(server, "/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert b"Person search" in page


# ------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_search_with_keyboard_and_picture_in_a_browser(
    server: tuple[str, int], browser, gallery: Path, tmp_path: Path, width: int, height: int
) -> None:
    url = f"http://{server[0]}:{server[1]}/"
    page = browser.new_page(viewport={"width": width, "height": height})
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(url)
    page.wait_for_selector("#description textarea, #description input")
    page.keyboard.type("someone in a blue coat")  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("ol.hits li")
    assert page.locator("ol.hits li").count() == 10
    assert "blue" not in page.locator("p.problem").all_inner_texts()
    page.wait_for_function(
        "[...document.querySelectorAll('ol.hits img')].every(i => i.complete && i.naturalWidth)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    small = page.locator("ol.hits figcaption").first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
    assert small >= 12
    for _ in range(12):  # the results are reached with the tab key
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('ol.hits a')"):
            break
    assert page.evaluate("document.activeElement.matches('ol.hits a')")

    page.get_by_text("Search by a picture").click()
    (tmp_path / "bad.jpg").write_bytes(b"torn")
    field = page.locator("#picture input[type=file]")
    field.set_input_files(str(tmp_path / "bad.jpg"))
    page.wait_for_selector("p.problem")
    assert "cannot be read" in page.locator("p.problem").inner_text()

    if width > 1000:
        page.get_by_role("tab", name="Describe").click()
        page.locator("#described input[type=file]").set_input_files(str(gallery / "red/0.png"))
        page.wait_for_timeout(1000)
        page.locator("#styles textarea, #styles input").fill("4, 0")
        page.locator("#describe").click()
        page.wait_for_selector("dl.captions dt")
        assert page.locator("dl.captions dt").all_inner_texts() == ["Style 4", "Style 0"]
    elsewhere = [one for one in requested if not one.startswith((url, "data:", "blob:"))]
    assert elsewhere == []
    page.close()


def test_sockets_are_closed_after_a_refusal() -> None:
    before = socket.socket()
    before.close()
    with pytest.raises(UsageError):
        listen("192.0.2.1", 0)  # an address that no machine has
