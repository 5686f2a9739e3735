"""Pages of W ranks on W' ranks, videos added and removed, and pictures of a table in motion."""

from __future__ import annotations

import threading

import pytest
import torch

from data_shards.errors import UserError
from tests.support.dictionaries import ROWS, contents, make, train
from tests.support.ranks import run_ranks
from trainer import ownership, snapshot
from trainer.comm import Comm
from trainer.lowrank import LowRankConfig
from trainer.reshard import saved_rows

LOW = LowRankConfig(rank=2, scope="dictionary", every=3)
KINDS = {
    "momentum": {},
    "adam": {"optimiser": "adam", "rate": 0.05, "residence": "host"},
    "low": {"low_rank": LOW, "replicate_kib": 64},
}


def save(comm: Comm) -> dict:
    out = {}
    for name, settings in KINDS.items():
        dictionary = make(comm, **settings)
        train(dictionary, comm, last=4)
        out[name] = {key: tensor.clone() for key, tensor in dictionary.export()}
    return out


def resume(comm: Comm, saved: dict[int, dict]) -> dict:
    out = {}
    for world, kinds in saved.items():
        for name, settings in KINDS.items():
            dictionary = make(comm, **settings)
            counts = dictionary.restore(kinds[name].__getitem__)
            again = {key: tensor.clone() for key, tensor in dictionary.export()}
            train(dictionary, comm, first=4, last=7)
            out[world, name] = {"again": again, "last": contents(dictionary), "counts": counts}
    return out


def merged(results: list[dict]) -> dict:
    """The pages of all ranks in one dictionary per kind, none saved twice."""
    whole: dict = {name: {} for name in KINDS}
    for result in results:
        for name, pages in result.items():
            assert not whole[name].keys() & pages.keys()
            whole[name] |= pages
    return whole


@pytest.fixture(scope="module")
def saved() -> dict[int, dict]:
    return {world: merged(run_ranks(save, world)) for world in (1, 2, 3, 4)}


@pytest.mark.ranks
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_all_pairs_of_worlds_are_bit_equal(world: int, saved: dict[int, dict]) -> None:
    """What W ranks saved, W' restore exactly, save again and train on as if never stopped."""
    straight = {}
    for name, settings in KINDS.items():
        dictionary = make(Comm(), **settings)
        train(dictionary, Comm(), last=7)
        straight[name] = contents(dictionary)
    results = run_ranks(resume, world, saved)
    for before, kinds in saved.items():
        for name, pages in kinds.items():
            again: dict = {}
            for result in results:
                out = result[before, name]
                again |= out["again"]
                assert tuple(out["counts"]["transient"]) == (ROWS["transient"], 0, 0)
                for kind, rows in straight[name].items():
                    assert torch.equal(out["last"][kind], rows), (before, world, name)
            assert again.keys() == pages.keys()
            assert all(torch.equal(again[key], tensor) for key, tensor in pages.items())


def test_rows_are_read_straight_from_pages(saved: dict[int, dict]) -> None:
    """A checkpoint's rows come without a dictionary, in any order, inside the kept directions."""
    rows = torch.tensor([130, 0, 64, 0])
    for name, settings in KINDS.items():
        pages = saved[3][name]
        dictionary = make(Comm(), **settings)
        dictionary.restore(pages.__getitem__)
        got = saved_rows(pages.__getitem__, "transient", rows)
        torch.testing.assert_close(got, dictionary.rows("transient", rows))
    with pytest.raises(KeyError):
        saved_rows(pages.__getitem__, "moving", rows)


def change(comm: Comm, pages: dict, names: list[int], kib: int) -> dict:
    rows = {"static": 5, "transient": names}
    dictionary = make(comm, rows=rows, replicate_kib=kib)
    counts = dictionary.restore(pages.__getitem__)
    fresh = make(comm, rows=rows)
    return {"counts": counts, "now": contents(dictionary), "fresh": contents(fresh)}


@pytest.mark.ranks
@pytest.mark.parametrize(("world", "kib"), [(1, 0), (3, 0), (2, 64)])
def test_videos_may_come_and_go(world: int, kib: int, saved: dict[int, dict]) -> None:
    """Rows follow their keys to new places; new videos begin anew; the counts say so."""
    names = [500, *range(130, 9, -1), 501, 502]
    old = make(Comm())
    train(old, Comm(), last=4)
    want = contents(old)["transient"]
    for out in run_ranks(change, world, saved[2]["momentum"], names, kib):
        assert tuple(out["counts"]["transient"]) == (121, 3, 10)
        assert tuple(out["counts"]["static"]) == (5, 0, 0)
        now, fresh = out["now"]["transient"], out["fresh"]["transient"]
        for place, name in enumerate(names):
            assert torch.equal(now[place], want[name] if name < 131 else fresh[place])


