"""Rows of a table in a file, for tables that memory does not hold.

The file is sparse, has no name once it is open (a killed run leaves nothing behind), and is read
and written by rows: a map would count as this process's memory whatever large pages the system
keeps of it, and a full disk would kill the process.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError

PARTS = 1024
"""Pieces of memory that one call may read into (Linux: IOV_MAX)."""
PAGE = 4096
"""Bytes of a page of the system's cache."""


class Field(NamedTuple):
    """One thing stored per row: its trailing shape and dtype."""

    trail: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.trail) * self.dtype.itemsize


class RowFile:
    """A sparse file of `slots` records: all fields of a row side by side.

    Records that follow each other are read by one call, and where that costs little a record fills
    whole pages of the system's cache, so that no two share one. They are written one by one: a long
    write leaves large pages in the cache, and every later write of one row into such a page
    marks all of it: eight times as slow, and as much more to put on the disk.
    """

    def __init__(self, folder: Path, fields: Mapping[str, Field], slots: int) -> None:
        self._fields, self._folder = dict(fields), folder
        self._used = sum(field.row_bytes for field in fields.values())
        self.record = record_bytes(self._used)
        self._padding = bytes(self.record - self._used)
        self._unasked = memoryview(bytearray(self.record))
        """Where bytes between those that are asked for go."""
        self._file = tempfile.TemporaryFile(prefix="latents-", dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(max(1, slots * self.record))
        self._advise(0, 0, "RANDOM")

    def read(self, slots: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """The first fields of slots (n,), or all of them: (n, ...) by name."""
        rows = {
            name: torch.empty(len(slots), *field.trail, dtype=field.dtype)
            for name, field in self._first(names).items()
        }
        for parts, at, size in self._records(slots, rows, most=PARTS // (len(rows) + 1)):
            if os.preadv(self._file.fileno(), parts, at) != size:
                raise OSError(errno.EIO, f"{self._folder}: rows of the dictionary are gone")
        return rows

    def write_(self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        """Store the first fields of slots, or all of them.

        Raises:
            OSError: the disk is full or failing; names the folder.
        """
        ordered = {name: rows[name].contiguous() for name in self._first(rows)}
        padding = [self._padding] if len(rows) == len(self._fields) else []
        for parts, at, size in self._records(slots, ordered, most=1):
            try:
                written = os.pwritev(self._file.fileno(), [*parts, *padding], at)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._folder)) from error
            if written != size + sum(map(len, padding)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def fetch(self, slots: torch.Tensor) -> None:
        """Have the system begin to read records into its cache, all of them at once."""
        for slot in slots.tolist():
            at = slot * self.record
            self._advise(at, self._used, "WILLNEED")

    def sync(self) -> None:
        """Wait until all that was stored is on the disk: the system tells of a write that failed
        once, and here, and would give old bytes for it later."""
        try:
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"latents.scratch: {self._folder}: rows of the dictionary could not be written: "
                f"{error.strerror}; resume from the last checkpoint, with another folder"
            ) from error

    def forget(self) -> None:
        """Have the system drop from its cache what is on the disk already."""
        self._advise(0, 0, "DONTNEED")

    def _advise(self, at: int, size: int, what: str) -> None:
        """Tell the system what becomes of a part of the file, where it asks (macOS does not)."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), at, size, getattr(os, f"POSIX_FADV_{what}"))

    def _first(self, names: Collection[str]) -> dict[str, Field]:
        """Fields of these names, which must be the first ones of the record."""
        first = dict(islice(self._fields.items(), len(names)))
        if first.keys() != set(names):
            raise ValueError(f"fields {sorted(names)} are not the first of {list(self._fields)}")
        return first

    def _records(
        self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor], *, most: int
    ) -> Iterator[tuple[list[memoryview], int, int]]:
        """Of each run of at most so many slots that follow each other: memory of their fields and
        of what lies between, place in the file, and bytes."""
        raw = [(t.numpy().reshape(-1).view(np.uint8).data, t[:1].nbytes) for t in rows.values()]
        asked = sum(part for _, part in raw)
        between = self._unasked[: self.record - asked]
        numbers, first = slots.tolist(), 0
        for number, slot in enumerate(numbers):
            last = number + 1
            if last < len(numbers) and numbers[last] == slot + 1 and last - first < most:
                continue
            parts: list[memoryview] = []
            for place in range(first, last):
                parts += [data[place * part : (place + 1) * part] for data, part in raw]
                parts.append(between)
            parts.pop()
            yield parts, numbers[first] * self.record, (number - first) * self.record + asked
            first = last


def record_bytes(row: int) -> int:
    """Bytes on disk of a row of so many: whole pages, where they waste at most a quarter."""
    paged = -(-row // PAGE) * PAGE
    return paged if 4 * paged <= 5 * row else row
