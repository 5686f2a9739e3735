"""How a budget of wall time is divided over trainings, and kept: pure arithmetic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from data_shards.errors import UserError

SHARE = 0.95
"""Of the budget that is planned; the rest is for what takes longer than expected."""
OVERHEAD_MINUTES = 0.15
"""What starting and closing one training takes, on two cores."""
LEAST_MINUTES = 0.05


@dataclass(frozen=True)
class Plan:
    """Sizes of every experiment."""

    minutes: float | None
    """Of each training; None: as long as its preset says."""
    seeds: int
    """Trainings of each variant, with seeds 0, 1, ...; spread is over these."""
    words: tuple[str, ...] = ()
    """Settings of every training, over the experiment's own."""
    frames: int = 16
    """T."""
    size: int = 64
    """Pixels of a side."""
    videos: int = 500
    """At most so many videos are scored."""
    randoms: int = 500
    """Random pairs of rows that are scored."""
    wall: int = 500
    """Random videos of the wall."""
    fit_steps: int = 600
    """Steps of `trainer.fit`."""
    counts: bool = False
    """Fit unseen videos after training on a quarter and on half of the videos, too."""
    classify_steps: int = 300
    """Training steps of the identity and action classifiers."""
    baseline_steps: int = 0
    """Steps of the adversarial baselines; 0: as many minutes as each training."""
    ranks: tuple[tuple[int, str], ...] = (
        (0, "clip"), (2, "clip"), (10, "clip"), (2, "dictionary"), (10, "dictionary"),
    )  # fmt: skip
    """Low-rank constraints of the interpolation: rho (0: off) and scope."""

    def length(self) -> tuple[str, ...]:
        """Words that say how long a training is."""
        return () if self.minutes is None else (f"train.minutes={self.minutes:.4g}",)


@dataclass(frozen=True)
class Budget:
    """One row of `BUDGETS`."""

    minutes: float | None
    seeds: int
    counts: bool = False
    fit_steps: int = 600
    ranks: tuple[tuple[int, str], ...] = Plan.ranks
    randoms: int = 500
    classify_steps: int = 300


BUDGETS = {
    "30m": Budget(30, 1, fit_steps=150, ranks=Plan.ranks[:3], randoms=100, classify_steps=150),
    "2h": Budget(120, 3, counts=True, randoms=200),
    "full": Budget(None, 3, counts=True, fit_steps=2000),
}


def budget_of(name: str) -> Budget:
    """A budget by name, or of any length such as 45m or 6h: sized as the next smaller row.

    Raises:
        UserError: neither one of `BUDGETS` nor a length.
    """
    if name in BUDGETS:
        return BUDGETS[name]
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mh])", name)
    if not found or not float(found[1]):
        raise UserError(f"--budget {name}: none of {', '.join(BUDGETS)}, nor a length such as 45m")
    minutes = float(found[1]) * {"m": 1, "h": 60}[found[2]]
    row = "2h" if minutes >= 120 else "30m"
    return replace(BUDGETS[row], minutes=minutes)


def divide(minutes: float, trainings: int, *, rest: float = 0.0) -> float:
    """Minutes of each of so many trainings, where rendering and scoring take `rest` minutes.

    Raises:
        UserError: the budget is too small for them.
    """
    each = (SHARE * minutes - rest) / max(1, trainings) - OVERHEAD_MINUTES
    if each < LEAST_MINUTES:
        raise UserError(
            f"--budget: {minutes:g} minutes are too few for {trainings} trainings and {rest:.1f} "
            "minutes of rendering and scoring; leave stages out with --stages, or give more"
        )
    return each


def rest_minutes(plan: Plan, rest: tuple[float, float], *, sets: int) -> float:
    """Minutes of a stage besides its trainings (`Stage.rest`) on so many data sets."""
    return sets * (rest[0] + rest[1] * plan.seeds * plan.randoms / 100) / 60


class Need(NamedTuple):
    """What one stage takes."""

    trainings: int
    rest: float
    """Minutes of everything but trainings, on two cores."""
    fixed: bool
    """Its trainings are compared with those of another stage, so they are as long as planned."""


def pace_of(done: Sequence[tuple[Need, float, float]]) -> float:
    """How much longer than expected everything but training took: minutes over minutes, 0.5 to 8.

    Args:
        done: of each stage that ran: its need, the minutes each of its trainings was given, and
            the minutes it took.
    """
    expected = sum(need.rest + need.trainings * OVERHEAD_MINUTES for need, _, _ in done)
    took = sum(total - need.trainings * each for need, each, total in done)
    return min(8.0, max(0.5, took / expected)) if expected else 1.0


def given(left: float, needs: Sequence[Need], *, planned: float, pace: float) -> float | None:
    """Minutes of each training of the first of the stages that are still to come.

    As planned while there is time; where there is not, trainings that need not be as long as those
    of another stage are all shortened alike. None: not even the shortest fits.

    Args:
        left: minutes of the budget.
        needs: of this stage and of those after it.
        planned: minutes of each training.
        pace: of everything but training (`pace_of`).
    """
    around = [pace * (need.rest + need.trainings * OVERHEAD_MINUTES) for need in needs]
    first = needs[0]
    if first.fixed or not first.trainings:
        own = around[0] + first.trainings * planned
        return planned if own <= left else None
    fixed = sum(need.trainings * planned for need in needs if need.fixed)
    free = sum(need.trainings for need in needs if not need.fixed)
    each = min(planned, (left - sum(around) - fixed) / free)
    return each if each >= LEAST_MINUTES else None
