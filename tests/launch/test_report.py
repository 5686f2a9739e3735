"""One page that holds everything, shows hostile names as text, and looks right in a browser."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from data_shards.errors import UserError
from launch import charts, report
from launch.runs import differences, events, one_history, read_lines, read_run
from tests.support.browser import Browser, browser, chromium
from tests.support.run_folder import HOSTILE, metric_lines, write_run
from tests.support.shots import DOCS, MOST_BYTES, SCREENS, names, shots

needs_chromium = pytest.mark.skipif(chromium() is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with hostile names, pictures and all."""
    base = tmp_path_factory.mktemp("runs")
    first = write_run(base / "first", names=[*HOSTILE, "plain"])
    return [first, write_run(base / "second <b>", gain=0.7, overrides={"seed": 1}, samples=False)]


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself(folders: list[Path]):
    """Every picture is inside; no other address is named; a policy forbids the rest."""
    text = report.write_report(folders[:1]).read_text()
    tags = Tags()
    tags.feed(text)
    for tag, attributes in tags.found:
        for name in ("src", "href"):
            target = attributes.get(name) or "data:"
            assert target.startswith(("data:", "#")), (tag, target[:60])
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    pictures = [a for tag, a in tags.found if tag == "img"]
    assert len(pictures) == 1 + 3 + 3, "wall; sheet, best, worst; three samples through training"


