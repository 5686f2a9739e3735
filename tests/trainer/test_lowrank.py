"""Low rank: the SVD of the gathered table, from any shards, with the same bits on any ranks."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_shards.errors import UserError
from tests.support.dictionaries import BATCH, FRAMES, contents, make, train
from tests.support.ranks import run_ranks
from trainer import lowrank
from trainer.comm import Comm
from trainer.lowrank import LowRankConfig, find_basis, fix_signs, subtrees, truncate
from trainer.ownership import PAGES, pages_of
from trainer.residence import Store

METHODS = ("gather", "gram", "tsqr")
COUNTS = (3, 131, 700)
WIDE_PAGES, WIDE_ROWS = (0, 21, 63), 300


def spectrum(count: int) -> torch.Tensor:
    """Rows (N, 3, 6) whose singular values fall by halves, so that directions are distinct."""
    draw = torch.Generator().manual_seed(count)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    return torch.randn(count, 3, 6, generator=draw) * 0.5 ** torch.arange(6) @ turn


def bases(comm: Comm) -> dict:
    out = {}
    for count in COUNTS:
        table = make(comm, rows={"static": 1, "transient": count}).tables["transient"]
        rows = table.owned(torch.arange(count))
        full = table.read(table.slots(rows))
        table.write_(table.slots(rows), full | {"value": spectrum(count)[rows]})
        for method in METHODS:
            out[count, method] = find_basis(table, rank=3, method=method)
    for method in METHODS:
        settings = LowRankConfig(rank=2, scope="dictionary", method=method, every=2)
        dictionary = make(comm, low_rank=settings)
        train(dictionary, comm, last=5)
        out["trained", method] = contents(dictionary)
    return out


@pytest.fixture(scope="module")
def alone() -> dict:
    return run_ranks(bases, 1)[0]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", METHODS)
def test_basis_is_the_svd_of_the_table(count: int, method: str, alone: dict) -> None:
    """Kept directions and singular values equal float64's to 1e-10, signs fixed."""
    frames = spectrum(count).double().reshape(-1, 6)
    _, singular, vh = torch.linalg.svd(frames, full_matrices=False)
    basis = alone[count, method]
    torch.testing.assert_close(basis.vectors_MR, fix_signs(vh.T[:, :3]), rtol=0, atol=1e-10)
    torch.testing.assert_close(basis.singular_M[:3], singular[:3], rtol=1e-10, atol=0)
    largest = basis.vectors_MR.gather(0, basis.vectors_MR.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    assert basis.method == method


@pytest.mark.ranks
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_agree_bit_for_bit(world: int, alone: dict) -> None:
    """Every method gives one rank's bits on every rank, for uneven and empty shards."""
    for out in run_ranks(bases, world):
        for count in COUNTS:
            for method in METHODS:
                mine, theirs = out[count, method], alone[count, method]
                assert torch.equal(mine.vectors_MR, theirs.vectors_MR), (count, method)
                assert mine.bytes_sent > 0 or (count, method) == (3, "gather")
        gather, gram = out[700, "gather"], out[700, "gram"]
        assert gram.bytes_sent < gather.bytes_sent
        for method in METHODS:
            for kind, rows in alone["trained", method].items():
                assert torch.equal(out["trained", method][kind], rows)


def wide_rows(page: int, count: int) -> torch.Tensor:
    """Rows of a page of the wide table, more than a chunk, on three pages; none on the others."""
    if page not in WIDE_PAGES:
        return torch.empty(0, dtype=torch.int64)
    return torch.arange(WIDE_ROWS) + WIDE_ROWS * WIDE_PAGES.index(page)


def wide_values() -> torch.Tensor:
    """Rows (N, 16, 200) of the wide table."""
    draw = torch.Generator().manual_seed(5)
    values = torch.randn(len(WIDE_PAGES) * WIDE_ROWS, 16, 200, generator=draw)
    return values * 0.97 ** torch.arange(200)


def wide_bases(comm: Comm, threads: tuple[int, ...]) -> dict:
    """Directions of rows (16, 200), found while this rank has so many threads."""
    values = wide_values()
    table: Any = SimpleNamespace(
        comm=comm, count=0, trail=(16, 200), own_pages=pages_of(comm.rank, comm.world),
        slots=lambda rows: rows, read_host=lambda slots, names: {"value": values[slots]},
    )  # fmt: skip
    torch.set_num_threads(threads[comm.rank])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowrank, "page_rows", wide_rows)
        found = {method: find_basis(table, rank=20, method=method) for method in METHODS}
    assert torch.get_num_threads() == threads[comm.rank]
    return {method: (basis.vectors_MR, basis.singular_M) for method, basis in found.items()}


@pytest.mark.ranks
def test_threads_do_not_show_in_the_bits() -> None:
    """Pages of several chunks of the golf set's rows give the same bits on one rank with one and
    three threads, and on two ranks with different numbers of them: the SVD's, to 1e-10."""
    assert WIDE_ROWS > lowrank.CHUNK
    (want,) = run_ranks(wide_bases, 1, (1,))
    frames = wide_values().double().reshape(-1, 200)
    _, singular, vh = torch.linalg.svd(frames, full_matrices=False)
    for vectors_MR, singular_M in want.values():
        torch.testing.assert_close(vectors_MR, fix_signs(vh.T[:, :20]), rtol=0, atol=1e-10)
        torch.testing.assert_close(singular_M[:20], singular[:20], rtol=1e-10, atol=0)
    for threads in ((3,), (2, 3)):
        for found in run_ranks(wide_bases, len(threads), threads):
            for method in METHODS:
                for mine, theirs in zip(found[method], want[method], strict=True):
                    assert torch.equal(mine, theirs), (threads, method)


