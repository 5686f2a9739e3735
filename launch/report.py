"""One self-contained page about runs: python -m launch.report RUN [RUN...] [--out FILE]

Reads run folders only, finished or in progress. Style, script, charts and pictures are inside the
file; it asks the network for nothing. Names of videos, runs and settings are escaped throughout.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image

from data_shards.ending import ended
from data_shards.errors import UserError
from launch import charts
from launch.charts import Chart, Series, draw, duration, number, points_of, spread
from launch.goodput import goodput, troubles
from launch.runs import RunRecord, differences, events, finite, read_run

FILM_FRAMES = 10
MOST_BARS = 200
"""Of the ranking of videos."""
MOST_BYTES = 12_000_000
"""Of pictures in the gallery of one run: a page should open at once."""


class Panel(NamedTuple):
    """A chart to draw where a run has its column."""

    column: str
    title: str
    unit: str = ""
    over: str = "step"
    log: bool = False


PANELS = (
    Panel("psnr", "PSNR by step", "dB"),
    Panel("psnr", "PSNR by time", "dB", over="minutes"),
    Panel("loss/total", "Loss", log=True),
    Panel("loss/rec", "Reconstruction loss", log=True),
    Panel("loss/static", "Static loss", log=True),
    Panel("loss/triplet", "Triplet loss"),
    Panel("clips_per_second", "Clips per second"),
)


class Picture(NamedTuple):
    """An embedded picture."""

    name: str
    uri: str
    width: int
    height: int


class Phase(NamedTuple):
    """A share of a step's time."""

    name: str
    seconds: float
    share: float
    index: int


class Ranking(NamedTuple):
    """How many videos were evaluated, and bars for some: name, psnr, height in percent."""

    videos: int
    bars: list[dict[str, Any]]


# Pictures ------------------------------------------------------------------------------------


