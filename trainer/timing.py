"""Seconds by phase of a step: data, forward, backward, communication, optimiser, ..."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = (
    "data",
    "rows",
    "forward",
    "backward",
    "communication",
    "optimiser",
    "projection",
    "checkpoint",
    "evaluation",
)


class Phases:
    """Adds up seconds by phase. On a GPU, kernels count where the host waits for them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._around: str | None = None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the body's seconds for `phase`, and for no other that this one is a part of."""
        around, self._around = self._around, phase
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._seconds[phase] += seconds
            if around is not None:
                self._seconds[around] -= seconds
            self._around = around

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken


class Pace:
    """Clips per second since the last logged step, and the time left. Knows no clock but this
    process's monotonic one."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._lap: float | None = None
        self._first: float | None = None
        self._clips = self._steps = 0
        self._first_done = 0.0

    def count(self, clips: int) -> float | None:
        """Seconds of the step that ends now; None for the first."""
        now = time.perf_counter()
        seconds = None if self._last is None else now - self._last
        if self._last is not None:
            self._clips += clips
        else:
            self._lap = now
        self._steps += 1
        self._last = now
        return seconds

    def lap(self) -> tuple[float, int]:
        """Clips per second and steps since the last call."""
        now = time.perf_counter()
        passed = now - self._lap if self._lap is not None else 0.0
        pace = self._clips / passed if passed > 0 else 0.0
        steps, self._clips, self._steps, self._lap = self._steps, 0, 0, now
        return pace, steps

    def eta(self, done: float) -> float | None:
        """Seconds left at the pace of this process; None before there is one."""
        now = time.perf_counter()
        if self._first is None:
            self._first, self._first_done = now, done
            return None
        gained = done - self._first_done
        return (now - self._first) / gained * (1 - done) if gained > 0 else None
