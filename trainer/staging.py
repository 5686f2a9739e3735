"""Rows of the steps at hand on a GPU, for tables that live in host memory or on disk.

The plan says which rows a step will ask for. While the steps before it compute, a thread reads them
into pinned memory and a stream of its own copies them over. The step then reads and moves rows that
are on the device already, and what it moved goes back behind it: copied by another stream, stored
where the table lives when that is next read or written. What a reader sees are the table's values
at that moment: rows that are moved after they were read for a coming step are put there, too, or
read again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from data_shards.onto import onto

Rows = Mapping[str, torch.Tensor]
STAGED = {"cuda"}
"""Kinds of devices whose rows are staged where a table lives elsewhere."""
KEPT = 2
"""Batches of rows on the device: of the step at hand and of the next one."""


class Batch:
    """Distinct rows, ascending by slot, on their way to the device or there."""

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self.rows: dict[str, torch.Tensor] | None = None
        """All fields; None until they are on their way, and where they could not be read."""
        self.over = threading.Event()
        """Set when nobody reads any more."""
        self.arrived: torch.Event | None = None
        self.stale = torch.zeros(len(slots), dtype=torch.bool)
        """Rows that were moved while they were read."""

    def places(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each slot is in this batch, and whether it is there at all."""
        if not len(self.slots):
            return torch.zeros_like(slots), torch.zeros_like(slots, dtype=torch.bool)
        at = torch.searchsorted(self.slots, slots).clamp_(max=len(self.slots) - 1)
        return at, self.slots[at] == slots


class Behind(NamedTuple):
    """Moved rows on their way to where the table lives."""

    slots: torch.Tensor
    rows: dict[str, torch.Tensor]
    arrived: torch.Event | None


class Staging:
    """Between a store's rows in host memory or on disk and a device. `expect` gives a job for one
    thread, `store` may be called from any; all else is called by training."""

    def __init__(
        self,
        device: torch.device,
        *,
        read: Callable[[torch.Tensor], Rows],
        write: Callable[[torch.Tensor, Rows], None],
    ) -> None:
        """`read` and `write` reach rows (all fields; some fields) where they live."""
        self._device, self._read, self._write = device, read, write
        self._lock = threading.RLock()
        self._batches: deque[Batch] = deque(maxlen=KEPT)
        self._behind: Behind | None = None
        gpu = device.type == "cuda"
        self._streams = tuple(torch.cuda.Stream(device) for _ in range(2)) if gpu else ()

    def expect(self, slots: torch.Tensor) -> Callable[[], None]:
        """Rows of some slots will be asked for; the job that reads them."""
        batch = Batch(slots.unique())  # ascending
        with self._lock:
            self._batches.append(batch)
        return partial(self._fetch, batch)

    def _fetch(self, batch: Batch) -> None:
        try:
            self.store()
            with self._on(0) as stream:
                rows = {
                    name: onto(value, self._device)
                    for name, value in self._read(batch.slots).items()
                }
                arrived = None if stream is None else stream.record_event()
            with self._lock:
                batch.rows, batch.arrived = rows, arrived
        finally:
            batch.over.set()

    def read(
        self, slots: torch.Tensor, names: tuple[str, ...] | None = None
    ) -> dict[str, torch.Tensor] | None:
        """Copies of rows on the device; None unless all of them were expected."""
        if not len(slots):
            return None
        for batch in tuple(self._batches):
            at, there = batch.places(slots)
            if bool(there.all()):
                # Not under the lock, which the thread holds while it waits for the device: from
                # here on training alone touches this batch.
                batch.over.wait()
                rows = self._arrived(batch)
                if rows is None:
                    return None
                at = onto(at, self._device)
                return {name: rows[name].index_select(0, at) for name in names or rows}
        return None

    def _arrived(self, batch: Batch) -> dict[str, torch.Tensor] | None:
        """A batch's rows, once the current stream may use them, as they are now."""
        if batch.rows is not None and batch.arrived is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(batch.arrived)
            batch.arrived = None
            for value in batch.rows.values():
                value.record_stream(now)
        if batch.rows is not None and bool(batch.stale.any()):
            self.store()
            at = batch.stale.nonzero().squeeze(1)
            fresh = self._read(batch.slots[at])
            self._put(batch.rows, at, fresh)
            batch.stale.zero_()
        return batch.rows

    def write_(self, slots: torch.Tensor, rows: Rows) -> None:
        """Some fields of rows: to every batch that has them now, and on their way to the table."""
        with self._lock:
            self.store()
            for batch in self._batches:
                at, there = batch.places(slots)
                if not bool(there.any()):
                    continue
                if batch.rows is None:
                    batch.stale[at[there]] = True
                elif (held := self._arrived(batch)) is not None:
                    chosen = there.nonzero().squeeze(1)
                    self._put(held, at[there], rows, chosen=chosen)
            self._behind = self._leave(slots, rows)

    def _put(
        self,
        held: dict[str, torch.Tensor],
        at: torch.Tensor,
        rows: Rows,
        *,
        chosen: torch.Tensor | None = None,
    ) -> None:
        """Overwrite rows of a batch at places `at` by `rows`, or by those at `chosen`."""
        at = onto(at, self._device)
        for name, value in rows.items():
            value = onto(value, self._device)
            if chosen is not None and len(chosen) < len(value):
                value = value.index_select(0, onto(chosen, self._device))
            held[name].index_copy_(0, at, value)

    def _leave(self, slots: torch.Tensor, rows: Rows) -> Behind:
        """Begin to copy rows off the device."""
        if not self._streams:
            return Behind(slots, {name: value.clone() for name, value in rows.items()}, None)
        now = torch.cuda.current_stream(self._device)
        self._streams[1].wait_stream(now)
        with self._on(1) as stream:
            assert stream is not None
            copies = {}
            for name, value in rows.items():
                # What comes from the host, as when a run is read back, needs no pinned memory,
                # which this process would keep.
                copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                copies[name].copy_(value, non_blocking=True)
                if value.is_cuda:
                    value.record_stream(stream)
            return Behind(slots, copies, stream.record_event())

    def store(self) -> None:
        """Have everything that was moved stored where the table lives."""
        with self._lock:
            if self._behind is not None:
                slots, rows, arrived = self._behind
                if arrived is not None:
                    with torch.cuda.device(self._device):
                        arrived.synchronize()
                self._write(slots, rows)
                self._behind = None

    def clear(self) -> None:
        """Forget all rows, also those that were moved."""
        with self._lock:
            self._batches.clear()
            self._behind = None

    @contextmanager
    def _on(self, number: int) -> Iterator[torch.cuda.Stream | None]:
        """One of the two streams, on this device: a thread begins on the first one."""
        if not self._streams:
            yield None
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams[number]):
            yield self._streams[number]
