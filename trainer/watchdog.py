"""Ends a process that hangs: exit code 4, with the stacks of all its threads in the run folder.

The loop calls `beat(step, phase)` at every phase of a step. When no beat came for `hang_seconds`,
each rank writes `hang-rank-N.txt` and leaves; ranks that wait in a collective for the culprit hang
as well, so every rank tells its story. Long work (evaluation, a blocking save) runs under
`patience(seconds)`.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.leaving import HANG, leave

BACKSTOP_SECONDS = 60.0
"""A thread of the C library ends the process (code 1) so long after the watchdog should have, in
case foreign code never lets a Python thread run. Its clock goes on while the process is suspended:
one that was for longer than `hang_seconds` and this ends when it goes on."""
ASLEEP_SECONDS = 20.0
"""A watchdog that could not look for so much longer than it meant to was stopped with its process
(Ctrl-Z, `scontrol suspend`); what was silent meanwhile does not hang."""
GRACE_SECONDS = 10.0
"""How long the first rank to give up waits for the stacks of the others."""


def hang_file(folder: Path, rank: int) -> Path:
    """Where the stacks of a rank go."""
    return folder / f"hang-rank-{rank}.txt"


class Watchdog:
    """Watches this process from a thread between `start()` and `stop()`."""

    def __init__(
        self,
        folder: Path,
        *,
        hang_seconds: float,
        rank: int = 0,
        world: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hang_seconds` 0 watches nothing."""
        self._folder, self._rank, self._world = folder, rank, world
        self._limit = self._usual = hang_seconds
        self._clock = clock
        self._last = clock()
        self._step, self._phase = 0, "start"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch; stacks of an earlier life of the run are removed."""
        if self._usual <= 0:
            return
        hang_file(self._folder, self._rank).unlink(missing_ok=True)
        self._last = self._clock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def beat(self, step: int | None = None, phase: str | None = None) -> None:
        """A sign of life, and where it comes from."""
        self._last = self._clock()
        self._step = self._step if step is None else step
        self._phase = phase or self._phase

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Allow the body `seconds` without a beat, never less than what is allowed around it."""
        self.beat()
        before = self._limit
        self._limit = max(before, seconds)
        try:
            yield
        finally:
            self.beat()
            self._limit = before

    @property
    def silent(self) -> bool:
        """Whether the last beat is too long ago."""
        return self._clock() - self._last >= self._limit

    def culprit(self) -> str:
        """For a rank whose peer is gone: one line on who hung in this life of the run, after its
        own stacks are written; "" where nobody did."""
        if self._thread is None:
            return ""
        others = (rank for rank in range(self._world) if rank != self._rank)
        hung = [rank for rank in others if hang_file(self._folder, rank).exists()]
        if not hung:
            return ""
        line = self._line(f"rank {hung[0]} hung and is gone")
        with suppress(OSError):
            self.report(line)
        return line

    def report(self, line: str = "") -> Path:
        """Write `line` (by default: how long it was silent) and the stacks of all threads; returns
        the file."""
        path = hang_file(self._folder, self._rank)
        fresh = path.with_suffix(".tmp")
        with fresh.open("w") as file:
            file.write(f"{line or self._line()}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        return path

    def _line(self, what: str = "") -> str:
        what = what or f"no sign of life for {self._limit:g} s"
        place = f"in step {self._step}, phase {self._phase}"
        return f"rank {self._rank} of {self._world}: {what}, {place}"

    def _watch(self) -> None:
        pause = min(1.0, self._usual / 10)
        looked = time.monotonic()
        while not self._stop.wait(pause):
            limit = self._limit + BACKSTOP_SECONDS
            faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or sys.stderr)
            asleep = time.monotonic() - looked > pause + ASLEEP_SECONDS
            looked = time.monotonic()
            if asleep:
                self._last = self._clock()
            elif self.silent:
                self._end()

    def _end(self) -> None:
        line = self._line()
        try:
            line += f"; stacks: {self.report()}"
            self._await_others()
        except OSError as error:
            line += f"; stacks not written: {error}"
        finally:
            print(line, file=sys.stderr, flush=True)
            ended = round(time.time(), 3)
            leave(HANG, folder=self._folder, rank=self._rank, reason=line, ended=ended)

    def _await_others(self) -> None:
        end = time.monotonic() + GRACE_SECONDS
        files = [hang_file(self._folder, rank) for rank in range(self._world)]
        while time.monotonic() < end and not all(file.exists() for file in files):
            time.sleep(0.05)
