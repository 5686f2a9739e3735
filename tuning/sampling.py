"""Which values to try next: optuna's samplers (or a grid), told what every earlier trial gave.

Nothing is kept but the trials' records: a study that goes on replays them, finished ones with their
scores, failed ones as failed, so that none of them is drawn again as a good one. Stopped ones come
with their rungs where training PSNR is the objective; elsewhere a rung says nothing of it, and they
count as failed.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data_shards.errors import UserError
from tuning.objectives import OBJECTIVES
from tuning.records import DONE, STOPPED, UNFINISHED, Record, name_of, next_number, number_of
from tuning.space import STATIC, TRANSIENT, Range, Space

if TYPE_CHECKING:
    import optuna

MODELLED = ("optuna", "bohb")
"""Searchers that draw from a model (TPE) of what earlier trials gave."""
TPE = {"n_startup_trials": 6, "n_ei_candidates": 24, "group": False, "constant_liar": True}
"""Options of optuna's TPE, all by name, since their defaults change from version to version.

A study has some 25 to 60 trials. Six at random before the model, the configuration given among
them, leave it most of those; what still runs counts as bad (the liar), so that two trials at a time
are not alike. benchmarks/tuning_samplers.py compares."""
BY_CHANCE = 3
"""`bohb` draws one in so many trials at random, as BOHB does (Falkner et al. 2018): however much
the rungs mislead its model, it cannot be lost for good."""
INSTALL = "pip install 'navsynth[tune]'"


def import_optuna() -> Any:
    """The optuna package, quiet.

    Raises:
        UserError: it is not installed; says how to.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(f"optuna is not installed: {INSTALL}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def distribution(item: Range) -> Any:
    """Optuna's spelling of a range."""
    distributions = import_optuna().distributions
    if item.choices:
        return distributions.CategoricalDistribution(item.choices)
    if item.integer:
        return distributions.IntDistribution(int(item.low), int(item.high), log=item.log)
    return distributions.FloatDistribution(item.low, item.high, log=item.log)


def tpe(searcher: str, objectives: Sequence[str], *, seed: int) -> Any:
    """The model of a searcher. It is of all settings together; for several objectives `optuna`
    models one setting at a time, as its authors advise."""
    together = len(objectives) == 1 or searcher == "bohb"
    with warnings.catch_warnings():
        # Some of the options are experimental; nothing else is to go unsaid.
        warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
        return import_optuna().samplers.TPESampler(seed=seed, multivariate=together, **TPE)


def seed_of(seed: int, records: Sequence[Record]) -> int:
    """Another seed for each number of known trials: a study that goes on must not draw again what
    it drew before."""
    return seed + 1000 * next_number(records)


def replay(
    space: Space, objectives: Sequence[str], records: Sequence[Record], *, searcher: str = "optuna",
    seed: int = 0,
) -> optuna.Study:  # fmt: skip
    """An optuna study that knows every trial that has ended."""
    optuna = import_optuna()
    ended = [record for record in records if record.status not in UNFINISHED]
    seeds = seed_of(seed, records)
    sampler = (
        tpe(searcher, objectives, seed=seeds)
        if searcher in MODELLED
        else optuna.samplers.RandomSampler(seed=seeds)
    )
    directions = [OBJECTIVES[name].direction for name in objectives]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for record in ended:
        study.add_trial(told(space, objectives, record))
    return study


def state_of(objectives: Sequence[str], record: Record) -> Any:
    """How a trial has ended, in optuna's words."""
    states = import_optuna().trial.TrialState
    if record.status == DONE:
        return states.COMPLETE
    return states.PRUNED if rungs_count(objectives, record) else states.FAIL


def rungs_count(objectives: Sequence[str], record: Record) -> bool:
    """Whether a trial was stopped at what says something of the objective."""
    return record.status == STOPPED and tuple(objectives) == ("psnr",)


def told(space: Space, objectives: Sequence[str], record: Record) -> Any:
    """A record as optuna keeps trials."""
    optuna = import_optuna()
    done, counts = record.status == DONE, rungs_count(objectives, record)
    return optuna.trial.create_trial(
        params=record.values,
        distributions={item.path: distribution(item) for item in space.ranges},
        values=[record.scores[name] for name in objectives] if done else None,
        state=state_of(objectives, record),
        intermediate_values=dict(record.rungs) if counts else None,
        user_attrs={"id": record.id},
    )


class Drawn(NamedTuple):
    """A new trial: its name and values, and what it goes on from (see `records.Record`)."""

    name: str
    values: dict[str, Any]
    parent: str = ""
    until: int = 0
    changes: str = ""


class Sampler:
    """Draws the values of new trials and is told what they gave."""

    def __init__(
        self, space: Space, objectives: Sequence[str], records: Sequence[Record], *,
        searcher: str, seed: int, first: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`first`: values of a study's first trial, None: drawn like all others. Of a grid only
        where they are one of its points."""
        self._first = first
        self._space, self._objectives = space, objectives
        self._study = replay(space, objectives, records, searcher=searcher, seed=seed)
        self._model = self._study.sampler
        self._chance: Any = None
        if searcher == "bohb":
            # Another seed than the model's, whose first draws would come twice.
            chance = seed_of(seed, records) + 500
            self._chance = import_optuna().samplers.RandomSampler(seed=chance)
        self._asked: dict[str, Any] = {}
        self._grid = self._points(records, seed) if searcher == "grid" else None
        self._number = next_number(records)

    def draw(self) -> Drawn | None:
        """A new trial; None where a grid has no point left."""
        fixed = self._grid.pop(0) if self._grid else None
        if self._grid is not None and fixed is None:
            return None
        if self._number == 0 and self._grid is None:
            fixed = self._first
        name = name_of(self._number)
        self._number += 1
        return Drawn(name, self.ask(name, fixed))

    def ask(self, name: str, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
        """Values of a trial: `fixed` ones, or newly drawn."""
        if fixed is not None:
            self._study.enqueue_trial(fixed)
        at_random = self._chance and number_of(name) % BY_CHANCE == BY_CHANCE - 1
        self._study.sampler = self._chance if at_random else self._model
        trial = self._study.ask({r.path: distribution(r) for r in self._space.ranges})
        self._asked[name] = trial
        return dict(trial.params)

    def tell(self, record: Record) -> None:
        """Take in how a trial ended; one that may go on later counts for nothing yet."""
        trial = self._asked.pop(record.id)
        for step, psnr in record.rungs if rungs_count(self._objectives, record) else ():
            trial.report(psnr, step)
        done = record.status == DONE
        scores = [record.scores[name] for name in self._objectives] if done else None
        self._study.tell(trial, scores, state=state_of(self._objectives, record))

    def _points(self, records: Sequence[Record], seed: int) -> list[dict[str, Any]]:
        """Points of the grid that no trial has had: the configuration given first where it is one
        of them, then the others in an order of the seed's, since few budgets bear them all."""
        known = [record.values for record in records]
        names = [item.path for item in self._space.ranges]
        points = itertools.product(*(item.grid() for item in self._space.ranges))
        every = [dict(zip(names, point, strict=True)) for point in points]
        total = self._space.total
        assert total is None or (STATIC in names and TRANSIENT not in names)
        random.Random(seed).shuffle(every)
        every.sort(key=lambda point: point != self._first)
        return [point for point in every if point not in known]
