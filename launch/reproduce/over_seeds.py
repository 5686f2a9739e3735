"""Figures over seeds: what a card says of them, and which differences they settle.

A figure of one training is one draw. Two trainings of one seed each settle no order; against
something that no training has a part in, such as footage, one seed is judged and said to be one.
Several seeds settle what a t-test does (Welch's, where there are two trainings).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from launch.reproduce.context import Claim, Context, mean_std
from launch.reproduce.figures import ONE_SEED
from launch.reproduce.footage import FootageSet
from trainer.run import Run

LEVEL = 0.05
"""So often a difference may be taken for one that seeds alone make."""
ONE = "one seed"
TIE = "no further apart than seeds are"
"""Why an order is not judged, and why it is not settled."""
NO_ORDER = "one seed does not settle an order"
BY_CHANCE = "a difference of this size is seen between trainings that differ by their seed alone"
UNKNOWN_SPREAD = "how far apart seeds are was not measured"


def seeds_card(count: int) -> dict[str, str]:
    """What a card says of so many seeds."""
    if count == 1:
        return ONE_SEED
    return {"seeds": f"{count} (0 to {count - 1}); mean ± standard deviation over them"}


def length_card(context: Context, footage: FootageSet, runs: Sequence[Run]) -> dict[str, str]:
    """What a card says of how long trainings were that stand for themselves."""
    minutes = context.plan.minutes_on(footage.name)
    if minutes is None:
        return {"length": f"as the preset says, {_steps(runs)}"}
    return {
        "length": f"{minutes:.2f} minutes each, {_steps(runs)}; shorter or longer (at most twice) "
        "than planned where time is short or left, so not that of the ablation's trainings, with "
        "which these figures must not be compared"
    }


def _steps(runs: Sequence[Run]) -> str:
    steps = sorted({run.step for run in runs})
    return f"{steps[0]:,} steps" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,} steps"


def shown(values: Sequence[float], *, digits: int = 2) -> str:
    """`mean ± sd`, or the only one of them."""
    return mean_std(values, digits=digits) or "–"


def by_chance(apart: float, *several: Sequence[float]) -> float:
    """How often means over seeds are so far apart by chance alone, two-sided: of two trainings
    (Welch 1947), or of one and a number in which none has a part. 1 where one has but one seed."""
    if min(map(len, several)) < 2:
        return 1.0
    squares = [float(np.var(values, ddof=1)) / len(values) for values in several]
    if not sum(squares):
        return float(not apart)
    degrees = sum(squares) ** 2 / sum(
        square**2 / (len(values) - 1) for square, values in zip(squares, several, strict=True)
    )
    return float(2 * stats.t.sf(abs(apart) / sum(squares) ** 0.5, degrees))


def above(
    ours: Sequence[float], theirs: Sequence[float] | float, *, by: float = 0.0, among: int = 1
) -> bool | None:
    """Whether a mean over seeds is above another, where `by` is asked at least by that much.

    Args:
        ours: by seed.
        theirs: by seed; or one number, in which no training has a part.
        by: how much higher it has to be.
        among: out of how many comparisons this one was picked.

    Returns:
        None where that is not settled (`LEVEL`), or is of two trainings of which one has one seed.
    """
    fixed = isinstance(theirs, int | float)
    apart = float(np.mean(ours)) - float(np.mean(theirs)) - by
    several = [ours] if fixed else [ours, theirs]
    if not (fixed and len(ours) < 2) and by_chance(apart, *several) > LEVEL / among:
        return None
    return apart >= 0 if by else apart > 0


def compared(
    text: str,
    ours: Sequence[float],
    theirs: Sequence[float] | float,
    *,
    by: float = 0.0,
    digits: int = 2,
    unit: str = " dB",
    about: str = "",
    cause: str = "",
) -> Claim:
    """A claim that one figure is above another, judged by `above`.

    Args:
        text: the claim.
        ours: by seed.
        theirs: by seed, or one number, in which no training has a part.
        by: how much higher it has to be.
        digits: decimals of the figures.
        unit: of the figures, with a space before it.
        about: what is said of the figures.
        cause: why it does not hold, where it does not.
    """
    holds = above(ours, theirs, by=by)
    several = [ours, [float(theirs)] if isinstance(theirs, int | float) else theirs]
    figures = " against ".join(f"{shown(values, digits=digits)}{unit}" for values in several)
    single = min(map(len, several if several[1] is theirs else [ours])) == 1
    told = ONE if single else f"{len(ours)} seeds"
    if holds is None:
        told, cause = (NO_ORDER, UNKNOWN_SPREAD) if single else (TIE, BY_CHANCE)
    return Claim(text, holds, f"{figures}{about}; {told}", cause)
