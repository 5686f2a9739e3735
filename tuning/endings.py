"""How a trial's training ended, from its run.json, its log and its exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.leaving import HANG, LOST_RANK, NON_FINITE, PREEMPTED, USER_ERROR

LOG = "trial.log"
MEMORY = re.compile(r"out of memory|MemoryError|can't allocate memory|cannot allocate", re.I)
TOLD = tuple(ending.status for ending in (NON_FINITE, HANG, LOST_RANK, USER_ERROR))
"""Statuses of run.json that come with a reason."""
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
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed by signal 9 (out of memory, perhaps)"
    told = state.get("status")
    if told in TOLD:
        return f"{told}: {state.get('reason') or last_words(run)}"
    return f"ended with code {code}: {last_words(run)}"


def log_of(run: Path) -> str:
    """The end of a trial's log."""
    path = run / LOG
    return path.read_text(errors="replace")[-MOST:] if path.is_file() else ""


def last_words(run: Path) -> str:
    """The last line of a trial's log."""
    return (log_of(run).strip().splitlines() or ["no output"])[-1][:300]
