"""One plot of a few lines and points, as a PNG on white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A series of points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False
    """Draw markers alone, without a line."""


def write_plot(path: Path, lines: Sequence[Line], *, x: str, y: str, log_x: bool = False) -> Path:
    """Write a plot with a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line in lines:
        axes.plot(line.x, line.y, "o" if line.points else "o-", label=line.label, linewidth=1.4,
                  markersize=4)  # fmt: skip
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log_x:
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": ""})
    return path
