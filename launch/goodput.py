"""Where the time of a run went, over all its lives: training, data, checkpoints, restarts, idle."""

from __future__ import annotations

from typing import NamedTuple

from launch.runs import RunRecord, events, finite

FAULTS = ("non-finite", "hang", "lost-rank", "failed", "user-error", "preempted", "fault")
"""Events that mean that something went wrong or was cut short."""


class Cause(NamedTuple):
    """A share of the run's time."""

    name: str
    seconds: float
    share: float
    index: int


class Troubles(NamedTuple):
    """What came between a run and its end."""

    restarts: int
    faults: int
    lost_seconds: float
    """Starting up, and taking steps again that no checkpoint held."""


def goodput(run: RunRecord) -> list[Cause]:
    """Time by cause, largest first; a line of metrics holds the seconds since the line before."""
    spent = {}
    for column in run.columns("goodput/"):
        seconds = sum(line[column] for line in run.metrics if finite(line.get(column)))
        if seconds > 0:
            spent[column.removeprefix("goodput/")] = seconds
    total = sum(spent.values())
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    found = [Cause(name, s, 100 * s / total, i) for i, (name, s) in enumerate(ranked)]
    return [cause for cause in found if cause.share >= 0.1]


def troubles(run: RunRecord) -> Troubles:
    """Restarts, faults and the time that they cost."""
    kinds = [event["kind"] for event in events(run)]
    lost = sum(cause.seconds for cause in goodput(run) if cause.name == "restart")
    return Troubles(kinds.count("restart"), sum(kind in FAULTS for kind in kinds), lost)
