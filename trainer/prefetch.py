"""Fetch-ahead: rows of coming steps are brought nearer in a background thread.

The plan says which rows a step will ask for, so an owner can begin to read them while earlier
steps still compute: from disk into the system's cache, or onto a GPU (see `staging`). The values
that a step sees do not depend on whether a fetch was early, late or never asked.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from trainer.table import ShardedTable

DEPTH = 4


class Prefetcher:
    """One thread that reads ahead for some tables; at most `DEPTH` requests are under way."""

    def __init__(self) -> None:
        """Start with nothing to do; the thread begins with the first request."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch-ahead")
        self._under_way: deque[Future[None]] = deque()

    def fetch(self, table: ShardedTable, rows: torch.Tensor) -> None:
        """Begin to read those of `rows` that this rank owns; an error of the thread is raised."""
        while self._under_way and (self._under_way[0].done() or len(self._under_way) >= DEPTH):
            self._under_way.popleft().result()
        slots = table.slots(table.owned(rows.to("cpu", torch.int64)).unique())
        self._under_way.append(self._pool.submit(table.store.ahead(slots)))

    def close(self) -> None:
        """Wait for what is under way and end the thread; an error of the thread is raised."""
        try:
            while self._under_way:
                self._under_way.popleft().result()
        finally:
            self._pool.shutdown()