@pytest.mark.parametrize("fails", [False, True])
def test_a_search_has_one_thread(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Torch computes with one thread in a search, and with as many as before it afterwards, also
    where the search fails."""
    seen = []

    def method(table: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("a rank is lost")
        return torch.ones(2), torch.eye(2, dtype=torch.float64)

    monkeypatch.setitem(lowrank.METHODS, "seen", method)
    table: Any = SimpleNamespace(comm=Comm())
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match=r"^a rank is lost$") if fails else nullcontext():
            find_basis(table, rank=1, method="seen")
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(threads)


def test_rows_read_have_the_rank(alone: dict) -> None:
    """With `scope: dictionary` all rows, touched or not, are read inside the kept directions."""
    for method in METHODS:
        frames = alone["trained", method]["transient"].reshape(-1, 6)
        values = torch.linalg.svdvals(frames.double())
        assert values[2] < 1e-5 * values[0]
        assert values[1] > 0.1 * values[0]


def test_rows_have_the_rank_from_the_first_read_on() -> None:
    """Long before the first interval is over, and also after values were given to the table."""
    low = LowRankConfig(rank=2, scope="dictionary", every=1000)
    dictionary = make(Comm(), low_rank=low)
    rows = torch.arange(40)
    first = dictionary.gather(rows % 5, rows).transient_BTM.detach()
    dictionary.assign("transient", torch.randn(131, FRAMES, 6))
    for values in (first, dictionary.rows("transient", rows)):
        found = torch.linalg.svdvals(values.reshape(-1, 6).double())
        assert found[2] < 1e-5 * found[0] and found[1] > 0.1 * found[0]


@pytest.mark.parametrize("count", [700, 70_000])
def test_a_step_reads_no_more_rows_than_its_batch(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the whole table is read before the first step, and a small one in the last of each
    pass; all other steps read the rows of their batch twice and, of a large one, one chunk more,
    however many there are."""
    read, plain = [0], Store.read_host

    def counted(self: Store, slots: torch.Tensor, names: Any = None) -> dict:
        read[-1] += len(slots)
        return plain(self, slots, names)

    monkeypatch.setattr(Store, "read_host", counted)
    low = LowRankConfig(rank=2, scope="dictionary")
    dictionary = make(
        Comm(), rows={"static": 5, "transient": count}, clips=BATCH, low_rank=low, residence="host"
    )
    for step in range(100):
        train(dictionary, Comm(), first=step, last=step + 1)
        read.append(0)
    whole = [step for step, rows in enumerate(read) if rows >= count]
    assert whole == ([0, 99] if count == 700 else [0])
    others = [rows for step, rows in enumerate(read[:100]) if step not in whole]
    more = [rows > 4 * BATCH for rows in others]
    assert all(0 < rows <= 4 * BATCH + lowrank.CHUNK for rows in others)
    assert sum(more) == (0 if count == 700 else 100 * 320 // 10_000), "320 chunks in 10,000 steps"


@pytest.mark.parametrize("method", METHODS)
def test_a_table_of_few_frames_has_as_many_directions(method: str) -> None:
    """Three frames of six numbers: five orthonormal directions, of which three carry all of it."""
    table = make(Comm(), rows={"static": 1, "transient": 1}).tables["transient"]
    basis = find_basis(table, rank=5, method=method)
    assert basis.vectors_MR.shape == (6, 5)
    torch.testing.assert_close(
        basis.vectors_MR.T @ basis.vectors_MR, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10
    )
    assert (basis.singular_M[3:] < 1e-6 * basis.singular_M[0]).all()


def test_truncate_is_the_best_approximation() -> None:
    """A clip's matrix becomes the sum of its first singular pairs; a full rank changes nothing."""
    values = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    low = truncate(values, 2)
    for matrix, got in zip(values, low, strict=True):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        want = sum(s[k] * torch.outer(u[:, k], vh[k]) for k in range(2))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert truncate(values, 4) is values


@pytest.mark.parametrize("world", [1, 2, 3, 5, 64])
def test_subtrees_tile_the_pages(world: int) -> None:
    """The whole subtrees of the ranks cover every page once, few to a rank."""
    covered = []
    for rank in range(world):
        nodes = subtrees(pages_of(rank, world))
        assert len(nodes) <= 10
        for level, index in nodes:
            covered += range(index << level, (index + 1) << level)
    assert covered == list(range(PAGES))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": -1}, "rank"),
        ({"scope": "video"}, "scope"),
        ({"method": "qr"}, "method"),
        ({"every": -1}, "every"),
    ],
)
def test_settings_are_checked(setting: dict, message: str) -> None:
    """A setting out of range is named with its place in the configuration."""
    with pytest.raises(UserError, match=f"latents.low_rank.{message}"):
        LowRankConfig(**setting)
