"""Which sampler serves short studies: settings of TPE on stand-ins of known best, and chance.

Run: python -m benchmarks.tuning_samplers [--problems 60] [--trials 25 50]

A stand-in has the default space with rates. Its loss is a quadratic form around a best point near
the preset, with a few settings that matter much and many that matter little: each on its own
(`plain`), or in mixtures (`coupled`). Scores have noise on them, as trainings do. The preset is the
first trial, two run at a time, the best score is chosen, and what counts is its loss without the
noise. Minutes; prints a table and a line of JSON.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.machine import line
from benchmarks.pages import table
from trainer.config import resolve
from tuning.sampling import TPE, distribution, import_optuna
from tuning.space import Space, default_space, values_of

NOISE, NEAR, DECAY = 0.05, 0.3, 0.6
"""Standard deviation of a score; that of the best point's settings around the preset's, in widths
of their ranges; how much less each setting matters than the one before."""
AT_A_TIME = 2
Loss = Callable[[Mapping[str, Any]], float]

TRIED: dict[str, dict[str, Any]] = {
    "random": {},
    "one at a time, 8 first": {"multivariate": False, "n_startup_trials": 8},
    "one at a time, 6 first": {"multivariate": False},
    "together, 10 first": {"multivariate": True, "n_startup_trials": 10},
    "together, 6 first, no liar": {"multivariate": True, "constant_liar": False},
    "together, 6 first": {"multivariate": True},
}
"""What differs from the options of `tuning.sampling`; the last row is what they are."""


def place(space: Space, values: Mapping[str, Any]) -> np.ndarray:
    """Values as a point of the unit cube."""
    found = []
    for item in space.ranges:
        value, low, high = values[item.path], item.low, item.high
        if item.choices:
            value, low, high = item.choices.index(value), 0, len(item.choices) - 1
        elif item.log:
            value, low, high = map(math.log, (value, low, high))
        found.append((value - low) / (high - low))
    return np.array(found)


def stand_in(space: Space, given: Mapping[str, Any], *, seed: int, coupled: bool) -> Loss:
    """A loss of a trial's values, without noise."""
    chance, size = np.random.default_rng(seed), len(space.ranges)
    best = np.clip(place(space, given) + chance.normal(0, NEAR, size), 0, 1)
    form = np.diag(chance.permutation(DECAY ** np.arange(size)))
    if coupled:
        turn = np.linalg.qr(chance.normal(size=(size, size)))[0]
        form = turn @ form @ turn.T

    def loss(values: Mapping[str, Any]) -> float:
        away = place(space, values) - best
        return float(away @ form @ away)

    return loss


def study(
    sampler: Any, space: Space, given: dict[str, Any], loss: Loss, *, trials: int, seed: int
) -> float:
    """Loss of the trial that a study chooses; the seed gives each trial's noise by its number."""
    study = import_optuna().create_study(direction="minimize", sampler=sampler)
    study.enqueue_trial(given)
    ranges = {item.path: distribution(item) for item in space.ranges}
    noise = np.random.default_rng((seed, 1)).normal(0, NOISE, trials)
    running: list[Any] = []
    ended: list[tuple[float, float]] = []

    def end() -> None:
        trial = running.pop(0)
        true = loss(trial.params)
        ended.append((true + float(noise[trial.number]), true))
        study.tell(trial, ended[-1][0])

    for _ in range(trials):
        running.append(study.ask(ranges))
        if len(running) == AT_A_TIME:
            end()
    while running:
        end()
    return min(ended)[1]


def sampler_of(name: str, seed: int) -> Any:
    """A sampler by its row of `TRIED`."""
    samplers = import_optuna().samplers
    if not TRIED[name]:
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(**{**TPE, **TRIED[name], "seed": seed})


def measure(trials: int, problems: int, *, coupled: bool) -> dict[str, np.ndarray]:
    """Losses over the problems by sampler, and those of the preset."""
    space = default_space(rates=True)
    given = values_of(space, resolve(["preset=weizmann"]))
    assert given is not None
    losses = [stand_in(space, given, seed=seed, coupled=coupled) for seed in range(problems)]
    found = {"the preset": np.array([loss(given) for loss in losses])}
    for name in TRIED:
        made = [
            study(sampler_of(name, seed), space, given, loss, trials=trials, seed=seed)
            for seed, loss in enumerate(losses)
        ]
        found[name] = np.array(made)
    return found


def spelled(losses: np.ndarray, ours: np.ndarray) -> str:
    """A mean, and how far it is from ours with the standard error of that, problem by problem."""
    if losses is ours:
        return f"{losses.mean():.3f}"
    more = losses - ours
    error = more.std(ddof=1) / math.sqrt(len(more))
    return f"{losses.mean():.3f} ({more.mean():+.3f} ± {error:.3f})"


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--trials", type=int, nargs="+", default=[25, 50], help="of a study")
    args = parser.parse_args(argv)
    columns = {
        f"{'coupled' if coupled else 'plain'}, {trials} trials": measure(
            trials, args.problems, coupled=coupled
        )
        for coupled in (False, True) for trials in args.trials
    }  # fmt: skip
    ours = list(TRIED)[-1]
    rows = [
        [name, *(spelled(losses[name], losses[ours]) for losses in columns.values())]
        for name in ("the preset", *TRIED)
    ]
    print(table(["TPE", *columns], rows))
    means = {title: {name: round(float(x.mean()), 4) for name, x in losses.items()}
             for title, losses in columns.items()}  # fmt: skip
    print(line("tuning-samplers", losses=means))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