def test_wrong_checkpoints_are_refused(saved: dict[int, dict]) -> None:
    """Other data, another optimiser or another width is named in one line."""
    pages = saved[1]["momentum"].__getitem__
    with pytest.raises(UserError, match="no key of the checkpoint is in this data set"):
        make(Comm(), rows={"static": 5, "transient": range(1000, 1100)}).restore(pages)
    with pytest.raises(UserError, match=r"exp_avg.* another latents.optimiser than 'adam'"):
        make(Comm(), optimiser="adam").restore(pages)
    with pytest.raises(
        UserError, match=r"rows of shape \(3, 6\) and the settings ask for \(3, 8\)"
    ):
        make(Comm(), transient=8).restore(pages)
    twice = make(Comm(), rows={"static": 5, "transient": [1, 2, 65, 1]})
    with pytest.raises(UserError, match="two rows have the same key"):
        twice.restore(pages)


def refused(comm: Comm, pages: dict, names: list[int], kib: int) -> str:
    rows = {"static": 5, "transient": names}
    dictionary = make(comm, rows=rows, replicate_kib=kib)
    try:
        dictionary.restore(pages.__getitem__)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.ranks
@pytest.mark.parametrize("places", [(1, 65), (0, 63)], ids=["one rank", "two ranks"])
@pytest.mark.parametrize(("world", "kib"), [(1, 0), (2, 0), (3, 0), (2, 64)])
def test_two_rows_of_one_key_are_refused_by_all_ranks(
    world: int, kib: int, places: tuple[int, int], saved: dict[int, dict]
) -> None:
    """Whichever ranks own the two rows, every rank raises the same error, and none waits."""
    names = list(range(131))
    names[places[1]] = names[places[0]]
    told = run_ranks(refused, world, saved[1]["momentum"], names, kib, timeout=60)
    message = "transient table: two rows have the same key; keys must be distinct"
    assert told == [message] * world


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_snapshot_is_of_one_moment(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages read between and beside steps are those of the moment the snapshot was taken."""
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", 300)  # two transient rows
    dictionary = make(Comm(), residence=where)
    train(dictionary, Comm(), last=4)
    want = {name: tensor.clone() for name, tensor in dictionary.export()}
    pages, got = dictionary.snapshot(), {}
    step = 4
    for name, tensor in pages:
        got[name] = tensor
        if name.startswith("transient.value") and step < 30:
            train(dictionary, Comm(), first=step, last=step + 1)
            step += 1
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())

    now = {name: tensor.clone() for name, tensor in dictionary.export()}
    pages, beside = dictionary.snapshot(), {}
    thread = threading.Thread(target=lambda: beside.update(pages))
    thread.start()
    train(dictionary, Comm(), first=30, last=40)
    thread.join()
    assert all(torch.equal(beside[name], tensor) for name, tensor in now.items())
    assert any(not torch.equal(now[name], tensor) for name, tensor in dictionary.export())


@pytest.mark.parametrize("pages", [range(64), range(10, 20)])
def test_rows_set_aside_go_as_they_are_read(pages: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the pages that are read are held until their block is, each block's in memory of its
    own, and no longer; the picture shows what was overwritten."""
    monkeypatch.setattr(snapshot, "BLOCK_BYTES", 300)  # two transient rows
    table = make(Comm()).tables["transient"]
    sizes = {page: len(table.page_keys(page)) for page in pages}
    picture = snapshot.Snapshot(table.store, table.lock, sizes, table.pages.start, table.depth)
    slots = table.slots(torch.arange(table.count))
    want = table.read(slots)
    picture.keep(slots)
    table.store.write_(slots, {name: torch.zeros_like(rows) for name, rows in want.items()})
    left = sum(sizes.values())
    for page, fields in picture.pages():
        left -= sizes[page]
        aside = [part for parts in picture._aside.values() for part in parts]
        assert sum(len(kept) for kept, _ in aside) == left
        tensors = [tensor for kept, rows in aside for tensor in (kept, *rows.values())]
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        mine = ownership.page_rows(page, table.count)
        assert all(torch.equal(tensor, want[name][mine]) for name, tensor in fields.items())
    assert left == 0 and picture.done


def test_low_rank_may_be_turned_on_later(saved: dict[int, dict]) -> None:
    """A run that had no directions finds them when it is restored; its rows stay."""
    pages = saved[2]["momentum"].__getitem__
    dictionary = make(Comm(), low_rank=LOW)
    dictionary.restore(pages)
    assert dictionary.basis is not None
    assert dictionary.basis.vectors_MR.shape == (6, 2)
    values = torch.linalg.svdvals(contents(dictionary)["transient"].reshape(-1, 6).double())
    assert values[2] < 1e-5 * values[0]


def test_two_snapshots_at_once_are_refused() -> None:
    """A second picture before the first is read would share its rows: it is an error."""
    dictionary = make(Comm())
    first = dictionary.snapshot()
    next(first), next(first)
    with pytest.raises(RuntimeError, match="still being read"):
        dictionary.snapshot()
    del first
    assert len(list(dictionary.snapshot())) == 3 + 64 * 3 * 2
