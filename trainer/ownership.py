"""Which rank holds which row: pages, owners and slots, as vectorised arithmetic.

A table's rows are dealt to `PAGES` pages, row r to page r % PAGES; rank k of W owns the pages p
with p * W // PAGES == k, a contiguous range. A page is a rank's unit of storage (`depth` slots,
the last of which may be padding), of checkpoints and of sums, so that none of them depends on W.
"""

from __future__ import annotations

import torch

PAGES = 64


def page_of(rows: torch.Tensor) -> torch.Tensor:
    """Page of each row, the shape of `rows` (int64)."""
    return rows % PAGES


def owner_of(rows: torch.Tensor, world: int) -> torch.Tensor:
    """Rank that owns each row, the shape of `rows` (int64)."""
    return torch.div(page_of(rows) * world, PAGES, rounding_mode="floor")


def pages_of(rank: int, world: int) -> range:
    """The pages that a rank owns; may be empty when there are more ranks than pages."""
    return range(-(-rank * PAGES // world), -(-(rank + 1) * PAGES // world))


def depth(count: int) -> int:
    """Slots of a page in a table of `count` rows."""
    return -(-count // PAGES)


def page_rows(page: int, count: int) -> torch.Tensor:
    """Rows of a page in a table of `count` rows, ascending (int64)."""
    return torch.arange(page, max(page, count), PAGES, dtype=torch.int64)


def slot_of(rows: torch.Tensor, rank: int, world: int, count: int) -> torch.Tensor:
    """Where `rank`, the owner of `rows`, stores them."""
    first = pages_of(rank, world).start
    return (rows % PAGES - first) * depth(count) + torch.div(rows, PAGES, rounding_mode="floor")


def row_of(slots: torch.Tensor, rank: int, world: int, count: int) -> torch.Tensor:
    """Row stored in each of `rank`'s slots; a padding slot gives a row of at least `count`."""
    first, deep = pages_of(rank, world).start, depth(count)
    return slots % deep * PAGES + torch.div(slots, deep, rounding_mode="floor") + first
