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
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the body's seconds for `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Seconds since the last call, by phase."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken
