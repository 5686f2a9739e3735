"""Inline SVG of a study's report; every name in it is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, EDGE = 720, 260, 40
LOW, HIGH = (140, 170, 200), (200, 60, 20)
"""Colours of the worst and the best trial."""


class Line(NamedTuple):
    """A polyline; `share` 0..1 is how good its trial is (None: unfinished, grey)."""

    points: Sequence[tuple[float, float]]
    share: float | None


def colour(share: float | None) -> str:
    """Colour of a trial by how good it is."""
    if share is None:
        return "#bbb"
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(LOW, HIGH, strict=True)
    )


def curves(lines: Sequence[Line]) -> str:
    """Curves over common axes; empty where there is no point."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        return ""
    paths = [
        _path([(_at(x, xs, False), _at(y, ys, True)) for x, y in line.points], line.share)
        for line in lines
        if line.points
    ]
    return _svg(_axes(xs, ys, "step", "dB") + paths)


def scatter(
    points: Sequence[tuple[float, float]], front: Sequence[bool], names: tuple[str, str]
) -> str:
    """Points, those of the Pareto front red and larger."""
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    dots = [
        f'<circle cx="{_at(x, xs, False):.1f}" cy="{_at(y, ys, True):.1f}" r="{6 if on else 4}" '
        f'fill="{colour(1.0 if on else None)}"/>'
        for (x, y), on in zip(points, front, strict=True)
    ]
    return _svg(_axes(xs, ys, *names) + dots)


class Axis(NamedTuple):
    """One axis of parallel coordinates: its name, and what its ends stand for."""

    name: str
    low: str
    high: str


def parallel(
    rows: Sequence[Sequence[float]], shares: Sequence[float | None], names: Sequence[Axis]
) -> str:
    """Parallel coordinates: one axis per column, one line per row; values 0..1."""
    if not rows or not rows[0]:
        return ""
    columns = len(rows[0])
    across = [2 * EDGE + i * (WIDTH - 4 * EDGE) / max(1, columns - 1) for i in range(columns)]
    axes = [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{EDGE}" y2="{HEIGHT - EDGE}" stroke="#999"/>'
        + _text(x, EDGE - 6, axis.high) + _text(x, HEIGHT - EDGE + 13, axis.low)
        # Names at two heights: neighbours would touch.
        + _text(x, HEIGHT - 10 if i % 2 else 10, axis.name, bold=True)
        for i, (x, axis) in enumerate(zip(across, names, strict=True))
    ]  # fmt: skip
    order = sorted(range(len(rows)), key=lambda i: -1.0 if shares[i] is None else shares[i] or 0.0)
    tall = HEIGHT - 2 * EDGE
    lines = [
        _path([(x, EDGE + (1 - v) * tall) for x, v in zip(across, rows[i], strict=True)], shares[i])
        for i in order
    ]
    return _svg(axes + lines)


def shares(values: Sequence[float], *, log: bool = False) -> list[float]:
    """Values moved into 0..1."""
    level = [math.log(v) if log and v > 0 else v for v in values]
    low, high = min(level, default=0.0), max(level, default=1.0)
    return [(v - low) / (high - low) if high > low else 0.5 for v in level]


def _at(value: float, values: Sequence[float], upward: bool) -> float:
    low, high = min(values), max(values)
    share = (value - low) / (high - low) if high > low else 0.5
    size = HEIGHT if upward else WIDTH
    return EDGE + (1 - share if upward else share) * (size - 2 * EDGE)


def _path(points: Sequence[tuple[float, float]], share: float | None) -> str:
    spelled = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{spelled}" fill="none" stroke="{colour(share)}" stroke-width="1.6"/>'


def _axes(xs: Sequence[float], ys: Sequence[float], across: str, upward: str) -> list[str]:
    """Four lines with what they stand for, the ends of the other axis, and both names."""
    bottom, marks = HEIGHT - EDGE, []
    for share in (0.0, 1 / 3, 2 / 3, 1.0):
        y = bottom - share * (bottom - EDGE)
        value = min(ys) + share * (max(ys) - min(ys))
        marks.append(
            f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            + _text(EDGE - 4, y + 4, f"{value:.4g}", anchor="end")
        )
    return [
        *marks,
        _text(EDGE, bottom + 16, f"{min(xs):.4g}", anchor="start"),
        _text(WIDTH - EDGE, bottom + 16, f"{max(xs):.4g}", anchor="end"),
        _text(WIDTH / 2, bottom + 16, across),
        _text(EDGE, EDGE - 12, upward),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{html.escape(text)}</text>'
    )


def _svg(parts: Sequence[str]) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="11">{inside}</svg>'
