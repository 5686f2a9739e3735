"""The reproduction's page in a real browser: it loads, shows every picture, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from launch.reproduce import report
from launch.reproduce.context import Claim, Picture, StageResult, Table
from tests.support.browser import Browser, browser, chromium
from tests.support.raw_footage import moving
from trainer.pictures import write_gif, write_mp4, write_png

needs_chromium = pytest.mark.skipif(not chromium(), reason="needs Chromium; set NAVSYNTH_CHROMIUM")

DIGEST = "a3ed41d6cbe90332cf2c41bd7151354b001266be8814602b74d7acc2ba6d078f"
HOSTILE = "<script>document.title = 'owned'</script>"
LOADED = """Promise.all([...document.images].map(image => {
  image.loading = 'eager';
  return image.decode().then(() => image.naturalWidth > 0, () => false);
}))"""
FILMS = """Promise.all([...document.querySelectorAll('video')].map(film => new Promise(done => {
  if (film.readyState >= 1) done(film.videoWidth);
  film.onloadedmetadata = () => done(film.videoWidth);
  film.onerror = () => done(0);
})))"""
OUTSIDE = """[...document.querySelectorAll('body *')].filter(
  element => !element.closest('.wide') && element.getBoundingClientRect().right > innerWidth + 1
).map(element => element.tagName + ' ' + element.textContent.slice(0, 60))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report with what a large one has: long digests and names, wide tables, each kind of
    picture, all three verdicts."""
    out = tmp_path_factory.mktemp("page")
    shown = out / "pictures"
    shown.mkdir()
    frames = moving(4, height=64, width=64)
    write_png(shown / "wide.png", Image.fromarray(frames[0]).resize((1800, 60)))
    write_gif(shown / "wall.gif", frames)
    write_mp4(shown / "wall.mp4", frames)
    (shown / "explorer.html").write_text("<!doctype html><title>explorer</title>")
    columns = ("", *(f"a column of figures {number}, dB" for number in range(12)))
    rows = (("rho = 10, clip", *["24.60 ± 0.05"] * 12), (HOSTILE, *[None] * 12))
    card = {"footage": f"{'long-name-' * 12}all", "weights SHA-256": DIGEST}
    claims = [
        Claim(f"{holds}: {HOSTILE}", holds, f"{DIGEST} against {DIGEST}", "not known")
        for holds in (True, False, None)
    ]
    pictures = [Picture(f"{'a-title-' * 20}{path.name}", f"pictures/{path.name}")
                for path in sorted(shown.iterdir())]  # fmt: skip
    result = StageResult(
        (Table(f"Tab. 2: {'long-name-' * 12}", columns, rows, card, f"Note {DIGEST}"),),
        tuple(claims), tuple(pictures), (f"{DIGEST}{DIGEST}",),
    )  # fmt: skip
    facts = report.Facts(
        f"`python -m launch.reproduce --data {'/folder' * 30}`", "30m", "synthetic", "2 cores",
        DIGEST,
    )  # fmt: skip
    return report.write({"stage": ("Tab. 2", result)}, facts, out=out)[1]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "laptop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_in_a_browser(page: Path, tab: Browser, width: int, dark: bool) -> None:
    """No error, nothing fetched from outside its folder, every picture and film loads, wide tables
    scroll by themselves and nothing else is wider than the window; footage names run no script."""
    tab.problems.clear()
    tab.requested.clear()
    tab.open(page, width=width, dark=dark)
    assert tab.run(LOADED) == [True, True]
    (film,) = tab.run(FILMS)
    assert film > 0
    assert tab.run(OUTSIDE) == []
    assert tab.run("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.wide')].every(box => box.clientWidth < innerWidth)"
    assert tab.run(wide) and tab.run("document.querySelectorAll('.wide').length") == 2
    assert tab.run("document.title") == "Results" and not tab.problems
    own = (page.parent.resolve().as_uri(), "data:")  # a player's buttons are data
    assert tab.requested and all(url.startswith(own) for url in tab.requested)


@needs_chromium
@pytest.mark.browser
def test_what_is_linked_is_there(page: Path, tab: Browser) -> None:
    """The explorer opens from the page."""
    tab.open(page, width=1280)
    links = tab.run("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    assert links == ["pictures/explorer.html"] and (page.parent / links[0]).is_file()
