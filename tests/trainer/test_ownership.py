"""Every row has one owner and one slot there, for any table and any number of ranks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import ownership
from trainer.ownership import PAGES


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 700), world=st.integers(1, 70))
def test_rows_have_one_place(count: int, world: int) -> None:
    """Owners' slots are distinct, within bounds and lead back to their rows."""
    rows = torch.arange(count)
    owner = ownership.owner_of(rows, world)
    found = []
    for rank in range(world):
        mine = rows[owner == rank]
        slots = ownership.slot_of(mine, rank, world, count)
        pages = ownership.pages_of(rank, world)
        assert set(ownership.page_of(mine).tolist()) <= set(pages)
        if len(mine):
            assert int(slots.min()) >= 0
            assert int(slots.max()) < len(pages) * ownership.depth(count)
            assert len(slots.unique()) == len(slots)
        assert torch.equal(ownership.row_of(slots, rank, world, count), mine)
        found += mine.tolist()
    assert sorted(found) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(world=st.integers(1, 130))
def test_pages_tile_the_ranks(world: int) -> None:
    """The ranks' ranges follow one another, and agree with page * W // PAGES."""
    pages = [page for rank in range(world) for page in ownership.pages_of(rank, world)]
    assert pages == list(range(PAGES))
    for rank in range(world):
        assert all(page * world // PAGES == rank for page in ownership.pages_of(rank, world))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 300))
def test_page_rows_cover_the_table(count: int) -> None:
    """Pages hold every row once, in ascending order, none beyond the table."""
    pages = [ownership.page_rows(page, count).tolist() for page in range(PAGES)]
    assert sorted(row for rows in pages for row in rows) == list(range(count))
    assert all(len(rows) <= ownership.depth(count) for rows in pages)
    assert all(row % PAGES == page for page, rows in enumerate(pages) for row in rows)
