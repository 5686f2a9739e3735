"""Why a rank ended, for those that only see that it is gone.

An error that ranks have not agreed on, such as a full scratch disk of one machine, ends its rank
alone; the others meet a closed connection. Before it goes the rank leaves a file in the run's
folder, for the others to read. Under the run's lock only.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

from trainer.commit import read_json
from trainer.leaving import FAILED, LOST_RANK, RUN_FILE, USER_ERROR, Ending, ending_of, one_line

PATIENCE = 2.0
"""Seconds that rank 0 may be behind."""
PREFIX = "ended-rank-"

log = logging.getLogger("navsynth")


class LastWords:
    """What this rank leaves, and what it finds of others, in one life of a run."""

    def __init__(self, folder: Path, *, rank: int, world: int) -> None:
        self._folder, self._rank, self._world = folder, rank, world
        self._begun = False

    def begin(self) -> None:
        """Forget those of this rank's earlier life, and of ranks that the run has no more."""
        for path in self._folder.glob(f"{PREFIX}*"):
            number = path.stem.removeprefix(PREFIX)
            rank = int(number) if number.isdecimal() else -1
            if rank == self._rank or (rank >= self._world and not self._rank):
                path.unlink(missing_ok=True)
        self._begun = True

    def write(self, error: Exception) -> None:
        """Tell the others, where there are any, before this rank goes; nothing where a lost rank is
        the reason."""
        ending, reason = told_of(error)
        if self._world == 1 or ending not in (USER_ERROR, FAILED):
            return
        path = self._folder / f"{PREFIX}{self._rank}.json"
        part = path.with_suffix(".part")
        reason = f"rank {self._rank}: {reason}" if self._rank else reason
        try:
            part.unlink(missing_ok=True)
            part.write_text(json.dumps({"status": ending.status, "reason": reason}))
            part.replace(path)
        except OSError as failure:  # the others will say that this rank is lost
            log.warning("%s: not written: %s", path, failure)

    def of_others(self) -> tuple[Ending, str] | None:
        """How this rank ends for what the first of the others has left, and why. A mistake of the
        user's is one on every rank. What failed there may be a sick card: to the others the rank
        is lost, and why is known."""
        if not self._begun:
            return None
        for rank in (rank for rank in range(self._world) if rank != self._rank):
            words = {}
            with suppress(OSError, ValueError):  # of a disk that is away, too
                words = read_json(self._folder / f"{PREFIX}{rank}.json")
            if words:
                mistake = words.get("status") == USER_ERROR.status
                return USER_ERROR if mistake else LOST_RANK, str(words.get("reason"))
        return None


def told_of(error: Exception) -> tuple[Ending, str]:
    """How a rank ends that stopped with `error`, and the line that says why."""
    ending, reason = ending_of(error), one_line(error)
    return ending, f"{type(error).__name__}: {reason}" if ending is FAILED else reason


def said(folder: Path, reason: str) -> bool:
    """Whether rank 0 ended for the same reason, and has said so; it may be a moment behind."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            if read_json(folder / RUN_FILE).get("reason") == reason:
                return True
        time.sleep(0.05)
    return False
