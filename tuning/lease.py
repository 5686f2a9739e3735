"""Accelerators that one life of a trial holds: a thread reserves them, and ends what overruns.

At half of each interval the next one is reserved (`ledger`). Once the budget bears no more, the
trial is over its cap, or the ledger cannot be kept, the holder is asked to leave. It may take what
it has reserved and one interval more, which is charged in any case; then it is killed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from trainer.leaving import one_line
from tuning.ledger import Ledger
from tuning.records import Settings

WATCH = 0.2
"""Seconds between two looks at whether a trial has to leave."""
LEAVING = 1.0
"""Seconds in which a killed holder is gone and its lease ended: it is killed as much earlier."""


class Lease:
    """Owns what a life of a trial holds, from `take` to `end`."""

    def __init__(
        self, study: Path, settings: Settings, trial: str, *, watch: Callable[[], None],
        ask: Callable[[], None], kill: Callable[[], None],
    ) -> None:  # fmt: skip
        """The thread calls `watch` at every look, `ask` once when the holder has to leave, and
        `kill` at every look from the moment on at which it is late."""
        self._settings, self._trial, self._ledger = settings, trial, Ledger(study)
        self._watch, self._ask, self._kill = watch, ask, kill
        self._name = f"{trial}.{uuid.uuid4().hex[:8]}"
        self._earlier = self._ledger.account().of_trial(trial)
        self._over, self._refused = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ledger", daemon=True)
        self._begun = self._until = self._limit = 0.0
        self._asked = False
        self.capped = False
        """Whether the trial's own cap, and not the budget, bears no more."""
        self.problem = ""
        """What went wrong with keeping the ledger, in one line."""

    @property
    def refused(self) -> bool:
        """Whether the holder has to leave."""
        return self._refused.is_set()

    def take(self) -> bool:
        """Reserve the first interval and go on reserving; False where that is not borne."""

        def first() -> float:  # nothing is held while others keep the ledger
            self._begun = time.monotonic()
            return self._settings.interval

        self._begun = time.monotonic()
        self.capped = self._over_cap()
        if self.capped or not self._hold(first):
            return False
        self._thread.start()
        return True

    def end(self) -> None:
        """Charge what was held, and hold nothing more. Safe to call twice, or with nothing held."""
        self._over.set()
        if self._thread.ident is None:
            return
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._ledger.end(self._name, held=self._held())

    def _held(self) -> float:
        return time.monotonic() - self._begun

    def _over_cap(self) -> bool:
        return 0 < self._settings.cap <= self._earlier + self._settings.width * self._held()

    def _renew(self) -> bool:
        self.capped = self._over_cap()
        return not self.capped and self._hold(lambda: self._held() + self._settings.interval)

    def _hold(self, until: Callable[[], float], *, beyond: bool = False) -> bool:
        borne = self._ledger.hold(
            self._name, trial=self._trial, width=self._settings.width, until=until, beyond=beyond
        )
        self._until = borne or self._until
        return borne > 0

    def _beat(self) -> None:
        half = self._settings.interval / 2
        while not self._over.wait(min(WATCH, half)):
            try:
                late = self._held() >= self._until - half or self._over_cap()
                if late and not self.refused and not self._renew():
                    self._refuse()
                if self.refused:
                    self._press()
                self._watch()
            except Exception as error:  # a full disk, a damaged ledger: as good as a refusal
                self._refuse(one_line(error))

    def _refuse(self, problem: str = "") -> None:
        if not self.refused:
            self.problem = problem
            interval = self._settings.interval
            self._limit = self._until + interval - min(LEAVING, interval / 2)
            self._refused.set()

    def _press(self) -> None:
        """Have the holder leave: asked first, killed once it is late, charged for the meantime."""
        if not self._asked:
            self._asked = True
            self._ask()
        held, interval = self._held(), self._settings.interval
        if held >= self._limit:
            self._kill()
        elif self._until < self._limit and self._until <= held + 2 * min(WATCH, interval / 2):
            # Also what it holds between the kill and its end.
            last = self._limit + min(LEAVING, interval / 2)
            self._hold(lambda: last, beyond=True)
