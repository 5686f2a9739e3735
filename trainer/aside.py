"""Rows that a snapshot sets aside until it is read: the first in memory, the others in a file.

Where a checkpoint is written more slowly than training overwrites rows, what is set aside may grow
to a whole table. What exceeds `HELD` bytes goes to a file without a name, in a thread of its own: a
step does not wait for the disk, and a disk that fails costs the checkpoint, not the training. Only
when more than `UNDER_WAY` bytes have not been written yet does a step wait for some of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from data_shards.cores import SAVING, give_way
from trainer.rowfile import Field, RowFile

HELD, UNDER_WAY = 32 << 20, 32 << 20
"""Bytes of a table's rows that stay in memory, and that are on their way to the file."""
PART = 4096
"""Bytes that a row which stays in memory takes beside its numbers, at most."""
Part = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Slots (n,), and the rows (n, ...) that they held by field."""


class Aside:
    """Rows of a store by the number of the block they lie in. `put` and `take` are called under the
    store's lock; what `take` returns is called without it."""

    def __init__(self, fields: Mapping[str, Field], slots: int) -> None:
        self.folder: Path | None = None
        """Where the file is made when it is needed; without one, all rows stay in memory."""
        self.held: dict[int, list[Part]] = {}
        """What is in memory, by block."""
        self.error: BaseException | None = None
        """Why rows are lost, so that the snapshot cannot be read any more."""
        self._fields, self._slots = dict(fields), slots
        self._row = sum(field.row_bytes for field in fields.values())
        self._bytes = 0
        self._in_file = torch.zeros(slots, dtype=torch.bool)
        self._file: RowFile | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._writes: deque[tuple[int, Future[None]]] = deque()

    def put(self, blocks: torch.Tensor, slots: torch.Tensor, rows: dict[str, torch.Tensor]) -> None:
        """Keep rows (n, ...) of slots (n,) that lie in blocks (n,)."""
        size = len(slots) * (self._row + PART)
        if self.folder is None or self._bytes + size <= HELD:
            self._bytes += size
            self._hold(blocks, slots, rows)
            return
        self._make_room(len(slots) * self._row)
        if self.error is None:
            self._in_file[slots] = True
            self._writer = self._writer or ThreadPoolExecutor(
                1, "set-aside", initializer=give_way, initargs=(SAVING,)
            )
            write = self._writer.submit(self._write, slots, rows)
            self._writes.append((len(slots) * self._row, write))

    def take(self, block: int, slots: torch.Tensor) -> Callable[[], list[Part]]:
        """Give up the rows of a block, whose slots are (n,); the call gives them, and may wait.

        Raises:
            OSError: the file could not be written; from the call, too.
        """
        if self.error is not None:
            raise self.error
        held = self.held.pop(block, [])
        self._bytes -= sum(len(kept) for kept, _ in held) * (self._row + PART)
        late = slots[self._in_file[slots]]
        writes = [write for _, write in self._writes]

        def rows() -> list[Part]:
            if not len(late):
                return held
            for write in writes:
                write.result()
            assert self._file is not None
            return [*held, (late, self._file.read(late, tuple(self._fields)))]

        return rows

    def close(self) -> None:
        """Give up all rows; the file is gone when what is being written is."""
        self.held.clear()
        self._bytes = 0
        if self._writer is not None:
            self._writer.shutdown(wait=False, cancel_futures=True)

    def _hold(
        self, blocks: torch.Tensor, slots: torch.Tensor, rows: dict[str, torch.Tensor]
    ) -> None:
        order = blocks.argsort(stable=True)
        numbers, counts = blocks[order].unique_consecutive(return_counts=True)
        sizes = counts.tolist()
        columns = [tensor[order].split(sizes) for tensor in (slots, *rows.values())]
        for block, *parts in zip(numbers.tolist(), *columns, strict=True):
            # Copies: what is left of a step's rows would hold the memory of all of them.
            own, *values = (part.clone() for part in parts)
            self.held.setdefault(block, []).append((own, dict(zip(rows, values, strict=True))))

    def _make_room(self, size: int) -> None:
        """Wait until so many bytes more may be under way, and learn of writes that failed."""
        waiting = sum(written for written, _ in self._writes)
        while self._writes and (waiting + size > UNDER_WAY or self._writes[0][1].done()):
            written, write = self._writes.popleft()
            self.error = self.error or write.exception()
            waiting -= written

    def _write(self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        if self._file is None:
            assert self.folder is not None
            self._file = RowFile(self.folder, self._fields, self._slots)
        self._file.write_(slots, rows)