def embed(path: Path, *, widest: int = 1600) -> Picture:
    """A still as WebP, a GIF as it is, in a data URI.

    Raises:
        UserError: not a picture, named.
    """
    try:
        with Image.open(path) as picture:
            if picture.format == "GIF":
                return Picture(path.stem, _uri("image/gif", path.read_bytes()), *picture.size)
            still = picture.convert("RGBA")
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a picture ({error}); remove or regenerate it") from None
    still.thumbnail((widest, 4 * widest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    still.save(buffer, format="WEBP", quality=88, method=4)
    return Picture(path.stem, _uri("image/webp", buffer.getvalue()), *still.size)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def film_of(run: RunRecord) -> list[Picture]:
    """Sample sheets through training, at most ten, evenly spread, the last among them."""
    stills = sorted((run.folder / "samples").glob("step-*.png"))
    found = []
    for index in spread(len(stills), FILM_FRAMES):
        step = stills[index].stem.removeprefix("step-").lstrip("0") or "0"
        found.append(embed(stills[index], widest=1200)._replace(name=step))
    return found


def gallery_of(run: RunRecord) -> list[Picture]:
    """What `trainer.generate` has left in the samples folder, while it fits into the page."""
    known = {"sheet", "best", "worst", "curves", "wall"}
    found, room = [], MOST_BYTES
    for path in sorted((run.folder / "samples").glob("*")):
        other = path.suffix in (".png", ".gif") and path.stem not in known
        if not other or path.name.startswith(("step-", ".")) or path.stat().st_size > room:
            continue
        if path.suffix == ".png" and path.with_suffix(".gif").exists() and "recombine" in path.stem:
            continue
        room -= path.stat().st_size
        found.append(embed(path))
    return found[:16]


# What the page shows of a run ----------------------------------------------------------------


def tiles(run: RunRecord) -> list[tuple[str, str, str]]:
    """Key figures: (name, value, unit or remark)."""
    last = run.metrics[-1] if run.metrics else {}
    starts = run.info.get("starts") or [{}]
    best, world = run.best("psnr"), starts[-1].get("world", "?")
    begun = f"{len(starts)} start{'s' if len(starts) > 1 else ''}"
    ranks = f"{world} process{'' if world == 1 else 'es'}"
    return [
        ("PSNR", number(run.last("psnr")), f"dB · best {number(best)}" if best else "dB"),
        ("Step", f"{last.get('step', 0):,}", "updates"),
        ("Time", duration(last.get("seconds")), f"{begun}, {ranks}"),
        ("Speed", number(run.last("clips_per_second")), "clips/s"),
    ]


def phases(run: RunRecord) -> list[Phase]:
    """Seconds of a step by phase, over the last half of the run, largest first.

    A line holds the seconds spent since the line before it.
    """
    half = len(run.metrics) // 2
    lines, before = run.metrics[half:], run.metrics[half - 1]["step"] if half else 0
    steps = (lines[-1]["step"] - before) or 1 if lines else 1
    spent = {}
    for column in run.columns("time/"):
        seconds = sum(line[column] for line in lines if finite(line.get(column)))
        if seconds > 0:
            spent[column.removeprefix("time/")] = seconds / steps
    total = sum(spent.values())
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    shares = [Phase(n, s, 100 * s / total, i) for i, (n, s) in enumerate(ranked)]
    return [phase for phase in shares if phase.share >= 0.1]


def scores(run: RunRecord) -> list[dict[str, Any]]:
    """Cards of the evaluation, in its order."""
    return list((run.evaluation or {}).get("scores", []))


def ranking(run: RunRecord) -> Ranking:
    """PSNR of the evaluated videos, best first; of many, some that are evenly spread."""
    videos = [v for v in (run.evaluation or {}).get("videos", []) if finite(v.get("psnr"))]
    videos.sort(key=lambda video: -video["psnr"])
    top = max((video["psnr"] for video in videos), default=1.0) or 1.0
    shown = [videos[place] for place in spread(len(videos), MOST_BARS)]
    bars = [{**video, "height": max(2.0, 100 * video["psnr"] / top)} for video in shown]
    return Ranking(len(videos), bars)


def curves(runs: list[RunRecord]) -> tuple[list[Chart], list[Chart]]:
    """Charts of the named panels, and of every other column, all runs on each."""

    def chart(panel: Panel) -> Chart | None:
        over, scale = ("seconds", 1 / 60) if panel.over == "minutes" else ("step", 1.0)
        lines = [
            Series(run.name, i, points_of(run, panel.column, over=over, scale=scale))
            for i, run in enumerate(runs)
        ]
        wide = panel.column == "psnr"
        return draw(
            panel.title, lines, unit=panel.unit, x_name=panel.over, log=panel.log, wide=wide
        )

    named = {panel.column for panel in PANELS} | {"step", "seconds", "time"}
    columns = dict.fromkeys(name for run in runs for name in run.columns())
    others = [c for c in columns if c not in named and not c.startswith(("time/", "goodput/"))]
    main = [chart(panel) for panel in PANELS]
    rest = [chart(Panel(column, column)) for column in others[:40]]
    return [c for c in main if c], [c for c in rest if c]


def section(run: RunRecord, index: int) -> dict[str, Any]:
    """Everything that the template shows of one run."""
    samples = run.folder / "samples"
    stills = {
        name: embed(samples / f"{name}.png")
        for name in ("sheet", "best", "worst")
        if (samples / f"{name}.png").exists()
    }
    return {
        "run": run,
        "index": index,
        "tiles": tiles(run),
        "phases": phases(run),
        "goodput": goodput(run),
        "troubles": troubles(run),
        "quarantined": int(run.best("shards/damaged") or 0),
        "scores": scores(run),
        "left_out": (run.evaluation or {}).get("left_out", []),
        "held_out": (run.evaluation or {}).get("held_out"),
        "ranking": ranking(run),
        "events": events(run),
        "stills": stills,
        "wall": embed(samples / "wall.gif") if (samples / "wall.gif").exists() else None,
        "film": film_of(run),
        "gallery": gallery_of(run),
    }


# The page ------------------------------------------------------------------------------------


def when(value: object) -> str:
    """A time stamp as one reads it; anything else as it is."""
    if isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    return "" if value is None else str(value)


def page(runs: list[RunRecord]) -> str:
    """The HTML of a report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launch", "page"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=number, duration=duration, when=when)
    main, rest = curves(runs)
    return environment.get_template("report.html").render(
        runs=[section(run, index) for index, run in enumerate(runs)],
        charts=main,
        more_charts=rest,
        differences=differences(runs) if len(runs) > 1 else [],
        made=when(time.time()),
    )


def write_report(folders: list[Path], *, out: Path | None = None) -> Path:
    """Write the report of run folders: to `out`, else to RUN/report.html of the first.

    Raises:
        UserError: naming what cannot be read.
    """
    runs = [read_run(folder) for folder in folders]
    target = out or folders[0] / "report.html"
    html = page(runs)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # whatever lies there, a link out of the folder too
        part.write_text(html, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
    return target


@ended
def main(argv: list[str] | None = None) -> int:
    """Write a report and print where it is; 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m launch.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, help="default: report.html in the first run folder")
    options = parser.parse_args(argv)
    try:
        print(write_report(options.runs, out=options.out))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


__all__ = ["charts", "main", "page", "write_report"]

if __name__ == "__main__":
    sys.exit(main())
