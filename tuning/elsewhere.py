"""Run folders that a training on another machine has, which cannot be ended from here.

Whoever trains in a run folder counts up in its lock (`trainer.runlock`) and empties it when it
leaves. A trial that goes on with another node's training has to wait for that.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.leaving import FAILED, USER_ERROR

LOCK = "run.lock"
"""`trainer.runlock.LOCK`, which is not imported: a trial's actor does without torch."""
STILL = 30.0
"""Seconds, three beats, after which an owner that does not count on is dead. The next training sees
for itself and takes its lock over."""
LOOK = 0.2


def owner(run: Path) -> dict[str, Any]:
    """Host, pid and count of who has a run folder on another machine; empty: nobody has."""
    path = run / LOCK
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:  # emptied, or being written: nobody, or somebody who shows again
        return {}
    known = isinstance(found, dict) and {"host", "pid"} <= found.keys()
    return found if known and found["host"] != socket.gethostname() else {}


def wait(run: Path, *, patience: float, unless: Callable[[], bool]) -> None:
    """Wait until nobody on another machine has a run folder, for `patience` seconds at most; no
    longer where its owner is dead, nor once `unless` says so."""
    begun = moved = time.monotonic()
    seen = owner(run)
    while seen and not unless():
        time.sleep(LOOK)
        fresh, now = owner(run), time.monotonic()
        moved = moved if fresh == seen else now
        seen = fresh
        if now - begun > patience or now - moved > STILL:
            return


def kept_out(run: Path, code: int | None, *, begun: bool, workers: int) -> str:
    """Who kept a training from beginning, in a few words; empty: nobody on another machine.

    Args:
        run: its folder.
        code: its exit code; that of a launcher, where it has several workers, is 1 for all ends.
        begun: whether run.json is of this very life.
        workers: its processes.
    """
    refused = code == USER_ERROR.code or (workers > 1 and code == FAILED.code)
    found = owner(run) if refused and not begun else {}
    return f"in use by process {found['pid']} on {found['host']}" if found else ""
