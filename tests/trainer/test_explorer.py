"""The explorer page shows every pair and nothing from elsewhere; planes and energies are right."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.browser import Browser, browser, chromium
from tests.support.footage import tiny_set
from tests.support.outputs import FRAMES, SIZE, TinyRun, tiny_manifest
from tests.support.training import train
from trainer import explorer, render, spectrum
from trainer.run import open_run

HOSTILE = "</script><img src=x onerror=window.owned=1>"
needs_chromium = pytest.mark.skipif(chromium() is None, reason="no chromium on this machine")


def tiny_run(folder: Path) -> TinyRun:
    """Two contents, three motions, one of them with a hostile name; the footage is brighter."""
    manifest = tiny_manifest()
    manifest = manifest.__class__(**{**vars(manifest), "actions": ("wave0", HOSTILE, "wave2")})
    return TinyRun(folder / "run", manifest, "identity", "action", noise=40)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny run."""
    folder = tmp_path_factory.mktemp("explorer")
    return explorer.write_explorer(tiny_run(folder), folder / "explorer.html")  # pyright: ignore


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Browser]:
    """A headless Chromium."""
    with browser(tmp_path / "profile") as opened:
        yield opened


def data_of(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found[1])


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_every_pair_is_there_as_it_is_rendered(page: Path, tmp_path: Path) -> None:
    """Film n is content n // motions with motion n % motions, up to JPEG; so is its footage."""
    run, data = tiny_run(tmp_path), data_of(page)
    assert (len(data["static"]), len(data["transient"]), len(data["films"])) == (2, 3, 6)
    for pair, uri in enumerate(data["films"]):
        video = render.render(run, [pair // 3], [pair % 3])[0]  # pyright: ignore
        found = pixels_of(uri).astype(int)
        assert found.shape == (SIZE, FRAMES * SIZE, 3)
        assert np.abs(found - np.concatenate(list(video), axis=1)).mean() < 4
        footage = pixels_of(data["footage"][str(pair)]["film"]).astype(int)
        assert footage.mean() > found.mean() + 5


def test_a_page_of_many_rows_shows_some_and_says_so(tmp_path: Path) -> None:
    """At most `count` of each table, evenly spread; all rows are on the plane."""
    run = TinyRun(tmp_path, tiny_manifest([f"v{i:02}" for i in range(20)], identities=2))
    data = explorer.contents(run, count=3)  # pyright: ignore
    assert data["total"] == [20, 20] and data["static"] == ["v00", "v10", "v19"]
    assert len(data["films"]) == 9 and sorted(data["footage"]) == ["0", "4", "8"]
    assert [len(table["rows"]) for table in data["planes"].values()] == [20, 20]
    assert [row["at"] for row in data["planes"]["static"]["rows"]].count(-1) == 17


def test_the_plane_is_of_codes_without_the_labels_of_their_rows(tmp_path: Path) -> None:
    """A conditional generator is told labels behind the static code; they are no content."""
    data = tiny_set(tmp_path, identities=3, actions=2, frames=6, size=32)
    words = ("networks.generator=conditional", "latents.static_key=identity",
             "latents.transient_key=action", "train.pictures=false", "train.steps=3")  # fmt: skip
    assert train(tmp_path, data, *words) == 0
    run = open_run(tmp_path / "run")
    still, moving = explorer.codes_of(run, np.arange(3), np.arange(2))
    assert still.shape == (3, run.config.latents.static)
    assert moving.shape == (2, 6, run.config.latents.transient)


def test_the_page_names_no_other_address_and_hostile_names_are_text(page: Path) -> None:
    """A policy forbids everything from elsewhere; a name ends no script."""
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "<img" not in text and data_of(page)["transient"][1] == HOSTILE


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_content_and_motion_are_chosen_in_a_browser(
    page: Path, tab: Browser, width: int, dark: bool
) -> None:
    """Menus, wall, keys and planes all show the pair; nothing is fetched, nothing is wider."""
    tab.open(page, width=width, dark=dark)
    tab.run("Promise.all([...strips.values()].map(picture => picture.decode()))")
    tab.run("(played(false), state.frame = 3, choose(1, 2))")
    assert tab.run("[...document.querySelectorAll('#wall button')].length") == 6
    shown = "[...at('big').getContext('2d').getImageData(5, 5, 1, 1).data].slice(0, 3)"
    expected = pixels_of(data_of(page)["films"][5])[5, 3 * SIZE + 5].astype(int)
    assert np.abs(np.array(tab.run(shown)) - expected).max() <= 3
    tab.run("(at('motion').value = 0, at('motion').onchange())")
    assert tab.run("[state.content, state.motion]") == [1, 0]
    tab.run("at('wall').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))")
    assert tab.run("[state.content, state.motion]") == [0, 0]
    tab.run("document.querySelectorAll('#transient g.shown')[1].onclick()")
    pressed = (
        "[...document.querySelectorAll('#wall button')].findIndex(b => b.ariaPressed == 'true')"
    )
    assert tab.run("[state.content, state.motion]") == [0, 1] and tab.run(pressed) == 1
    assert tab.run("at('told').textContent") == "trained on"
    assert tab.run("document.querySelectorAll('#energy polyline').length") == 2
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("window.owned") is None and not tab.problems
    assert all(url.startswith(("file:", "data:")) for url in tab.requested)


@needs_chromium
@pytest.mark.browser
def test_the_page_plays_by_itself(page: Path, tab: Browser) -> None:
    """The frame moves on its own until it is paused."""
    tab.open(page, width=1280)
    tab.run(
        "new Promise(done => { const first = state.frame, look = () => "
        "state.frame != first ? done() : setTimeout(look, 20); look(); })"
    )
    tab.run("at('play').onclick()")
    assert tab.run("[state.playing, at('play').textContent]") == [False, "play"]


def test_the_plane_is_that_of_the_covariance() -> None:
    """Against eigenvectors of the covariance; rows on a line have one alone."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 7, generator=draw) * torch.arange(1, 8)
    found = spectrum.principal_plane(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T))
    assert np.allclose(found.shares, values[::-1][:2] / values.sum())
    centred = (rows.double() - rows.double().mean(dim=0)).numpy()
    expected = np.abs(centred @ vectors[:, ::-1][:, :2])
    assert np.allclose(found.points_X2.abs().numpy(), expected)
    line = spectrum.principal_plane(torch.arange(5.0)[:, None] * torch.tensor([1.0, 2.0, 0.0]))
    assert line.shares == (pytest.approx(1), 0.0) and not line.points_X2[:, 1].any()
    assert not spectrum.principal_plane(torch.ones(3, 4)).points_X2.any()
    assert spectrum.principal_plane(torch.ones(1, 4)).points_X2.shape == (1, 2)


def test_the_energy_of_a_matrix_of_rank_two_is_held_by_two() -> None:
    """Against sums of squared singular values; means over matrices; zeros count as rank one."""
    draw = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 6, 2, generator=draw) @ torch.randn(3, 2, 5, generator=draw)
    shares = spectrum.energy_by_rank(matrices)
    assert shares.shape == (5,) and torch.allclose(shares[1:], torch.ones(4, dtype=torch.float64))
    slow = [np.linalg.svd(m.double().numpy())[1] ** 2 for m in matrices]
    assert float(shares[0]) == pytest.approx(np.mean([s[0] / s.sum() for s in slow]))
    assert spectrum.rank_for(shares, 0.999999) == 2 and spectrum.rank_for(shares, 0.0) == 1
    assert (spectrum.energy_by_rank(torch.zeros(2, 3, 3)) == 1).all()
