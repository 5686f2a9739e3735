"""PB2 over histories: a population that is ranked at parts of the way, whose worst are replaced.

Parker-Holder et al. 2020: members that are behind take over weights of one that is ahead, and new
values for what may change on the way (`trainer.changes`), chosen by a bandit whose Gaussian process
predicts what they improve (Ray's own, `ray.tune.schedulers.pb2`). Here a member's way is a chain
of trials, one for each part: a trial goes on from its parent's checkpoint and has all changes of
its chain as `train.changes`. What wins is therefore a config, which trains to the same figure from
the beginning, and widths may differ between members: whoever takes over weights takes all that is
older, too. Everything follows from the records, so a killed search goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_shards.errors import UserError
from trainer.changes import CHANGING, Change, parse, write
from tuning.objectives import OBJECTIVES
from tuning.records import DONE, PART, UNFINISHED, Record, Settings, name_of, next_number, number_of
from tuning.sampling import INSTALL, Drawn, Sampler
from tuning.space import Range, Space, gap_of

PARTS = 4
"""Of the way, after each of which members are ranked."""
REPLACED = 4
"""One of so many members is replaced, at least one."""


class Wait:
    """No member can be drawn before others have ended."""


WAIT = Wait()


def ends(steps: int) -> tuple[int, ...]:
    """Steps at which parts of the way end."""
    return tuple(dict.fromkeys(max(1, steps * part // PARTS) for part in range(1, PARTS + 1)))


def changing(space: Space) -> tuple[Range, ...]:
    """Ranges of what may change on the way.

    Raises:
        UserError: there are none.
    """
    found = tuple(r for r in space.ranges if r.path in CHANGING and not r.choices)
    if not found:
        raise UserError(
            "--searcher pb2: the space has no range of a setting that can change on the way; "
            f"{', '.join(CHANGING)} can"
        )
    return found


class Point(NamedTuple):
    """What a part of the way gave: where it began, with which values, and the gain a step."""

    until: int
    before: float
    values: tuple[float, ...]
    gain: float


class Population:
    """Draws members; stands where `sampling.Sampler` does."""

    def __init__(
        self, space: Space, settings: Settings, read: Callable[[], list[Record]], *,
        first: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        """`read` gives all records; `first`: values of the first member."""
        self._space, self._settings, self._read = space, settings, read
        self._first, self._changing = first, changing(space)
        self._ends, self._size = ends(settings.steps), settings.population
        self._lost: set[str] = set()

    def ask(self, name: str, fixed: dict[str, Any] | None = None) -> None:
        """Nothing: an unfinished trial goes on as it is."""

    def tell(self, record: Record) -> None:
        """Do not wait for one that has ended without being finished; all else is in the records."""
        if record.status in UNFINISHED:
            self._lost.add(record.id)

    def draw(self) -> Drawn | Wait | None:
        """A new trial; `WAIT`, or None at the end of the way."""
        records = self._read()
        name = name_of(next_number(records))
        parts = [[r for r in records if r.until == until] for until in self._ends]
        # The last part that has begun: what is missing in those before it, a user has removed.
        at = max((number for number, part in enumerate(parts) if part), default=0)
        at += len(parts[at]) >= self._size
        if at == len(parts):
            return None
        if at == 0:
            return self._founder(name, records, self._ends[0])
        before = parts[at - 1]
        if any(r.status in UNFINISHED and r.id not in self._lost for r in before):
            return WAIT
        return self._child(name, before, parts[at], records, self._ends[at])

    def _founder(self, name: str, records: list[Record], until: int) -> Drawn:
        sampler = Sampler(
            self._space, self._settings.objectives, records, searcher="random",
            seed=self._settings.seed, first=self._first,
        )  # fmt: skip
        drawn = sampler.draw()
        assert drawn is not None
        return drawn._replace(name=name, until=until)

    def _child(
        self, name: str, before: list[Record], part: list[Record], records: list[Record],
        until: int,
    ) -> Drawn | None:  # fmt: skip
        ranked = sorted((r for r in before if r.status in (DONE, PART)), key=self._score)
        if not ranked:
            return None
        count = min(max(1, self._size // REPLACED), len(ranked) - 1)
        going_on = {r.id for r in ranked[count:]}
        own = _left_of(before, part, going_on)
        if own is not None and own.id in going_on:
            return Drawn(name, own.values, own.id, until, own.changes)
        donor = ranked[-1 - len(part) % max(1, count)]
        new = self._choose(donor, part, records)
        follows = gap_of(new, fixed=self._settings.words, searched=donor.values)
        change = Change(donor.until, tuple({**new, **follows}.items()))
        lines = write((*parse(donor.changes), change))
        return Drawn(name, {**donor.values, **new}, donor.id, until, lines)

    def _score(self, record: Record) -> float:
        name = self._settings.objectives[0]
        sign = 1 if OBJECTIVES[name].direction == "maximize" else -1
        return sign * record.scores[name]

    def _choose(self, donor: Record, part: list[Record], records: list[Record]) -> dict[str, Any]:
        """Values of what may change, for one who takes over the donor's weights."""
        points = self._points(records)
        taken = [self._numbers(r) for r in part if _took_over(r, donor.until)]
        if points:
            numbers = select(
                points, taken, self._changing, until=donor.until, before=self._score(donor),
                seed=self._settings.seed + next_number(records),
            )  # fmt: skip
        else:  # nobody has gone on from a known score yet
            numbers = self._at_random(next_number(records))
        return {
            r.path: r.value(_within(r, math.exp(x) if r.log else x))
            for r, x in zip(self._changing, numbers, strict=True)
        }

    def _at_random(self, seed: int) -> list[float]:
        import numpy as np

        draw = np.random.default_rng([self._settings.seed, seed])
        return [float(draw.uniform(*_limits(r))) for r in self._changing]

    def _numbers(self, record: Record) -> tuple[float, ...]:
        values = [float(record.values[r.path]) for r in self._changing]
        pairs = zip(self._changing, values, strict=True)
        return tuple(math.log(value) if r.log else value for r, value in pairs)

    def _points(self, records: list[Record]) -> list[Point]:
        found, known = [], {record.id: record for record in records}
        for record in records:
            parent = known.get(record.parent)  # None, too, where its folder was removed
            if parent and record.status in (DONE, PART):
                gain = self._score(record) - self._score(parent)
                gain /= record.until - parent.until
                point = Point(parent.until, self._score(parent), self._numbers(record), gain)
                found.append(point)
        return sorted(found)


