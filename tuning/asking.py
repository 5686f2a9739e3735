"""Ray Tune's view of `Turns`: a searcher that it asks for trials, a callback for failed ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuning.population import Wait
from tuning.turns import Turns

FAILURE = "Failure # "
"""What Tune begins each entry of a trial's error file with."""


def make_searcher(turns: Turns) -> Any:
    """A searcher for `TuneConfig`."""
    from ray.tune.search import Searcher

    class Ours(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="score", mode="max")
            self._names: dict[str, str] = {}

        def suggest(self, trial_id: str) -> Any:
            record = turns.next()
            if record is None:
                return Searcher.FINISHED
            if isinstance(record, Wait):
                return None
            self._names[trial_id] = record.id
            return {"trial": record.id}

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            turns.reported(self._names[trial_id])

        def on_trial_complete(
            self, trial_id: str, result: dict | None = None, error: bool = False
        ) -> None:
            if not error:  # else the callback tells, which knows why
                turns.ended(self._names[trial_id])

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the records are what is kept."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

    return Ours()


def make_callback(turns: Turns, *, lost: Callable[[], object]) -> Any:
    """A callback for `RunConfig`; `lost` says whether Ray itself is gone, which is nothing that a
    trial has done: its next life goes on with it."""
    from ray.tune import Callback

    class Errors(Callback):
        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            if not lost():
                turns.failed(trial.config["trial"], reason_of(trial.error_file))

    return Errors()


def reason_of(file: str | None) -> str:
    """Why a trial's Ray worker failed the last time, in one line, from Tune's error file."""
    path = Path(file) if file else None
    text = path.read_text(errors="replace") if path and path.is_file() else ""
    last = text.rpartition(FAILURE)[2]
    told = [line.strip() for line in last.splitlines()[1:] if line.strip()]
    told = told or ["no reason is known"]
    # An exception is the last line of its traceback; a lost worker is told in the first one.
    return f"its Ray worker failed: {told[-1 if 'ray::' in last else 0][:300]}"
