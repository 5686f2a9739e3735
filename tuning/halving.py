"""Which trials are stopped at which rung: asynchronous halving (ASHA), HyperBand, or none.

Both are Ray's `AsyncHyperBandScheduler`, with one bracket or three. HyperBand draws a bracket for
each trial: one that is compared at every rung, one only at the last, one never; it guards against a
measure that misleads early on.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tuning.records import UNFINISHED, Settings, read_records

BRACKETS = {"asha": 1, "hyperband": 3}
SCHEDULERS = (*BRACKETS, "none")


def rungs(steps: int, scheduler: str) -> tuple[int, ...]:
    """Steps at which trials are compared: a ninth and a third of the whole."""
    if scheduler not in BRACKETS:
        return ()
    return tuple(dict.fromkeys((max(1, steps // 9), steps // 3)))


def make_scheduler(study: Path, settings: Settings, name: str) -> Any:
    """One that knows what earlier lives reached at the rungs."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if name not in BRACKETS or not settings.rungs:
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr="step", metric="score", mode="max", max_t=settings.steps,
        grace_period=settings.rungs[0], reduction_factor=3, brackets=BRACKETS[name],
    )  # fmt: skip
    nobody: Any = None  # the controller, which ASHA does not ask
    for record in read_records(study):
        earlier: Any = SimpleNamespace(trial_id=record.id)
        if record.status in UNFINISHED or not record.rungs:
            continue  # an unfinished one goes on and reports its rungs itself
        asha.on_trial_add(nobody, earlier)
        for step, psnr in record.rungs:
            asha.on_trial_result(nobody, earlier, {"step": step, "score": psnr})
    return asha
