"""How a budget of wall time is divided over trainings: pure arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from data_shards.errors import UserError

SHARE = 0.8
"""Of the budget that trainings get; the rest prepares, renders and scores."""
OVERHEAD_MINUTES = 0.2
"""What starting and closing one training takes."""
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
    """Random pairs of rows, and videos of the wall."""
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


BUDGETS = {
    "30m": Budget(30, 1, fit_steps=300, ranks=Plan.ranks[:3]),
    "2h": Budget(120, 3, counts=True),
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


def divide(minutes: float, trainings: int) -> float:
    """Minutes of each of so many trainings.

    Raises:
        UserError: the budget is too small for them.
    """
    each = SHARE * minutes / max(1, trainings) - OVERHEAD_MINUTES
    if each < LEAST_MINUTES:
        raise UserError(
            f"--budget: {minutes:g} minutes are too few for {trainings} trainings; leave stages "
            "out with --stages, or give more"
        )
    return each
