"""Which trials are stopped at which rung: asynchronous halving (ASHA), HyperBand, or none.

Both are Ray's `AsyncHyperBandScheduler`, with one bracket or three. HyperBand draws a bracket for
each trial: one that is compared at every rung, one only at the last, one never; it guards against a
measure that misleads early on. The first trial is compared with others and never stopped: it is the
configuration given, and a search is to end with nothing worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trainer import journal
from tuning.records import FIRST, Settings, read_records

BRACKETS = {"asha": 1, "hyperband": 3}
SCHEDULERS = (*BRACKETS, "none")


def rungs(steps: int, scheduler: str) -> tuple[int, ...]:
    """Steps at which trials are compared: a ninth and a third of the whole."""
    if scheduler not in BRACKETS:
        return ()
    return tuple(dict.fromkeys((max(1, steps // 9), steps // 3)))


def psnr_at(run: Path, rung: int) -> float | None:
    """Training PSNR at a rung: mean over the lines of the last third before it; None before it."""
    path = run / "metrics.jsonl"
    if journal.last_step(path) < rung:  # asked again and again of a file that grows
        return None
    lines = [x for x in journal.read(path) if x.get("psnr") is not None]
    if not lines or lines[-1]["step"] < rung:
        return None
    near = [x["psnr"] for x in lines if 2 * rung / 3 <= x["step"] <= rung]
    near = near or [next(x["psnr"] for x in lines if x["step"] >= rung)]
    return sum(near) / len(near)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have numpy's global generator, from which HyperBand draws brackets, begin at a seed; what it
    was before comes back."""
    import numpy as np

    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def make_scheduler(study: Path, settings: Settings, name: str) -> Any:
    """One that knows what earlier lives reached at the rungs."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if name not in BRACKETS or not settings.rungs:
        return FIFOScheduler()

    class Ours(ASHAScheduler):
        """Knows a trial by its record's name, so that one gone on with is the same trial to it."""

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            if trial.config["trial"] not in self._trial_info:
                super().on_trial_add(tune_controller, _named(trial))

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
            decided = super().on_trial_result(tune_controller, _named(trial), result)
            return self.CONTINUE if trial.config["trial"] == FIRST else decided

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
            super().on_trial_complete(tune_controller, _named(trial), result)

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_remove(tune_controller, _named(trial))

    made = Ours(
        time_attr="step", metric="score", mode="max", max_t=settings.steps,
        grace_period=settings.rungs[0], reduction_factor=3, brackets=BRACKETS[name],
    )  # fmt: skip
    nobody: Any = None  # the controller, which ASHA does not ask
    for record in read_records(study):
        if not record.rungs:
            continue
        # An unfinished one, too: when it goes on, it reports only rungs that it has not reached.
        earlier: Any = SimpleNamespace(config={"trial": record.id})
        made.on_trial_add(nobody, earlier)
        for step, psnr in record.rungs:
            made.on_trial_result(nobody, earlier, {"step": step, "score": psnr})
    return made


def _named(trial: Any) -> Any:
    """A trial as the scheduler is to see it: every life of the search gives it another id."""
    return SimpleNamespace(trial_id=trial.config["trial"])
