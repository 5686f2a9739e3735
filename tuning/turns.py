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
from tuning.population import Population, Wait
from tuning.records import (
    FAILED,
    PENDING,
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
"""Trials that fail one after the other, before any of them has cost an accelerator-second, until
the search gives up: neither budget nor scheduler would ever end it."""


class Turns:
    """Draws, resumes and counts the trials of one life of a search."""

    def __init__(
        self, study: Path, settings: Settings, space: Space, way: Way,
        on_change: Callable[[Record], None],
    ) -> None:  # fmt: skip
        records = read_records(study)
        self._study, self._settings, self._space, self._way = study, settings, space, way
        self._on_change = on_change
        self._sampler = sampler_of(study, settings, space, way)
        self._waiting = [record for record in records if record.status in UNFINISHED]
        self._again: list[Record] = []
        self._interrupted: Counter[str] = Counter()
        self._made, self._row = len(records), 0
        self.gave_up = ""
        """Why no more trials come, where that is not the search's proper end."""

    def next(self) -> Record | Wait | None:
        """The next trial; `Wait` where others have to end before, None where no more comes."""
        least = self._settings.width * self._settings.interval
        if self.gave_up or Ledger(self._study).account().left < least:
            return None
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
        cost = Ledger(self._study).account().of_trial(record.id)
        self._row = self._row + 1 if record.status == FAILED and cost < 1 else 0
        if self._row >= IN_A_ROW:
            self.gave_up = (
                f"{self._row} trials in a row failed before they had cost an accelerator-second; "
                f"{record.id}: {record.reason}"
            )
        self._on_change(record)


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