def _took_over(record: Record, since: int) -> bool:
    """Whether a member of the part that begins at step `since` took over another one's weights."""
    changes = parse(record.changes)
    return bool(changes) and changes[-1].step == since


def _left_of(before: Sequence[Record], part: Sequence[Record], going_on: set[str]) -> Record | None:
    """The first member of a part for whom nobody of the next one stands yet; None: for all of them
    somebody does. By who goes on from whom and not by place, since folders may have been removed.

    Args:
        before: members of the part that has ended.
        part: those of the next one that have been drawn.
        going_on: names of those of `before` that are to go on as they are.
    """
    took = [_took_over(record, before[0].until) for record in part]
    continued = {r.parent for r, other in zip(part, took, strict=True) if not other}
    left = [record for record in before if record.id not in continued]
    # Who took over stands for one that was not to go on, as far as there are such.
    left.sort(key=lambda record: record.id in going_on)
    return min(left[sum(took) :], key=lambda record: number_of(record.id), default=None)


def select(
    points: Sequence[Point], taken: Sequence[Sequence[float]], ranges: Sequence[Range], *,
    until: int, before: float, seed: int,
) -> list[float]:  # fmt: skip
    """Ray's choice of PB2: the values with the highest upper bound of what they may improve.

    Args:
        points: what is known, oldest first.
        taken: values that others of the same part have been given just now.
        ranges: of the values; logarithms of those that are `log`.
        until: step at which the new part begins.
        before: score there.
        seed: of the search for the highest; the same choice for the same arguments.
    """
    import numpy as np

    try:
        from ray.tune.schedulers.pb2 import _select_config
    except ImportError:
        raise UserError(f"scikit-learn is not installed: {INSTALL}") from None
    from sklearn.exceptions import ConvergenceWarning

    known = np.array([(p.until, p.before, *p.values) for p in points])
    # Ray asks at one of the points it knows, whose ranges are its measure. Ours is later, perhaps
    # better: beyond them its process is blind, and quite so where all that is known is of one step.
    at = np.clip([until, before], known[:, :2].min(axis=0), known[:, :2].max(axis=0))
    left = np.random.get_state()  # Ray draws from numpy's own generator
    try:
        np.random.seed(seed % 2**32)
        with warnings.catch_warnings():
            # Scales at their bounds are usual with a handful of points, and no news to a user.
            warnings.simplefilter("ignore", ConvergenceWarning)
            chosen = _select_config(
                known,
                np.array([p.gain for p in points]),
                np.array(taken) if taken else None,  # pyright: ignore
                at,
                {r.path: _limits(r) for r in ranges},
                num_f=2,
            )
    finally:
        np.random.set_state(left)
    pairs = zip(chosen.tolist(), ranges, strict=True)
    return [min(max(x, _limits(r)[0]), _limits(r)[1]) for x, r in pairs]


def _within(item: Range, value: float) -> float:
    """A value of a range, from one that rounding may have put beside it."""
    return min(max(value, item.low), item.high)


def _limits(item: Range) -> tuple[float, float]:
    return (math.log(item.low), math.log(item.high)) if item.log else (item.low, item.high)
