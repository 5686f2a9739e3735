"""Why a rank ended, for those that only see that it is gone.

An error that ranks have not agreed on, such as a full scratch disk of one machine, ends its rank
alone; the others meet a closed connection. Before it goes the rank leaves a file in the run's
folder, and the others end as it did, for the same reason. Under the run's lock only.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

from trainer.commit import read_json
from trainer.leaving import ENDINGS, FAILED, RUN_FILE, USER_ERROR, Ending, ending_of, one_line

PATIENCE = 2.0
"""Seconds that rank 0 may be behind."""
log = logging.getLogger("navsynth")


def file_of(folder: Path, rank: int) -> Path:
    """Where a rank tells why it ended."""
    return folder / f"ended-rank-{rank}.json"


def forget(folder: Path, rank: int) -> None:
    """Remove those of this rank's earlier life."""
    file_of(folder, rank).unlink(missing_ok=True)


def write(folder: Path, rank: int, error: Exception) -> None:
    """Tell the others, before this rank goes; nothing where a lost rank is the reason."""
    ending, reason = told_of(error)
    if ending not in (USER_ERROR, FAILED):
        return
    path = file_of(folder, rank)
    part = path.with_suffix(".part")
    words = {"status": ending.status, "reason": f"rank {rank}: {reason}"}
    try:
        part.unlink(missing_ok=True)
        part.write_text(json.dumps(words))
        part.replace(path)
    except OSError as failure:  # the others will say that this rank is lost
        log.warning("%s: not written: %s", path, failure)


def of_others(folder: Path, rank: int, world: int) -> tuple[Ending, str] | None:
    """How the first of the other ranks ended that left words, and why."""
    for other in range(world):
        words = {}
        with suppress(OSError, ValueError):  # of a disk that is away, too
            words = read_json(file_of(folder, other)) if other != rank else {}
        for ending in ENDINGS:
            if words and ending.status == words.get("status"):
                return ending, str(words.get("reason"))
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
