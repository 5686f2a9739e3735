"""Whose turn it is: unfinished trials first, then new ones; and what becomes of those that ended.

Ray's searcher and callback (`asking`) only pass on what is said here; nothing here knows Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import resolve
from tuning.ledger import Ledger
from tuning.population import WAIT, Population, Wait
from tuning.records import (
    DONE,
    FAILED,
    OVER_CAP,
    PART,
    PENDING,
    RUNG,
    RUNNING,
    STOPPED,
    UNFINISHED,
    Record,
    Settings,
    read_record,
    read_records,
    stop_mark,
    write_record,
)
from tuning.sampling import Drawn, Sampler
from tuning.space import Space, values_of, words_of

if TYPE_CHECKING:
    from tuning.engine import Way

RETRIES = 2
"""Times that a trial is taken up again in one life of the search, from its training's checkpoint,
after its worker was killed, or its training asked to stop by somebody else."""
IN_A_ROW = 5
"""Trials that fail one after the other until the search gives up: see `Failures`."""


class Failures:
    """Counts trials that fail one after the other, for a search that would never end well.

    It gives up after `IN_A_ROW` that have not cost an accelerator-second each, since neither budget
    nor scheduler would ever end it; and after as many at any cost while no trial of the study has
    come to its end, which would spend the whole budget on nothing.
    """

    def __init__(self, *, useful: bool) -> None:
        """`useful`: whether a trial of an earlier life has come to its end."""
        self._useful = useful
        self._free = self._all = 0
        self._out: set[str] = set()
        self._older: set[str] = set()
        self.verdict = ""
        """Why to give up; empty: there is no reason."""

    @property
    def waits(self) -> bool:
        """Whether a trial that was given out has not ended."""
        return bool(self._out)

    def begun(self, name: str) -> None:
        """Take in that a trial has been given out."""
        self._out.add(name)

    def ended(self, record: Record, *, cost: float) -> None:
        """Take in a trial's end; `cost` in accelerator-seconds, of all its lives."""
        failed = record.status == FAILED or record.reason.startswith(OVER_CAP)
        self._useful = self._useful or record.status in (DONE, PART)
        self._out.discard(record.id)
        if failed and not self._all:
            self._older = set(self._out)
        # Trials that fail soon overtake good ones: those given out before are waited for.
        self._older &= self._out
        self._all = self._all + 1 if failed else 0
        self._free = self._free + 1 if failed and cost < 1 else 0
        if self._free >= IN_A_ROW:
            what = f"{self._free} trials in a row failed before they had cost an accelerator-second"
        elif self._all >= IN_A_ROW and not self._useful and not self._older:
            what = f"{self._all} trials in a row failed, and none has come to its end"
        else:
            return
        self.verdict = f"{what}; {record.id}: {record.reason}"


class Turns:
    """Draws, resumes and counts the trials of one life of a search."""

    def __init__(
        self, study: Path, settings: Settings, space: Space, way: Way,
        on_change: Callable[[Record], None],
    ) -> None:  # fmt: skip
        records = [told_to_stop(study, record) for record in read_records(study)]
        self._study, self._settings, self._space, self._way = study, settings, space, way
        self._on_change, self._ledger = on_change, Ledger(study)
        self._sampler = sampler_of(study, settings, space, way)
        self._waiting = [record for record in records if record.status in UNFINISHED]
        self._again: list[Record] = []
        self._interrupted: Counter[str] = Counter()
        self._made = len(records)
        self._failures = Failures(useful=any(r.status in (DONE, PART) for r in records))

    @property
    def gave_up(self) -> str:
        """Why no more trials come, where that is not the search's proper end."""
        return self._failures.verdict

    def next(self) -> Record | Wait | None:
        """The next trial; `Wait` where others have to end before, None where no more comes."""
        least = self._settings.width * self._settings.interval
        if self.gave_up or self._ledger.account().left < least:
            return None
        found = self._next()
        if isinstance(found, Record):
            self._failures.begun(found.id)
        # One of those that run may be interrupted, and is then to be taken up again.
        return WAIT if found is None and self._failures.waits else found

    def _next(self) -> Record | Wait | None:
        if self._again:  # the sampler still waits for it
            return self._again.pop(0)
        if self._waiting:
            record = self._waiting.pop(0)
            self._sampler.ask(record.id, record.values)
            return record
        if self._way.trials and self._made >= self._way.trials:
            return None
        drawn = self._sampler.draw()
        if drawn is None or isinstance(drawn, Wait):
            return drawn
        self._made += 1
        return new_record(self._study, self._settings, self._space, drawn)

    def reported(self, name: str) -> None:
        """Take in that a trial has reached a rung."""
        self._on_change(read_record(self._study, name))

    def ended(self, name: str) -> None:
        """Take in that a trial has come to its end, or is to be stopped at a rung."""
        record = read_record(self._study, name)
        if record.status == RUNNING:
            stop_mark(self._study, name).touch()
            record = record._replace(status=STOPPED)  # its own process writes this down
        if record.status == PENDING and self._interrupted[name] < RETRIES:
            self._interrupted[name] += 1
            self._again.append(record)
            self._on_change(record)
        else:
            self._tell(record)

    def failed(self, name: str, reason: str) -> None:
        """Take in that a trial's worker failed more often than it is taken up again."""
        record = read_record(self._study, name)
        if record.status in (PENDING, RUNNING):
            record = write_record(self._study, record._replace(status=FAILED, reason=reason))
        self._tell(record)

    def _tell(self, record: Record) -> None:
        self._sampler.tell(record)
        self._failures.ended(record, cost=self._ledger.account().of_trial(record.id))
        self._on_change(record)


def told_to_stop(study: Path, record: Record) -> Record:
    """A trial that was told to stop at a rung is over, also where its process, or the search, was
    killed before it had written that down."""
    if record.status not in UNFINISHED or not stop_mark(study, record.id).exists():
        return record
    return write_record(study, record._replace(status=STOPPED, reason=RUNG))


def new_record(study: Path, settings: Settings, space: Space, drawn: Drawn) -> Record:
    """The record of a trial that was just drawn, written down."""
    if drawn.parent:
        words = read_record(study, drawn.parent).words
    else:
        words = (*settings.words, *words_of(space, drawn.values, fixed=settings.words))
    if drawn.until:
        words = (*words, f"train.until={drawn.until}", f"train.changes={drawn.changes}")
    record = Record(drawn.name, drawn.values, (*words, f"name={drawn.name}"))
    more = {"parent": drawn.parent, "until": drawn.until, "changes": drawn.changes}
    return write_record(study, record._replace(**more))


def sampler_of(study: Path, settings: Settings, space: Space, way: Way) -> Sampler | Population:
    """What draws the values of new trials."""
    # What the user would have trained with: a search finds nothing worse.
    first = values_of(space, resolve(settings.words))
    if way.searcher == "pb2":
        return Population(space, settings, lambda: read_records(study), first=first)
    return Sampler(
        space, settings.objectives, read_records(study), searcher=way.searcher,
        seed=settings.seed, first=first,
    )  # fmt: skip
