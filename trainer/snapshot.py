"""A consistent picture of a table while training goes on: copy on write, row by row.

`Snapshot.pages()` reads a rank's pages one after another, in a thread of its own if wished. The
table calls `keep` before it overwrites rows; rows that the reader has not reached yet are set
aside as they were, by block, and put into the picture when it gets there. A step therefore waits
for one block of rows at most, and memory has a bound however slowly the picture is read: what
exceeds it is set aside in a file (see `aside`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from trainer.aside import Aside
from trainer.residence import Store

BLOCK_BYTES = 4 << 20
"""What is read at once, or one row where that is more; a step waits for so much at most."""
WORK_BYTES = 32 << 20
"""What reading a page takes beside the page, at most: the block before, the next one, what was set
aside of it, and what drawing rows that were never written takes. Three rows where they are more."""


class Snapshot:
    """The picture of a store's pages at the moment of construction. `lock` guards the store."""

    def __init__(
        self, store: Store, lock: threading.Lock, sizes: dict[int, int], first: int, depth: int
    ) -> None:
        """`sizes`: rows per page, ascending; page p fills slots from `(p - first) * depth`."""
        self._store, self._lock = store, lock
        self._sizes, self._first, self._depth = sizes, first, depth
        row = sum(field.row_bytes for field in store.fields.values())
        self._block = max(1, BLOCK_BYTES // row)
        self._kept = torch.zeros(store.slots, dtype=torch.bool)
        self.aside = Aside(store.fields, store.slots)
        """What was overwritten, until its block is read."""
        # A replicated table holds pages that other ranks save: nobody here reads them.
        pages = [page - first for page in sizes]
        self._next, self._end = (pages[0] * depth, (pages[-1] + 1) * depth) if pages else (0, 0)
        self.lends = False
        """Whether a page is good until the next one is asked for, and filled anew with it: got for
        each page of 100 MB, memory held training up while the system looked for it."""
        self._lent: dict[str, torch.Tensor] = {}
        self.done = False

    def keep(self, slots: torch.Tensor) -> None:
        """Set aside what is about to be overwritten. The caller holds the lock."""
        if self.done or self.aside.error is not None:
            return
        late = (slots >= self._next) & (slots < self._end) & ~self._kept[slots]
        slots = slots[late]
        if len(slots):
            self._kept[slots] = True
            self.aside.put(self._numbers(slots), slots, self._store.read_host(slots))

    def pages(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Each page's number and fields (rows of the page, ...), in host memory.

        Raises:
            OSError: rows that were set aside could not be written to their file.
        """
        try:
            for page, size in self._sizes.items():
                yield page, self._read_page((page - self._first) * self._depth, size)
            self._store.sync()  # last: rows that training moves meanwhile are no longer kept
        finally:
            self.close()

    def close(self) -> None:
        """Nothing is kept any more."""
        if self.done:  # a generator that is given up late may end while this thread has the lock
            return
        with self._lock:
            self.done, self._lent = True, {}
            self.aside.close()

    def _read_page(self, start: int, size: int) -> dict[str, torch.Tensor]:
        whole = self._memory(size)
        for at in range(0, size, self._block):
            slots = torch.arange(start + at, start + min(size, at + self._block))
            block = self._read(slots)
            for name, tensor in whole.items():
                tensor[at : at + len(slots)] = block[name]
        return whole

    def _memory(self, size: int) -> dict[str, torch.Tensor]:
        """Room for the fields of a page of so many rows."""
        if self._lent:
            return {name: tensor[:size] for name, tensor in self._lent.items()}
        most = max(self._sizes.values()) if self.lends else size
        room = {
            name: torch.empty(most, *field.trail, dtype=field.dtype)
            for name, field in self._store.fields.items()
        }
        if not self.lends:
            return room
        self._lent = room
        return self._memory(size)

    def _read(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of one block; what was set aside of it is given up."""
        number, first = int(self._numbers(slots[:1])), int(slots[0])
        with self._lock:
            block, new = self._store.read_written(slots)
            self._next = first + len(slots)
            aside = self.aside.take(number, slots)
        self._store.draw_(block, slots, new)  # takes longer than all else: no step waits for it
        for kept, rows in aside():
            for name, tensor in block.items():
                tensor[kept - first] = rows[name]
        return block

    def _numbers(self, slots: torch.Tensor) -> torch.Tensor:
        """Numbers of the blocks that slots (n,) lie in; those of a page follow each other."""
        each = -(-self._depth // self._block)
        return slots // self._depth * each + slots % self._depth // self._block


class Pages(Iterator[tuple[str, torch.Tensor]]):
    """Names and tensors of a rank's pages, one after the other, out of pictures of its tables."""

    def __init__(
        self, tensors: Iterator[tuple[str, torch.Tensor]], pictures: Sequence[Snapshot]
    ) -> None:
        self._tensors, self.pictures = tensors, list(pictures)

    def __next__(self) -> tuple[str, torch.Tensor]:
        try:
            return next(self._tensors)
        except Exception:  # also where there are no more
            self.close()
            raise

    def set_aside_in(self, folder: Path) -> None:
        """Where rows go that training overwrites before they are read and memory has no room for;
        to be said before the first of them is."""
        for picture in self.pictures:
            picture.aside.folder = folder

    def lend(self) -> None:
        """Have each page take the memory of the one before: for a reader who is done with a page
        when it asks for the next."""
        for picture in self.pictures:
            picture.lends = True

    def close(self) -> None:
        """Nothing more will be read."""
        for picture in self.pictures:
            picture.close()