def test_hostile_names_are_text(folders: list[Path], tmp_path: Path):
    """No tag, attribute or script comes from a name; template marks are not obeyed."""
    text = report.write_report(folders, out=tmp_path / "both.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert "owned" not in "".join(re.findall(r"<script>(.*?)</script>", text, re.S))
    assert "<b>second" not in text and "{{ 7*7 }}" in text
    assert "second &lt;b&gt;" in text


def test_what_was_run_and_how_to_run_it_again(folders: list[Path]):
    """Command, settings, events with restarts and faults, scores and what was left out."""
    text = report.write_report(folders[:1]).read_text()
    for part in ("python trainer/main.py preset=demo", "lost rank", "restart", "no VGG16 weights"):
        assert part in text
    assert "transient_key: video" in text


def test_runs_side_by_side_show_where_they_differ(folders: list[Path]):
    """Only the seed was changed."""
    runs = [read_run(folder) for folder in folders]
    assert differences(runs) == [("train.seed", [0, 1])]
    main, _ = report.curves(runs)
    assert all(len(chart.paths) == 2 for chart in main)


def test_a_run_that_has_just_begun(tmp_path: Path):
    """Only config.yaml is there."""
    (tmp_path / "config.yaml").write_text("train: {seed: 0}\n")
    text = report.write_report([tmp_path]).read_text()
    assert "No metrics have been written yet" in text


def test_a_run_in_progress_is_read_as_far_as_it_is_written(tmp_path: Path):
    """An unfinished last line waits; a damaged line before it is an error with its number."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "psnr": 2}\n{"step": 2, "ps')
    assert [line["step"] for line in read_lines(path)] == [1]
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not JSON"):
        read_lines(path)


def test_steps_that_were_run_again_replace_the_first_run():
    """A restart at step 20 loses steps 20 and 30 of the run before it; groups become flat names."""
    lines = [{"step": s, "loss": {"rec": 1.0}, "phases": {"data": 2.0}} for s in (0, 10, 20, 30)]
    lines += [{"step": s, "loss": {"rec": 3.0}} for s in (20, 30, 40)]
    kept = one_history(lines)
    assert [line["step"] for line in kept] == [0, 10, 20, 30, 40]
    assert [line["loss/rec"] for line in kept] == [1, 1, 3, 3, 3]
    assert kept[0]["time/data"] == 2.0


def test_time_by_phase_is_per_step(folders: list[Path]):
    """Lines hold seconds since the line before: 10 steps of 52 ms backward."""
    found = report.phases(read_run(folders[0]))
    assert found[0].name == "backward" and found[0].seconds == pytest.approx(0.052)
    assert sum(phase.share for phase in found) == pytest.approx(100)


def test_a_long_ranking_shows_its_whole_range(tmp_path: Path):
    """Of 1,001 videos 200 bars, evenly spread from the best to the worst; the title counts all."""
    names = [f"v{place:04}" for place in range(1001)]
    folder = write_run(tmp_path / "long", names=names, samples=False)
    found = report.ranking(read_run(folder))
    places = [names.index(bar["name"]) for bar in found.bars]
    assert found.videos == 1001 and len(places) == 200
    assert (places[0], places[-1]) == (0, 1000)
    assert {b - a for a, b in pairwise(places)} == {5, 6}
    text = report.write_report([folder]).read_text()
    assert "PSNR of 1001 videos" in text and "dB, 200 of them shown</small>" in text
    short = report.write_report([write_run(tmp_path / "short", samples=False)]).read_text()
    assert "PSNR of 2 videos" in short and "of them shown" not in short


def test_events_come_from_both_files_and_routine_is_left_out(tmp_path: Path):
    """Damage and a failed checkpoint are told, a committed one is not; a start is told once."""
    folder = write_run(tmp_path / "run", samples=False)
    notes = [("resumed", {}), ("sample", {}), ("checkpoint", {"outcome": "committed"})]
    notes += [("checkpoint", {"outcome": "failed"}), ("damage", {"shard": "shard-00001.tar"})]
    with (folder / "metrics.jsonl").open("a") as file:
        for name, facts in notes:
            line = {"kind": "event", "event": name, "step": 590, "time": 1.8e9, **facts}
            file.write(json.dumps(line) + "\n")
    told = [(event["kind"], event["text"]) for event in events(read_run(folder))]
    assert told[:3] == [
        ("start", "2 processes"),
        ("lost rank", "rank 1 left (exit 5)"),
        ("restart", "1 process"),
    ]
    assert told[3:] == [("checkpoint", "outcome failed"), ("damage", "shard shard-00001.tar")]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (None, "", "not a run folder"),
        ("config.yaml", "a: [", "not YAML"),
        ("config.yaml", "a: &a [1]\nb: [*a, *a]", "line 2: an alias (*a), which is not read here"),
        ("run.json", "{", "not JSON"),
        ("evaluation.json", "[]", "not a JSON object"),
        ("samples/sheet.png", "no picture", "not a picture"),
    ],
)
def test_damaged_runs_are_named(
    tmp_path: Path, capsys, file: str | None, content: str, message: str
):
    """One line on stderr, exit code 2, and no page is left."""
    folder = tmp_path / "run"
    if file:
        (folder / "samples").mkdir(parents=True)
        (folder / "config.yaml").write_text("train: {}\n")
        (folder / file).write_text(content)
    assert report.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html*"))


def test_a_page_does_not_follow_a_link(tmp_path: Path):
    """A run folder brings links under the names that are written: what they lead to stays."""
    folder, precious = write_run(tmp_path / "run", samples=False), tmp_path / "precious"
    precious.write_text("mine")
    for name in (".report.html.part", "report.html"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(precious)
    assert report.main([str(folder)]) == 0
    assert precious.read_text() == "mine" and not (folder / "report.html").is_symlink()


def test_a_chart_places_its_points():
    """The first point is left, the last right, the largest above the smallest; ticks are round."""
    line = charts.Series("a", 0, [(0.0, 10.0), (50.0, 20.0), (100.0, 30.0)])
    chart = charts.draw("t", [line])
    assert chart
    points = chart.data["lines"][0]["points"]
    assert [p[2] for p in points] == [0, 50, 100]
    assert points[0][3] > points[1][3] > points[2][3]
    assert [tick.label for tick in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert charts.draw("t", [charts.Series("a", 0, [])]) is None


def test_thinning_keeps_the_last_point_and_the_mean():
    """10,000 points become 240, none invented outside of their range."""
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    thinned = charts.thin(points)
    assert len(thinned) == charts.MOST_POINTS and thinned[-1] == points[-1]
    assert all(0 <= y <= 6 for _, y in thinned)


def test_numbers_that_are_no_numbers_are_gaps(tmp_path: Path):
    """NaN and infinity of a run that diverged are left out of curves and tiles."""
    folder = write_run(tmp_path / "run", samples=False)
    lines = metric_lines(5)
    lines[-1]["psnr"] = float("nan")
    lines[-1]["loss/total"] = float("inf")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = report.write_report([folder]).read_text()
    assert "nan" not in re.sub(r"base64,\S+", "", text).lower().replace("dominant", "")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(folders: list[Path], tmp_path: Path, tab: Browser, width: int, dark: bool):
    """No error, no request, no horizontal scrolling, every picture shown, in both schemes."""
    for index, chosen in enumerate((folders[:1], folders)):
        page = report.write_report(chosen, out=tmp_path / f"{index}.html")
        tab.problems.clear()
        tab.requested.clear()
        tab.open(page, width=width, dark=dark)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", paper))) < 60) == dark
        assert tab.run("document.title") != "owned" and not tab.problems
        outside = [u for u in tab.requested if not u.startswith(("data:", page.as_uri()))]
        assert not outside
        shot = tab.screenshot(tmp_path / f"{index}.png")
        assert shot.stat().st_size > 10_000


@needs_chromium
@pytest.mark.browser
def test_the_pictures_of_the_documents(folders: list[Path], tmp_path: Path, tab: Browser):
    """`make shots` gives one of each window and scheme, small; those in docs/ are such pictures."""
    page = report.write_report(folders[1:], out=tmp_path / "page.html")
    made = shots(tab, page, tmp_path)
    text = (DOCS / "observability.md").read_text()
    assert [path.name for path in made] == names()
    for path in made:
        width = SCREENS["phone" if "phone" in path.name else "laptop"].width
        for picture in (path, DOCS / path.name):
            with Image.open(picture) as shown:
                assert shown.width == width and shown.format == "PNG"
                paper = shown.convert("RGB").getpixel((2, 2))
            assert isinstance(paper, tuple) and (max(paper) < 60) == ("dark" in path.name)
            assert picture.stat().st_size <= MOST_BYTES
        assert path.name in text


@needs_chromium
@pytest.mark.browser
def test_charts_and_films_answer(folders: list[Path], tmp_path: Path, tab: Browser):
    """The pointer over a curve shows its values; the slider shows earlier samples."""
    page = report.write_report(folders[:1], out=tmp_path / "page.html")
    tab.problems.clear()
    tab.open(page, width=1280)
    tab.point(".chart .plot", at=0.99)
    assert re.match(r"step 5\d\d", tab.run("document.querySelector('.tip')?.textContent ?? ''"))
    tab.run("slider = document.querySelector('.film input'); slider.value = 0")
    tab.run("slider.dispatchEvent(new Event('input'))")
    shown = "[...document.querySelectorAll('.film figure')].map(f => getComputedStyle(f).display)"
    assert tab.run(shown) == ["block", "none", "none"]
    assert not tab.problems
