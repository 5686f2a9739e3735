"""How a trial's training ended, from its run.json, its log and its exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.leaving import FAILED, HANG, LOST_RANK, NON_FINITE, PREEMPTED, USER_ERROR

LOG = "trial.log"
MEMORY = re.compile(r"out of memory|MemoryError|can't allocate memory|cannot allocate", re.I)
TOLD = tuple(ending.status for ending in (NON_FINITE, HANG, LOST_RANK, USER_ERROR))
"""Statuses of run.json that come with a reason."""
KILL_CODES = (-signal.SIGKILL, 128 + signal.SIGKILL)
KILLED = "killed by signal 9 (out of memory, perhaps)"
FRAME = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
"""What a launcher of several processes says last, in a frame of its own, where one has failed."""
RULE = re.compile(r"^=+\s*$", re.M)
"""What such a frame begins and ends with."""
NOTICE = re.compile(r"(\[rank\d+\]:)?\[?[EWI]\d{4} \d\d:\d\d:\d\d")
"""How other lines of torch's own begin."""
RANK_KILLED = re.compile(r"exitcode\s*: -9\b|Signal 9 \(SIGKILL\) received")
MOST = 20_000
"""Characters of a log's end that are looked at."""


def asked(code: int | None) -> bool:
    """Whether a process ended by SIGTERM."""
    return code in (-signal.SIGTERM, 128 + signal.SIGTERM)


def interrupted(state: Mapping[str, Any], code: int | None, *, begun: bool) -> bool:
    """Whether somebody has asked a training to stop (an operator, scancel): it can go on.

    Args:
        state: its run.json.
        code: its exit code.
        begun: whether run.json is of this very life; an earlier one may have left its status.
    """
    return asked(code) or (begun and state.get("status") == PREEMPTED.status)


def why(run: Path, state: Mapping[str, Any], code: int | None) -> str:
    """One line on why a training did not end well.

    Args:
        run: its folder.
        state: its run.json.
        code: its exit code.
    """
    if MEMORY.search(log_of(run)):
        return "out of memory"
    told = state.get("status")
    # Ranks that did not leave after one of them had ended like that are killed by their launcher.
    first = told in TOLD and told != LOST_RANK.status and code not in KILL_CODES
    if not first and killed(run, code):
        return KILLED
    if told in TOLD:
        return f"{told}: {state.get('reason') or last_words(run)}"
    reason = state.get("reason") if told == FAILED.status else ""
    return f"ended with code {code}: {reason or last_words(run)}"


def killed(run: Path, code: int | None) -> bool:
    """Whether a process was killed with -9, or one of several was, of which its launcher tells."""
    if code in KILL_CODES:
        return True
    frame, after = framed(log_of(run))[1:]
    return bool(code) and not after.strip() and RANK_KILLED.search(frame) is not None


def framed(text: str) -> tuple[str, str, str]:
    """A log's text before its last frame of a launcher, the frame, and what comes after it."""
    before, found, rest = text.rpartition(FRAME)
    if not found:
        return text, "", ""
    traceback = before.rfind("Traceback (most recent call last)")  # the launcher's own
    ends = [match.end() for match in RULE.finditer(rest)][:2]
    end = ends[-1] if ends else len(rest)
    return before[: traceback if traceback >= 0 else None], rest[:end], rest[end:]


def log_of(run: Path) -> str:
    """The end of a trial's log."""
    path = run / LOG
    return path.read_text(errors="replace")[-MOST:] if path.is_file() else ""


def last_words(run: Path) -> str:
    """The last line of a trial's log that is a process's own and not its launcher's."""
    before, _, after = framed(log_of(run))
    lines = [
        line for line in (after if after.strip() else before).strip().splitlines()
        if line.strip() and not NOTICE.match(line)
    ]  # fmt: skip
    return (lines or ["no output"])[-1][:300]
