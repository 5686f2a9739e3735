"""Pictures of the report for the documents: laptop and phone, light and dark. The light ones show
the top of the page, the dark ones its curves and what follows. And one of a search's report.

Run: make shots [ARGS=RUN | ARGS="--study STUDY"], from the repository's root; without either it
trains the demo first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from launch import report
from tests.support.browser import Browser, browser

DOCS = Path(__file__).resolve().parents[2] / "docs"
MOST_BYTES = 150_000
"""Of a picture in the repository."""


class Screen(NamedTuple):
    """A window of a size, in CSS pixels."""

    width: int
    height: int


SCREENS = {"laptop": Screen(1280, 1400), "phone": Screen(390, 1400)}


def names() -> list[str]:
    """Files of all pictures, as the documents name them."""
    schemes = ("light", "dark")
    return [f"report-{screen}-{scheme}.png" for screen in SCREENS for scheme in schemes]


STUDY = Screen(1280, 1250)
"""Learning curves, importance and parallel coordinates of a search."""
LEARNING = "[...document.querySelectorAll('h2')].find(h => h.textContent == 'Learning curves')"
CURVES = "[...document.querySelectorAll('h2')].find(h => h.textContent == 'Curves')"


def shots(tab: Browser, page: Path, folder: Path) -> list[Path]:
    """Pictures of a page in every window and scheme, as small PNGs."""
    found = []
    for name in names():
        _, screen, scheme = Path(name).stem.split("-")
        width, height = SCREENS[screen]
        tab.open(page, width=width, height=height, dark=scheme == "dark")
        if scheme == "dark":
            tab.run(f"{CURVES}.scrollIntoView()")
        found.append(shrink(tab.screenshot(folder / name, whole=False)))
    return found


def study_shot(tab: Browser, page: Path, folder: Path) -> Path:
    """A picture of a search's report from its learning curves on."""
    tab.open(page, width=STUDY.width, height=STUDY.height)
    tab.run(f"{LEARNING}.scrollIntoView()")
    return shrink(tab.screenshot(folder / "study.png", whole=False))


def shrink(path: Path) -> Path:
    """Give a PNG the fewest bytes that look the same on a page: 256, 128 or 64 colours."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    for colours in (256, 128, 64):
        whole.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    return path


def trained(folder: Path) -> Path:
    """A run of the demo, two minutes long."""
    words = ["train.minutes=2", "train.sample_minutes=0.3"]
    subprocess.run([sys.executable, "-m", "launch.quickstart", *words], cwd=folder, check=True)
    return folder / "runs" / "demo"


def main(argv: list[str] | None = None) -> int:
    """Write the pictures into docs/."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.shots", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--study", type=Path, metavar="STUDY", help="folder of a search")
    options = parser.parse_args(argv)
    if options.study:
        with tempfile.TemporaryDirectory() as name, browser(Path(name)) as tab:
            page = options.study / "report.html"
            print(study_shot(tab, page, DOCS))
        return 0
    with tempfile.TemporaryDirectory() as name:
        run = options.run or trained(Path(name))
        page = report.write_report([run], out=Path(name) / "report.html")
        with browser(Path(name) / "profile") as tab:
            for path in shots(tab, page, DOCS):
                print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
