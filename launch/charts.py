"""Charts as inline SVG, made from numbers only; texts are placed by the page around them.

A chart is drawn in a unit square that the page stretches (strokes keep their width), and its ticks
are percentages, so that it fits a phone and a wide screen with letters of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from launch.runs import RunRecord, finite

MOST_POINTS = 240


class Series(NamedTuple):
    """One line of a chart; `index` picks its colour."""

    name: str
    index: int
    points: list[tuple[float, float]]


class Tick(NamedTuple):
    """A grid line: where (percent from the left or the top), and its label."""

    at: float
    label: str


class Chart(NamedTuple):
    """Ready to be placed: paths in percent, ticks, and the points for the reader's pointer."""

    title: str
    unit: str
    paths: list[tuple[int, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    data: dict
    summary: str
    wide: bool


def draw(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    x_name: str = "step",
    log: bool = False,
    wide: bool = False,
) -> Chart | None:
    """Lay out a chart; None where no series has a point.

    `log` is taken only where every value is positive and the largest is over 8 times the least.
    """
    series = [Series(s.name, s.index, thin(s.points)) for s in series if s.points]
    if not series:
        return None
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    log = log and min(ys) > 0 and max(ys) / min(ys) > 8
    y_low, y_high, y_ticks = (log_ticks if log else linear_ticks)(min(ys), max(ys))
    x_low, x_high = min(0.0, min(xs)), max(xs)
    x_span = (x_high - x_low) or 1.0
    level = math.log10 if log else float

    def place(x: float, y: float) -> tuple[float, float]:
        across = 100 * (x - x_low) / x_span
        up = (level(y) - level(y_low)) / (level(y_high) - level(y_low))
        return round(across, 2), round(100 * (1 - up), 2)

    placed = [[place(*point) for point in s.points] for s in series]
    lines = [
        {
            "name": s.name,
            "index": s.index,
            "points": [[x, y, *at] for (x, y), at in zip(s.points, p, strict=True)],
        }
        for s, p in zip(series, placed, strict=True)
    ]
    last = ", ".join(f"{s.name} {number(s.points[-1][1])}" for s in series)
    return Chart(
        title=title,
        unit=unit,
        paths=[(s.index, _path(p)) for s, p in zip(series, placed, strict=True)],
        x_ticks=[Tick(100 * (x - x_low) / x_span, short(x)) for x in steps_of(x_low, x_high, 6)],
        y_ticks=[Tick(place(x_low, y)[1], short(y)) for y in y_ticks],
        data={"x": x_name, "lines": lines},
        summary=f"{title} against {x_name}; last: {last}",
        wide=wide,
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        (x, y), points = points[0], [points[0], points[0]]
        points = [(x - 0.5, y), (x + 0.5, y)]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def spread(length: int, most: int) -> list[int]:
    """At most `most` places among `length`, evenly spread, the first and the last among them."""
    count = min(most, length)
    return [round(place * (length - 1) / max(1, count - 1)) for place in range(count)]


def thin(
    points: Sequence[tuple[float, float]], most: int = MOST_POINTS
) -> list[tuple[float, float]]:
    """At most `most` points: means of equal runs of points, and the last one as it is."""
    if len(points) <= most:
        return list(points)
    bounds = [round(i * (len(points) - 1) / (most - 1)) for i in range(most)]
    groups = [points[a:b] for a, b in pairwise(bounds) if b > a]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means, points[-1]]


def linear_ticks(low: float, high: float) -> tuple[float, float, list[float]]:
    """Bounds with a little room, and round values between them."""
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    room = 0.06 * (high - low)
    bottom = 0.0 if 0 <= low < 0.35 * high else low - room
    return bottom, high + room, steps_of(bottom, high + room, 5)


def log_ticks(low: float, high: float) -> tuple[float, float, list[float]]:
    """Bounds with a little room, and 1, (2, 5) times powers of ten between them."""
    room = (high / low) ** 0.06
    low, high = low / room, high * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    return low, high, [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]


def steps_of(low: float, high: float, about: int) -> list[float]:
    """About so many round values from low to high."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + i) * step for i in range(count)]


def number(value: float | None) -> str:
    """Four significant digits, thousands set apart; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def short(value: float) -> str:
    """A tick's label: 12k for 12000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """5 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def points_of(
    run: RunRecord, column: str, *, over: str = "step", scale: float = 1.0
) -> list[tuple[float, float]]:
    """Finite points of a run's column against its steps or its elapsed seconds."""
    return [
        (float(line[over]) * scale, float(line[column]))
        for line in run.metrics
        if finite(line.get(column)) and finite(line.get(over))
    ]
