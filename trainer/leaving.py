"""How a run ends: exit codes, the exceptions that carry them, signals, and the way out.

Signals only set a flag; the loop agrees on it with all ranks at the end of a step, saves and
leaves. `leave` writes the run's status before it ends the process without Python's shutdown,
because gloo now and then aborts there after all work is done.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from data_shards.disk import DISK_ERRORS
from data_shards.errors import LoaderLost, UserError
from trainer.commit import update_json

RUN_FILE = "run.json"
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class ExitCode(IntEnum):
    """What the process that started a run gets to know."""

    DONE = 0
    FAILED = 1
    USER_ERROR = 2
    NON_FINITE = 3
    HANG = 4
    LOST_RANK = 5
    PREEMPTED = 6


class Ending(NamedTuple):
    """One way in which a run may end."""

    code: ExitCode
    status: str
    meaning: str


DONE = Ending(ExitCode.DONE, "done", "the run is complete")
FAILED = Ending(ExitCode.FAILED, "failed", "a bug: the traceback is on stderr")
USER_ERROR = Ending(ExitCode.USER_ERROR, "user-error", "bad input, named in one line on stderr")
NON_FINITE = Ending(
    ExitCode.NON_FINITE, "non-finite", "a loss or gradient is not finite; the step was not taken"
)
HANG = Ending(ExitCode.HANG, "hang", "no sign of life; the stacks are in hang-rank-N.txt")
LOST_RANK = Ending(
    ExitCode.LOST_RANK, "lost-rank", "a process of the run died or cannot be reached"
)
PREEMPTED = Ending(ExitCode.PREEMPTED, "preempted", "a signal; saved, start it again to continue")
ENDINGS = (DONE, FAILED, USER_ERROR, NON_FINITE, HANG, LOST_RANK, PREEMPTED)

LOST = re.compile(
    r"gloo|connection (closed|reset|refused)|broken pipe|nccl|socket timeout|"
    r"timed out waiting|connection was likely closed|dataloader worker \(pid",
    re.IGNORECASE,
)

log = logging.getLogger("navsynth")


class NonFinite(Exception):  # noqa: N818
    """A loss term, gradient or row is not finite; raised on every rank before the update."""


_BY_TYPE: dict[type[BaseException], Ending] = {
    UserError: USER_ERROR,
    NonFinite: NON_FINITE,
    LoaderLost: LOST_RANK,
}


def ending_of(error: BaseException | None) -> Ending:
    """How a run ends that stopped with `error` (None: it is done).

    Backends report a dead peer as a bare RuntimeError, so the text decides there. A disk that is
    full or fails is for the user to mend.
    """
    if error is None:
        return DONE
    for kind, ending in _BY_TYPE.items():
        if isinstance(error, kind):
            return ending
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return USER_ERROR
    name = type(error).__name__
    if name.startswith("Dist") or (isinstance(error, RuntimeError) and LOST.search(str(error))):
        return LOST_RANK
    return FAILED


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


class Asked:
    """Signals that arrived so far. `signals()` installs the handlers."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the first signal."""

    def _note(self, number: int, _frame: Any) -> None:
        self.signal = self.signal or signal.Signals(number).name


@contextmanager
def signals() -> Iterator[Asked]:
    """Have SIGTERM, SIGINT and SIGUSR1 set a flag and nothing else; the old handlers come back.

    Main thread only.
    """
    asked = Asked()
    before = {number: signal.signal(number, asked._note) for number in SIGNALS}
    _follow_launcher()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow_launcher() -> None:
    """Have the system send SIGTERM when torchrun dies: ranks without it would hold the run's lock,
    and the same command again would be refused. Linux only."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow_parent()


def follow_parent() -> None:
    """Have the system send SIGTERM when the thread that started this process ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def leave(
    ending: Ending | int, *, folder: Path | None = None, rank: int = 0, **fields: Any
) -> NoReturn:
    """End this process with the ending's code; rank 0 writes the status into `run.json` first.

    The bare code will do. Without `folder`, or where there is no such folder, nothing is written.
    """
    if not isinstance(ending, Ending):
        ending = next(known for known in ENDINGS if known.code == ending)
    if rank == 0 and folder is not None and folder.is_dir():
        try:
            update_json(folder / RUN_FILE, status=ending.status, code=ending.code, **fields)
        except (OSError, ValueError) as error:
            log.warning("%s: status %s not written: %s", folder / RUN_FILE, ending.status, error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # closed or a broken pipe: there is nobody left to tell
    restarts = ending is PREEMPTED and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    # A launcher that restarts whatever fails would take no notice of being asked to stop.
    os._exit(0 if restarts else ending.code)
