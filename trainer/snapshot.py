"""A consistent picture of a table while training goes on: copy on write, row by row.

`Snapshot.pages()` reads a rank's pages one after another, in a thread of its own if wished. The
table calls `keep` before it overwrites rows; rows that the reader has not reached yet are set
aside as they were and put into the picture when it gets there. A step therefore waits for one
block of rows at most, and memory grows by the rows that training touches meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from trainer.residence import Store

BLOCK = 1024


class Snapshot:
    """The picture of a store's pages at the moment of construction. `lock` guards the store."""

    def __init__(
        self, store: Store, lock: threading.Lock, sizes: dict[int, int], first: int, depth: int
    ) -> None:
        """`sizes`: rows per page, ascending; page p fills slots from `(p - first) * depth`."""
        self._store, self._lock = store, lock
        self._sizes, self._first, self._depth = sizes, first, depth
        self._next = 0
        self._kept = torch.zeros(store.slots, dtype=torch.bool)
        self._aside: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
        self.done = False

    def keep(self, slots: torch.Tensor) -> None:
        """Set aside what is about to be overwritten. The caller holds the lock."""
        if self.done:
            return
        late = slots[(slots >= self._next) & ~self._kept[slots]]
        if len(late):
            rows = self._store.read(late)
            self._aside.append((late, {name: t.cpu() for name, t in rows.items()}))
            self._kept[late] = True

    def pages(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Each page's number and fields (rows of the page, ...), in host memory."""
        try:
            for page, size in self._sizes.items():
                yield page, self._page((page - self._first) * self._depth, size)
        finally:
            with self._lock:
                self.done = True
                self._aside.clear()

    def _page(self, start: int, size: int) -> dict[str, torch.Tensor]:
        whole = {
            name: torch.empty(size, *field.trail, dtype=field.dtype)
            for name, field in self._store.fields.items()
        }
        for at in range(0, size, BLOCK):
            slots = torch.arange(start + at, start + min(size, at + BLOCK))
            block = self._read(slots)
            for name, tensor in whole.items():
                tensor[at : at + len(slots)] = block[name]
        return whole

    def _read(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        with self._lock:
            block = {name: t.cpu() for name, t in self._store.read(slots).items()}
            self._next = int(slots[-1]) + 1
            if not bool(self._kept[slots].any()):
                return block
            low, high = int(slots[0]), self._next
            for kept, rows in self._aside:
                mine = (kept >= low) & (kept < high)
                for name, tensor in block.items():
                    tensor[kept[mine] - low] = rows[name][mine]
        return block
