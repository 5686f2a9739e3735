"""A search that reads a part of the table a step, against one at once and a slow loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.dictionaries import BATCH, make, train
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.latents import LatentDictionary
from trainer.lowrank import CHUNK, FOLDS, LowRankConfig, find_basis, fix_signs
from trainer.ownership import PAGES
from trainer.residence import Store
from trainer.spread import AT_ONCE

ROWS = {"static": 5, "transient": AT_ONCE + 9000}
"""Pages of 396 or 397 rows, so of two chunks, of which the second is short."""
PERIOD = 7


def spread(comm: Comm, method: str = "gram", **settings: Any) -> LatentDictionary:
    low = LowRankConfig(rank=2, scope="dictionary", method=method, every=PERIOD)
    return make(comm, rows=ROWS, low_rank=low, **settings)


def searched(comm: Comm) -> dict:
    """Directions after two periods of training, and some rows two steps later."""
    out = {}
    for method in FOLDS:
        dictionary = spread(comm, method)
        train(dictionary, comm, last=2 * PERIOD)
        assert dictionary.basis is not None
        found = dictionary.basis
        train(dictionary, comm, first=2 * PERIOD, last=2 * PERIOD + 2)
        rows = dictionary.rows("transient", torch.arange(0, ROWS["transient"], 97))
        out[method] = (found.vectors_MR, found.singular_M, rows)
    return out


@pytest.mark.ranks
def test_parts_give_the_same_bits_on_any_number_of_ranks() -> None:
    """Which rows are read after which step depends on the table and the period alone."""
    (alone,) = run_ranks(searched, 1)
    for world in (2, 3, 4):
        for out in run_ranks(searched, world):
            for method, tensors in alone.items():
                for mine, theirs in zip(out[method], tensors, strict=True):
                    assert torch.equal(mine, theirs), (world, method)


@pytest.mark.parametrize("method", list(FOLDS))
def test_parts_of_rows_that_stay_are_a_search_at_once(method: str) -> None:
    """Bit for bit: the same chunks are added in the same order."""
    dictionary = spread(Comm(), method)
    train(dictionary, Comm(), last=PERIOD)  # rows that differ from each other
    for _ in range(PERIOD):
        dictionary.step()
        dictionary.project_()
    want = find_basis(dictionary.tables["transient"], rank=2, method=method)
    assert dictionary.basis is not None
    assert torch.equal(dictionary.basis.vectors_MR, want.vectors_MR)
    assert torch.equal(dictionary.basis.singular_M, want.singular_M)


def test_every_row_is_read_once_a_period_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many chunks after each step, give or take one, every row in one of them; the directions
    are those of the values that were there then, not of those at the end."""
    dictionary, read = spread(Comm()), []
    train(dictionary, Comm(), last=PERIOD)
    plain = Store.read_host

    def kept(self: Store, slots: torch.Tensor, names: Any = None) -> dict:
        rows = plain(self, slots, names)
        if names == ("value",) and len(slots) > BATCH:
            read[-1].append((slots, rows["value"].clone()))
        return rows

    monkeypatch.setattr(Store, "read_host", kept)
    for step in range(PERIOD, 2 * PERIOD):
        read.append([])
        train(dictionary, Comm(), first=step, last=step + 1)
    chunks = [len(part) for part in read]
    assert sum(chunks) == 2 * PAGES and max(chunks) - min(chunks) <= 1
    slots = torch.cat([slots for part in read for slots, _ in part])
    assert max(len(slots) for part in read for slots, _ in part) == CHUNK
    count = ROWS["transient"]
    assert torch.equal(slots.sort().values, dictionary.tables["transient"].slots(
        torch.arange(count)).sort().values)  # fmt: skip
    frames = torch.cat([values for part in read for _, values in part]).reshape(-1, 6).double()
    _, singular, vh = torch.linalg.svd(frames, full_matrices=False)
    found = dictionary.basis
    assert found is not None
    torch.testing.assert_close(found.vectors_MR, fix_signs(vh.T[:, :2]), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.singular_M, singular, rtol=1e-8, atol=0)
    now = find_basis(dictionary.tables["transient"], rank=2, method="gram")
    assert not torch.equal(found.singular_M, now.singular_M)


def test_rows_that_were_given_other_values_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the period in which that happens; the next one is spread again."""
    at_once, plain = [], LatentDictionary.find_basis

    def counted(self: LatentDictionary) -> Any:
        at_once.append(self.steps)
        return plain(self)

    monkeypatch.setattr(LatentDictionary, "find_basis", counted)
    dictionary = spread(Comm())
    train(dictionary, Comm(), last=3)
    dictionary.assign("transient", torch.randn(ROWS["transient"], 3, 6))
    train(dictionary, Comm(), first=3, last=2 * PERIOD)
    assert at_once == [0, 3, PERIOD]


def test_a_search_of_other_rows_or_steps_is_not_gone_on_with() -> None:
    """After a resume with other keys, another period or another method, and from a checkpoint that
    had none under way; with the same ones it is."""
    dictionary = spread(Comm())
    train(dictionary, Comm(), last=3)
    saved = {name: tensor.clone() for name, tensor in dictionary.export()}

    def gone_on(again: LatentDictionary, *, without: str = "") -> bool:
        pages = {n: t for n, t in saved.items() if not (without and n.startswith(without))}
        again.restore(pages.__getitem__)
        assert again._search is not None
        return again._search._read >= 0

    names = list(range(ROWS["transient"]))
    low = LowRankConfig(rank=2, scope="dictionary", every=PERIOD + 1)
    assert gone_on(spread(Comm()))
    assert not gone_on(spread(Comm()), without="dictionary.search")
    assert not gone_on(spread(Comm(), "tsqr"))
    assert not gone_on(make(Comm(), rows=ROWS, low_rank=low))
    swapped = {**ROWS, "transient": [names[1], names[0], *names[2:]]}
    low = LowRankConfig(rank=2, scope="dictionary", every=PERIOD)
    assert not gone_on(make(Comm(), rows=swapped, low_rank=low))
    with pytest.raises(KeyError, match=r"dictionary\.sums"):
        gone_on(spread(Comm()), without="dictionary.sums")


def test_a_small_table_is_read_at_once() -> None:
    """Up to one chunk of each page: its directions are of the rows at the period's end."""
    low = LowRankConfig(rank=2, scope="dictionary", every=PERIOD)
    for count, spread_out in ((AT_ONCE, False), (AT_ONCE + 1, True)):
        dictionary = make(Comm(), rows={"static": 5, "transient": count}, low_rank=low)
        assert (dictionary._search is not None) == spread_out
    low = LowRankConfig(rank=2, scope="dictionary", every=PERIOD, method="gather")
    assert make(Comm(), rows=ROWS, low_rank=low)._search is None
