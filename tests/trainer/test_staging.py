"""Rows staged for a GPU are the table's at every moment, whatever moves them meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.staging import KEPT, Rows, Staging

SLOTS = 8
CPU = torch.device("cpu")
some_slots = st.lists(st.integers(0, SLOTS - 1), max_size=5, unique=True)
operations = st.lists(
    st.tuples(st.sampled_from(["expect", "fetch", "read", "write", "host", "clear"]), some_slots),
    max_size=30,
)


class Table:
    """Two fields where they live, and what they should be."""

    def __init__(self) -> None:
        self.lives = {name: torch.zeros(SLOTS, 2) for name in ("value", "momentum")}
        self.meanwhile: list[Callable[[], object]] = []
        """Done once while rows are being read."""
        self.staging = Staging(CPU, read=self.read, write=self.write)

    def read(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = {name: tensor[slots] for name, tensor in self.lives.items()}
        while self.meanwhile:
            self.meanwhile.pop()()
        return rows

    def write(self, slots: torch.Tensor, rows: Rows) -> None:
        for name, value in rows.items():
            self.lives[name][slots] = value


@settings(deadline=None)
@given(operations, st.booleans())
def test_what_is_read_was_written_last(
    todo: list[tuple[str, list[int]]], while_reading: bool
) -> None:
    """Any order of announcements, fetches, reads and writes of some fields, writes in the middle of
    a fetch among them, against a table without staging."""
    table, number = Table(), 0
    staging, jobs = table.staging, []
    truth = {name: tensor.clone() for name, tensor in table.lives.items()}
    for action, chosen in todo:
        slots = torch.tensor(chosen, dtype=torch.int64)
        if action == "expect":
            jobs.append(staging.expect(slots.repeat(2)))
        elif action == "write":
            number += 1
            rows = {"value": torch.full((len(slots), 2), float(number))}
            if number % 2:
                rows["momentum"] = -rows["value"]
            for name, value in rows.items():
                truth[name][slots] = value
            if while_reading and jobs:
                table.meanwhile.append(lambda s=slots, r=rows: staging.write_(s, r))
                jobs.pop(0)()
                while table.meanwhile:  # nothing was read
                    table.meanwhile.pop()()
            else:
                staging.write_(slots, rows)
        else:
            while jobs:  # training waits for a fetch that is under way
                jobs.pop(0)()
        if action == "read":
            got = staging.read(slots, ("value", "momentum"))
            staging.store()
            for name, tensor in (got or {n: t[slots] for n, t in table.lives.items()}).items():
                assert torch.equal(tensor, truth[name][slots])
        elif action == "host":
            staging.store()
            assert all(torch.equal(table.lives[name], truth[name]) for name in truth)
        elif action == "clear":
            staging.store()
            staging.clear()
            assert staging.read(torch.tensor([0])) is None


def test_expected_rows_come_from_the_batch_and_others_do_not() -> None:
    """Of the last batches announced, in any order and more than once; a batch before them and a
    row that nobody announced are read where they live."""
    table = Table()
    table.lives["value"][:] = torch.arange(SLOTS)[:, None]
    for first in range(KEPT + 1):
        table.staging.expect(torch.tensor([first + 3, first, first]))()
    assert table.staging.read(torch.tensor([0, 3])) is None
    for first in range(1, KEPT + 1):
        got = table.staging.read(torch.tensor([first, first + 3, first]), ("value",))
        assert got is not None and got["value"][:, 0].tolist() == [first, first + 3, first]
    assert table.staging.read(torch.tensor([1, 6])) is None
    assert table.staging.read(torch.tensor([], dtype=torch.int64)) is None


def test_a_step_waits_for_rows_that_are_being_read() -> None:
    """Training asks while the thread still reads: it gets the rows of that fetch."""
    table, reading, go_on = Table(), threading.Event(), threading.Event()
    table.meanwhile = [lambda: (reading.set(), go_on.wait(30))]
    job = table.staging.expect(torch.tensor([2, 5]))
    thread = threading.Thread(target=job)
    thread.start()
    assert reading.wait(30)
    threading.Timer(0.1, go_on.set).start()
    got = table.staging.read(torch.tensor([5]))
    thread.join(30)
    assert got is not None and got.keys() == {"value", "momentum"}


def test_rows_that_could_not_be_read_are_read_where_they_live() -> None:
    """A fetch that fails raises in its thread; training does not wait for it."""
    table = Table()

    def fails() -> None:
        raise OSError("gone")

    table.meanwhile = [fails]
    job = table.staging.expect(torch.tensor([2]))
    with pytest.raises(OSError, match="gone"):
        job()
    assert table.staging.read(torch.tensor([2])) is None


def test_rows_that_could_not_be_stored_are_not_forgotten() -> None:
    """A full disk is told by the next call, and by the one after it."""
    table = Table()
    full = [True, True]

    def write(slots: torch.Tensor, rows: Rows) -> None:
        if full:
            full.pop()
            raise OSError("full")
        table.write(slots, rows)

    staging = Staging(CPU, read=table.read, write=write)
    staging.write_(torch.tensor([1]), {"value": torch.ones(1, 2)})
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            staging.store()
    staging.store()
    assert table.lives["value"][1].tolist() == [1, 1]
