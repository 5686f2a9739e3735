"""How a budget of wall time is divided over trainings, and kept: pure arithmetic."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from data_shards.errors import UserError

SHARE = 0.95
"""Of the budget that is planned; the rest is for what takes longer than expected."""
OVERHEAD_MINUTES = 0.15
"""What starting and closing one training takes, on one core."""
LEAST_MINUTES = 0.05
LONGER = 2.0
"""At most so many times as long as planned are trainings where time is left."""


@dataclass(frozen=True)
class Plan:
    """Sizes of every experiment."""

    minutes: float | None
    """Of a training, on average over data sets; None: as long as its preset says."""
    seeds: int
    """Trainings of each variant, with seeds 0, 1, ...; spread is over these."""
    synthetic_seeds: int = 0
    """The same on synthetic footage, where there is real footage too; 0: as many."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Length of a training by data set, as a multiple of `minutes`; 1 where none is given."""
    jobs: int = 1
    """Trainings at a time."""
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
    grown: tuple[int, ...] = ()
    """Numbers of synthetic videos after training on which unseen ones are fitted, for the plot."""
    classify_steps: int = 300
    """Training steps of the identity and action classifiers."""
    baseline_steps: int = 0
    """Steps of the adversarial baselines; 0: as many minutes as each training."""
    ranks: tuple[tuple[int, str], ...] = (
        (0, "clip"), (2, "clip"), (10, "clip"), (2, "dictionary"), (10, "dictionary"),
    )  # fmt: skip
    """Low-rank constraints of the interpolation: rho (0: off) and scope."""

    def share(self, name: str) -> float:
        """Length of a data set's trainings, as a multiple of `minutes`."""
        return self.shares.get(name, 1.0)

    def minutes_on(self, name: str) -> float | None:
        """Minutes of a training on a data set; None: as long as its preset says."""
        return None if self.minutes is None else self.minutes * self.share(name)

    def length_on(self, name: str) -> tuple[str, ...]:
        """Words that say how long a training on a data set is."""
        minutes = self.minutes_on(name)
        return () if minutes is None else (f"train.minutes={minutes:.4g}",)

    def seeds_on(self, *, synthetic: bool) -> int:
        """Trainings of each variant on a data set."""
        return self.synthetic_seeds or self.seeds if synthetic else self.seeds


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
    grown: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    """Settings of every training."""


HALF = ("networks.channels=32",)
"""Half the width of DCGAN, as the baselines have it: in minutes on a CPU it gets further."""
BUDGETS = {
    "30m": Budget(30, 1, fit_steps=150, ranks=Plan.ranks[:3], randoms=100, classify_steps=150,
                  words=HALF),
    "2h": Budget(120, 3, counts=True, randoms=200, grown=(20, 200, 2000), words=HALF),
    "full": Budget(None, 3, counts=True, fit_steps=2000, grown=(20, 200, 2000)),
}  # fmt: skip


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


def shares_of(videos: Mapping[str, int]) -> dict[str, float]:
    """Length of a data set's trainings by the number of its videos, all clips being equally long:
    about as many passes over each set, but no set gets less than half or more than twice the mean.
    """
    mean = sum(videos.values()) / len(videos)
    return {name: min(2.0, max(0.5, count / mean)) for name, count in videos.items()}


class Need(NamedTuple):
    """What one stage takes, beside each other what runs beside each other."""

    starts: float
    """Trainings, over `Plan.jobs`."""
    units: float
    """The sum of their shares (`Plan.share`), over `Plan.jobs`."""
    rest: float
    """Minutes of everything but trainings, on two cores."""
    fixed: bool
    """Its trainings are compared with those of another stage, so they are as long as planned."""

    @property
    def around(self) -> float:
        """Minutes of everything but training itself."""
        return self.rest + self.starts * OVERHEAD_MINUTES


def run_of(minutes: float | None, plan: Plan, needs: Sequence[Need], names: Sequence[str]) -> str:
    """Name of a run: of all that decides how many trainings there are of what. Estimates of the
    rest are left out, so that better ones do not train everything anew.

    Args:
        minutes: of the budget; None: no limit.
        plan: without minutes of its own.
        needs: of its stages.
        names: of its stages and sets.
    """
    trainings = [[need.starts, need.units, need.fixed] for need in needs]
    facts = json.dumps([minutes, asdict(plan), trainings, list(names)], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def divide(minutes: float, needs: Sequence[Need], *, spent: float = 0.0) -> float:
    """Minutes of a training of share 1, so that all stages take their share of the budget.

    Args:
        minutes: of the budget.
        needs: of the stages.
        spent: minutes of it that are gone already.

    Raises:
        UserError: the budget is too small for them.
    """
    rest = sum(need.around for need in needs)
    left = minutes - spent
    each = (SHARE * left - rest) / max(1.0, sum(need.units for need in needs))
    if each < LEAST_MINUTES:
        gone = f", and {spent:.1f} are gone" if spent >= LEAST_MINUTES else ""
        raise UserError(
            f"--budget: {minutes:g} minutes are too few; starting trainings, rendering and scoring "
            f"take {rest:.1f} alone{gone}; leave stages out with --stages, or give more"
        )
    return each


def pace_of(done: Sequence[tuple[Need, float, float]]) -> float:
    """How much longer than expected everything but training took: minutes over minutes, 0.5 to 8.

    Args:
        done: of each stage that ran: its need, the minutes a training of share 1 was given, and
            the minutes it took.
    """
    expected = sum(need.around for need, _, _ in done)
    took = sum(total - need.units * each for need, each, total in done)
    return min(8.0, max(0.5, took / expected)) if expected else 1.0


def given(
    left: float, needs: Sequence[Need], *, planned: float, pace: float, reserve: float
) -> float | None:
    """Minutes of a training of share 1 of the first of the stages that are still to come.

    As planned, but for trainings that need not be as long as those of another stage: they share
    `SHARE` of what is left, all alike, or all of it but half the reserve. They are longer than
    planned, up to `LONGER` times, only by what is left over the whole reserve; what others took
    less than expected is no promise for the rest. None: not even the shortest fits.

    Args:
        left: minutes of the budget.
        needs: of this stage and of those after it.
        planned: minutes of a training of share 1.
        pace: of everything but training (`pace_of`).
        reserve: minutes that stay for what takes longer than expected.
    """
    around = [pace * need.around for need in needs]
    first = needs[0]
    if first.fixed or not first.units:
        own = around[0] + first.units * planned
        return planned if own <= left else None
    fixed = sum(need.units * planned for need in needs if need.fixed)
    free = sum(need.units for need in needs if not need.fixed)
    rest = sum(around) + fixed
    shorter = min(planned, (min(SHARE * left, left - reserve / 2) - rest) / free)
    rest = max(1.0, pace) * sum(need.around for need in needs) + fixed
    longer = min(LONGER * planned, (min(SHARE * left, left - reserve) - rest) / free)
    each = max(shorter, longer)
    return each if each >= LEAST_MINUTES else None
