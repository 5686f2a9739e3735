"""A search for the dictionary's directions (`lowrank`) that reads a part of the table a step.

Read all at once, a table of 583,508 rows holds one step of each pass up for as long as hundreds of
others take. Here the rows of a page are read some at a time, each once in a period and after a step
that depends on nothing but the table's size and the period, and added to the sum of their page. At
the period's end the sums are joined as those of a search at once are: the same bits on any number
of ranks, and the same as of rows that were read then where none has moved meanwhile. Sums are saved
with the rows, so that a run that was stopped goes on with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch

from data_shards.errors import UserError
from trainer import lowrank
from trainer.lowrank import CHUNK, FOLDS, Basis, LowRankConfig
from trainer.ownership import PAGES, depth, page_rows
from trainer.table import ShardedTable

AT_ONCE = PAGES * CHUNK
"""Rows of a table up to which a search at once is no more work than a step should have."""
TURN = 37
"""Pages that are read one after the other are so far apart, so that ranks take turns."""
Reader = Callable[[str], torch.Tensor]


def spread_over(low: LowRankConfig, rows: int) -> bool:
    """Whether searches in a table of so many rows are spread over steps."""
    return low.of_dictionary and low.method in FOLDS and rows > AT_ONCE


class Spread:
    """The search that is under way. Every rank makes the same calls in order."""

    def __init__(self, table: ShardedTable, *, method: str, period: int) -> None:
        """`period`: steps from one search's end to the next one's."""
        self._table, self._method, self._period = table, method, period
        self._chunks = PAGES * -(-depth(table.count) // CHUNK)
        """Chunks of all pages; those behind a page's last row are empty."""
        self._sums: dict[int, torch.Tensor] = {}
        self._read = 0

    def read(self, steps: int) -> None:
        """Read the part that is due after so many steps, this rank its pages of it."""
        inside = (steps - 1) % self._period
        first, last = (self._chunks * part // self._period for part in (inside, inside + 1))
        if not inside:
            self._sums, self._read = {}, 0
        if self._read != first:
            self.forget()  # of what was before nothing is known: the next period begins anew
            return
        mine = [n for n in range(first, last) if page_of(n) in self._table.own_pages]
        with lowrank.one_thread() if mine else nullcontext():
            for number in mine:
                self._add(number)
        self._read = last

    def _add(self, number: int) -> None:
        page, first = page_of(number), number // PAGES * CHUNK
        rows = page_rows(page, self._table.count)[first : first + CHUNK]
        if len(rows):
            fold = FOLDS[self._method]
            self._sums[page] = fold.add(self._sum(page), lowrank.frames_of(self._table, rows))

    def _sum(self, page: int) -> torch.Tensor:
        known = self._sums.get(page)
        return FOLDS[self._method].start(self._table.trail[-1]) if known is None else known

    @property
    def whole(self) -> bool:
        """Whether everything has been read."""
        return self._read == self._chunks

    def finish(self, *, rank: int) -> Basis:
        """The directions, once the search is `whole`."""
        return lowrank.joined(self._table, self._sum, rank=rank, method=self._method)

    def forget(self) -> None:
        """This search will not be whole: rows have got other values, or some were not read."""
        self._sums, self._read = {}, -1

    def saved(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What this rank saves of it: facts (by rank 0), and the sums of its pages. None of these
        tensors changes any more."""
        if self._table.comm.rank == 0:
            yield "dictionary.search", self._facts()
        for page, total in sorted(self._sums.items()):
            yield f"dictionary.sums.{page:02d}", total

    def restore(self, reader: Reader) -> None:
        """Go on with a search that was saved by any number of ranks, if it was this one: of the
        same rows in the same places, in the same period, by the same method."""
        self.forget()
        try:
            facts = reader("dictionary.search")
        except (KeyError, UserError):
            return  # no search was under way
        own, table = self._table.own_pages, self._table
        known = torch.equal(facts[1:], self._facts()[1:]) and all(
            torch.equal(reader(f"{table.name}.key.{page:02d}"), table.page_keys(page))
            for page in own
        )
        if int(table.comm.max_(torch.tensor([0 if known else 1]))):
            return
        self._read = int(facts[0])
        begun = {page_of(number) for number in range(min(self._read, PAGES))}
        for page in begun.intersection(own):
            # A copy: what is read is a view of the checkpoint's file.
            self._sums[page] = reader(f"dictionary.sums.{page:02d}").clone()

    def _facts(self) -> torch.Tensor:
        method = list(FOLDS).index(self._method)
        return torch.tensor([self._read, self._table.count, self._period, method])


def page_of(number: int) -> int:
    """Page of a chunk: the first chunks of all pages come first, then the second ones."""
    return number % PAGES * TURN % PAGES
