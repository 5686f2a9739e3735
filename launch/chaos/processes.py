"""Trainings as trees of processes that can be killed: one rank forked, or several launched."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.quickstart import ROOT, launcher
from trainer.leaving import ENDINGS, leave
from trainer.main import main

CONTEXT = multiprocessing.get_context("forkserver")
PATIENCE = 180.0
"""Seconds until a process that should have ended counts as stuck."""


class Training:
    """One life of a run, from construction to `wait`; its output is appended to `log`."""

    def __init__(self, words: Sequence[str], *, ranks: int, log: Path) -> None:
        """Start it. One rank is forked from a process that has torch loaded, which saves the
        seconds that a fresh one needs; more are launched as a user does it."""
        self.ranks_asked = ranks
        if ranks == 1:
            CONTEXT.set_forkserver_preload(["trainer.job", "trainer.main"])
            process = CONTEXT.Process(target=_life, args=(list(words), str(log)))
            process.start()
            assert process.pid is not None
            self.root, self._join = process.pid, process.join
        else:
            command = [*launcher(processes=ranks), str(ROOT / "trainer" / "main.py"), *words]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            with log.open("ab") as out:
                popen = subprocess.Popen(
                    command, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL
                )
            self.root, self._join = popen.pid, popen.wait
        self._seen: set[int] = set()

    def ranks(self) -> list[int]:
        """Processes of the ranks that live."""
        if self.ranks_asked == 1:
            found = [self.root] if alive(self.root) else []
        else:
            found = children(self.root)
        self._seen.update(found)
        return found

    def workers(self) -> list[int]:
        """Loader processes of all ranks."""
        found = [pid for rank in self.ranks() for pid in children(rank)]
        self._seen.update(found)
        return found

    @property
    def over(self) -> bool:
        """Whether the process that was started is gone."""
        return not alive(self.root)

    def wait(self) -> list[int]:
        """Wait for the end of every rank; those that are stuck, ended by force."""
        everyone = {self.root, *self.ranks(), *self._seen}
        end = time.monotonic() + PATIENCE
        while any(map(alive, everyone)) and time.monotonic() < end:
            time.sleep(0.005)
        stuck = [pid for pid in everyone if alive(pid)]
        for pid in stuck:
            kill(pid)
        self._join()
        return stuck


def kill(pid: int, number: int = 9) -> bool:
    """Send a signal; whether there was a process to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Processes that a process has started and that live."""
    try:
        lists = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except (OSError, ProcessLookupError):
        return []
    return [child for text in lists for child in map(int, text.split()) if alive(child)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def _life(words: list[str], log: str) -> None:
    """The forked process: what `trainer/main.py` does, its output going to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv = ["trainer/main.py", *words]
    code = main(words)
    leave(next(ending for ending in ENDINGS if ending.code == code))
