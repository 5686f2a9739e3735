"""How far a long job is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_SECONDS = 10.0


class Bar:
    """Shows one job; `at(done, note)` says how far it is."""

    def __init__(self, total: int, *, unit: str, stream: TextIO, progress: Progress | None) -> None:
        self.total, self._unit, self._stream, self._progress = total, unit, stream, progress
        self._task = progress.add_task("", total=total, note="") if progress else None
        self._spoken = self._began = time.monotonic()

    def at(self, done: int, note: str = "") -> None:
        """Show `done` out of `total`; a plain line is written every ten seconds at most."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._spoken >= _LINE_SECONDS:
            self._spoken = time.monotonic()
            self.say(f"{self._share(done)} {note}{self._left(done)}")

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def _share(self, done: int) -> str:
        if self._unit == "bytes":
            return f"{done / 2**20:.0f} of {self.total / 2**20:.0f} MiB"
        return f"{done} of {self.total} {self._unit}"

    def _left(self, done: int) -> str:
        if not done:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self.total - done)
        return f", {seconds:.0f} s left"


@contextmanager
def bar(title: str, total: int, *, unit: str, stream: TextIO | None = None) -> Iterator[Bar]:
    """A bar for `total` of `unit` ("bytes" or a noun) on `stream` (stderr)."""
    where: TextIO = stream or sys.stderr
    if not where.isatty():
        yield Bar(total, unit=unit, stream=where, progress=None)
        return
    count = DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn()
    columns = (
        TextColumn(title),
        BarColumn(),
        count,
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(file=where)
    ) as progress:
        yield Bar(total, unit=unit, stream=where, progress=progress)
