"""Processes of this machine by pid and start time, so that a pid used again is never mistaken."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
PATIENCE = 120.0
"""Seconds that a training may take to save after SIGTERM, before it is killed."""


class Process(NamedTuple):
    """One process: where, which, and when it started (clock ticks since boot)."""

    host: str
    pid: int
    start: int


def process(pid: int) -> Process | None:
    """A live process of this machine; None where there is none (zombies count as none)."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Process(socket.gethostname(), pid, int(fields[19]))


def descendants(pid: int) -> list[Process]:
    """Every live process below one, as far as they have not left it."""
    parents: dict[int, list[int]] = {}
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        queue += children
        found += children
    return [known for child in found if (known := process(child))]


def alive(known: Process) -> bool:
    """Whether exactly this process still runs, on this machine."""
    return process(known.pid) == known


def end(processes: Iterable[Process], *, patience: float = PATIENCE) -> list[Process]:
    """Ask processes of this machine to stop, then stop them; returns those that were alive, without
    those of other accounts, which are none of ours."""
    living = [known for known in processes if alive(known)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for known in [*filter(alive, living)]:
            try:
                os.kill(known.pid, number)
            except ProcessLookupError:
                continue  # ended meanwhile
            except PermissionError:
                living.remove(known)
        over = time.monotonic() + patience
        while any(map(alive, living)) and time.monotonic() < over:
            time.sleep(0.05)
    return living


def kill(known: Process) -> bool:
    """Kill a process of this machine, its group and all below it; False where it is gone already.

    What torchrun starts leads groups of its own, so the group alone is not enough.
    """
    if not alive(known):
        return False
    below = descendants(known.pid)
    gone = ProcessLookupError, PermissionError  # or it is another account's
    with suppress(*gone):  # or leads no group yet
        os.killpg(known.pid, signal.SIGKILL)
    for one in filter(alive, (known, *below)):
        with suppress(*gone):
            os.kill(one.pid, signal.SIGKILL)
    return True
