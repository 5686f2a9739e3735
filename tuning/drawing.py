"""Inline SVG of a study's report, made from numbers only; names are placed by the page, escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, EDGE = 640, 240, 36
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
    return _svg(paths + _ends(xs, ys))


def scatter(points: Sequence[tuple[float, float]], front: Sequence[bool]) -> str:
    """Points, those of the Pareto front filled and larger."""
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    dots = [
        f'<circle cx="{_at(x, xs, False):.1f}" cy="{_at(y, ys, True):.1f}" r="{6 if on else 4}" '
        f'fill="{colour(1.0 if on else None)}"/>'
        for (x, y), on in zip(points, front, strict=True)
    ]
    return _svg(dots + _ends(xs, ys))


def parallel(rows: Sequence[Sequence[float]], shares: Sequence[float | None]) -> str:
    """Parallel coordinates: one axis per column, one line per row; values 0..1."""
    if not rows or not rows[0]:
        return ""
    columns = len(rows[0])
    across = [EDGE + i * (WIDTH - 2 * EDGE) / max(1, columns - 1) for i in range(columns)]
    axes = [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{EDGE}" y2="{HEIGHT - EDGE}" stroke="#999"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{i + 1}</text>'
        for i, x in enumerate(across)
    ]
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


def _ends(xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    bottom = HEIGHT - EDGE
    return [
        f'<text x="{EDGE}" y="{bottom + 16}">{min(xs):.4g}</text>',
        f'<text x="{WIDTH - EDGE}" y="{bottom + 16}" text-anchor="end">{max(xs):.4g}</text>',
        f'<text x="2" y="{bottom}">{min(ys):.4g}</text>',
        f'<text x="2" y="{EDGE}">{max(ys):.4g}</text>',
    ]


def _svg(parts: Sequence[str]) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="11">{inside}</svg>'
