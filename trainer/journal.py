"""`metrics.jsonl`: one JSON line for each logged step and event, in order, across restarts."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.commit import replace_durable

log = logging.getLogger("navsynth")
TAIL = 1 << 16
"""Bytes at a journal's end in which its last line is looked for."""


class Journal:
    """Appends lines; every line is in the file when `write` returns, or not at all."""

    def __init__(self, path: Path, *, start_step: int = 0) -> None:
        """Open the journal of a run that goes on after `start_step`; later lines are cut off."""
        self._path = path
        self._warned = self._torn = False
        self._open(start_step)

    def _open(self, step: int) -> None:
        cut(self._path, step=step)
        self._file = self._path.open("ab", buffering=0)
        self._good = self._file.seek(0, os.SEEK_END)

    def back(self, step: int) -> None:
        """Cut off the lines after `step`, since those steps will be taken again."""
        self._file.close()
        self._open(step)

    def write(self, line: Mapping[str, Any]) -> bool:
        """Append a line; False if the disk did not take it (told once, nothing is half-written)."""
        data = (json.dumps(plain(line), separators=(",", ":")) + "\n").encode()
        try:
            if self._torn:
                self._mend()
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes written")
        except OSError as error:
            self._torn = True
            with suppress(OSError):  # else before the next line
                self._mend()
            if not self._warned:
                log.warning("%s: a line is lost: %s; training goes on", self._path, error)
                self._warned = True
            return False
        self._good += len(data)
        return True

    def _mend(self) -> None:
        """Cut off what a failed write left."""
        self._file.truncate(self._good)
        self._torn = False

    def close(self) -> None:
        """Make the file durable and close it; a disk that fails here costs lines, not the run."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            log.warning("%s: the last lines may be lost: %s", self._path, error)
        self._file.close()


def cut(path: Path, *, step: int) -> int:
    """Drop lines of steps after `step` and whatever is not a whole line, atomically; how many."""
    if not path.is_file():
        return 0
    raw = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in raw if _step_of(line) <= step]
    if len(kept) < len(raw):
        replace_durable(path, b"".join(kept))
    return len(raw) - len(kept)


def lost_seconds(path: Path, *, step: int) -> float:
    """Training time of a journal's lines after `step`, which `cut` will drop."""
    if not path.is_file():
        return 0.0
    lines = [line for line in read(path) if isinstance(line.get("seconds"), int | float)]
    kept = [line["seconds"] for line in lines if line["step"] <= step]
    return max(0.0, lines[-1]["seconds"] - (kept[-1] if kept else 0.0)) if lines else 0.0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a journal that may be growing; a last line that is not whole yet is left out."""
    with path.open("rb") as file:
        for line in file:
            if (found := _parsed(line)) is not None:
                yield found


def last_step(path: Path) -> float:
    """Step of the last whole line, read from the file's end; minus infinity without one."""
    if not path.is_file():
        return -math.inf
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        found = filter(None, map(_parsed, reversed(file.read().splitlines(keepends=True))))
        return next((float(line["step"]) for line in found), -math.inf)


def _step_of(line: bytes) -> float:
    """Step of a line; infinite for a line that is not whole."""
    found = _parsed(line)
    return math.inf if found is None else float(found["step"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line; None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        return value if math.isfinite(float(value["step"])) else None
    except (ValueError, KeyError, TypeError):
        return None


def plain(value: Any) -> Any:
    """A value for JSON, which has no NaN: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
