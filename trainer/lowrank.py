"""Low-rank latents (Eq. 7): the top singular directions of one clip, or of the whole dictionary.

`scope: clip` replaces the transient latents of a row (T, M), one video's, by their best rank-rho
approximation whenever they move (Sec. 3.3.1). `scope: dictionary`, which is ours, constrains the
matrix of all frames of all rows, (N T, M): its top right singular vectors are a basis (M, rho),
found before the first step and then about once a pass; rows are projected on it when they are read.
What is read for it of a large table is spread over the steps (`spread`). Methods:

    gather   every rank collects all rows and takes the SVD (the reference; N T M floats move)
    gram     sums of X^T X in float64, then eigh (the default; M x M doubles move)
    tsqr     QR of pages, combined pairwise, then the SVD of R (keeps small directions exact)

Sums and QRs follow one fixed binary tree over the 64 pages. A rank reduces the largest whole
subtrees of its pages, the few nodes that are left are gathered, and every rank finishes the same
tree with one thread, since how threads share a product shows in its last bits: the same bits for
every number of ranks, and of cores for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from data_shards.errors import UserError
from trainer.ownership import PAGES, page_rows, pages_of
from trainer.table import ShardedTable

SCOPES = ("clip", "dictionary")
CHUNK = 256
"""Rows of a page that are summed at once: fixed, since it sets the order of the sums."""
Node = tuple[int, int]
"""Level and index in the tree: node (l, i) covers pages [i 2^l, (i + 1) 2^l)."""


@dataclass(frozen=True)
class LowRankConfig:
    """The constraint on the rank of the transient latents; off by default."""

    rank: int = 0
    """rho, the number of directions kept; 0 turns the constraint off."""
    scope: str = "clip"
    """`clip`: the frames of each row; `dictionary`: the frames of all rows together."""
    method: str = "gram"
    """How the dictionary's directions are found: `gather`, `gram` or `tsqr`."""
    every: int = 0
    """Steps that move rows between two searches for the dictionary's directions, each of which
    reads the whole table, a part after every step; 0: as many as rows of the table / clips of a
    step, rounded up, which is once a pass with rows by clip and one step a visit, and more often
    where clips share rows or a visit has several such steps."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 0:
            raise UserError("latents.low_rank.rank: must not be negative; 0 turns it off")
        if self.scope not in SCOPES:
            raise UserError(f"latents.low_rank.scope: {self.scope!r} is none of {SCOPES}")
        if self.method not in METHODS:
            raise UserError(f"latents.low_rank.method: {self.method!r} is none of {tuple(METHODS)}")
        if self.every < 0:
            raise UserError("latents.low_rank.every: must not be negative; 0: once a pass")

    @property
    def of_dictionary(self) -> bool:
        """Whether the whole dictionary has directions in common."""
        return bool(self.rank) and self.scope == "dictionary"

    def period(self, *, rows: int, clips: int) -> int:
        """Steps between two searches in a table of so many rows, with so many clips a step."""
        return self.every or max(1, -(-rows // clips))


class Basis(NamedTuple):
    """Directions of the dictionary, and what finding them cost this rank."""

    vectors_MR: torch.Tensor
    """float64, orthonormal columns, the largest entry of each positive."""
    singular_M: torch.Tensor
    method: str
    bytes_sent: int
    seconds: float


def truncate(transient_BTM: torch.Tensor, rank: int) -> torch.Tensor:
    """Best rank-`rank` approximation of each (T, M) matrix (Eq. 7), by a batched SVD."""
    if rank >= min(transient_BTM.shape[-2:]) or not len(transient_BTM):
        return transient_BTM
    u, s, vh = torch.linalg.svd(transient_BTM.to(torch.float64), full_matrices=False)
    low = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    return low.to(transient_BTM.dtype)


class Fold(NamedTuple):
    """How frames, some at a time, become the directions of all: sums of pages, joined in pairs."""

    start: Callable[[int], torch.Tensor]
    """The sum of no frames of M numbers."""
    add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """A page's sum with more frames (n, M); a new tensor."""
    leaf: Callable[[torch.Tensor], torch.Tensor]
    """A page's sum as it goes into the tree, (M, M)."""
    join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    solve: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """Singular values (M,) and right singular vectors (M, M), in columns, from the root."""


def find_basis(table: ShardedTable, *, rank: int, method: str) -> Basis:
    """Top `rank` right singular vectors of the table seen as (N T, M); the same bits on every rank,
    however many threads each has."""
    return _timed(table, lambda: METHODS[method](table), rank=rank, method=method)


def joined(
    table: ShardedTable, sum_of: Callable[[int], torch.Tensor], *, rank: int, method: str
) -> Basis:
    """As `find_basis`, from the sums of the pages that each rank owns (`Fold`)."""
    return _timed(table, lambda: _solved(table, FOLDS[method], sum_of), rank=rank, method=method)


def _timed(
    table: ShardedTable, search: Callable[[], tuple[torch.Tensor, torch.Tensor]], *, rank: int,
    method: str,
) -> Basis:  # fmt: skip
    comm = table.comm
    before, start = sum(comm.bytes_sent.values()), time.perf_counter()
    with one_thread():
        singular, vectors = search()
    rank = min(rank, vectors.shape[1])
    vectors = fix_signs(vectors[:, :rank]).contiguous()
    sent = sum(comm.bytes_sent.values()) - before
    return Basis(vectors, singular, method, sent, time.perf_counter() - start)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute with one thread in the body, then with as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fix_signs(vectors_MR: torch.Tensor) -> torch.Tensor:
    """The same directions with the largest entry of each column positive."""
    at = vectors_MR.abs().argmax(0, keepdim=True)
    return vectors_MR * torch.where(vectors_MR.gather(0, at) < 0, -1.0, 1.0)


def frames_of(table: ShardedTable, rows: torch.Tensor) -> torch.Tensor:
    """Frames (n T, M) of rows (n,) that this rank holds, in float64 on the CPU."""
    values = table.read_host(table.slots(rows), ("value",))["value"]
    return values.reshape(-1, values.shape[-1]).to(torch.float64)


def _chunks(table: ShardedTable, page: int) -> Iterator[torch.Tensor]:
    """Frames of an owned page, those of `CHUNK` rows at a time."""
    for rows in page_rows(page, table.count).split(CHUNK):
        yield frames_of(table, rows)


def _gather(table: ShardedTable) -> tuple[torch.Tensor, torch.Tensor]:
    width = table.trail[-1]
    mine = [frames for page in table.own_pages for frames in _chunks(table, page)]
    parts = table.comm.gather_tensors(
        torch.cat([torch.empty(0, width, dtype=torch.float64), *mine])
    )
    # With fewer frames than directions, the others have to be there, too: as for other methods.
    _, singular, vh = torch.linalg.svd(_square(torch.cat(parts)), full_matrices=False)
    return singular, vh.T


def _at_once(table: ShardedTable, fold: Fold) -> tuple[torch.Tensor, torch.Tensor]:
    def page_sum(page: int) -> torch.Tensor:
        total = fold.start(table.trail[-1])
        for frames in _chunks(table, page):
            total = fold.add(total, frames)
        return total

    return _solved(table, fold, page_sum)


def _solved(
    table: ShardedTable, fold: Fold, sum_of: Callable[[int], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    return fold.solve(_reduce_tree(table, lambda page: fold.leaf(sum_of(page)), fold.join))


def _of_gram(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    return values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)


def _below(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """R of what two factors, or a factor and frames, are of together."""
    return torch.linalg.qr(torch.cat([left, right]), mode="r").R


def _of_factor(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _, singular, vh = torch.linalg.svd(factor)
    return singular, vh.T


def _square(factor: torch.Tensor) -> torch.Tensor:
    """R (or whatever has fewer rows than columns) with zero rows below: of one shape everywhere."""
    missing = max(0, factor.shape[1] - factor.shape[0])
    return torch.cat([factor, factor.new_zeros(missing, factor.shape[1])]) if missing else factor


def subtrees(pages: range) -> list[Node]:
    """The largest whole subtrees that tile a contiguous range of pages, from left to right."""
    nodes, at = [], pages.start
    while at < pages.stop:
        level = (at & -at).bit_length() - 1 if at else PAGES.bit_length() - 1
        while at + (1 << level) > pages.stop:
            level -= 1
        nodes.append((level, at >> level))
        at += 1 << level
    return nodes


def _reduce_tree(
    table: ShardedTable,
    leaf: Callable[[int], torch.Tensor],
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Root of the tree over all pages; leaves are computed by their owners."""
    comm, width = table.comm, table.trail[-1]
    owners = [subtrees(pages_of(rank, comm.world)) for rank in range(comm.world)]
    mine = [_node(level, index, {}, leaf, combine) for level, index in owners[comm.rank]]
    empty = torch.empty(0, width, width, dtype=torch.float64)
    parts = comm.gather_tensors(torch.stack(mine) if mine else empty)
    known = {
        node: value
        for nodes, values in zip(owners, parts, strict=True)
        for node, value in zip(nodes, values, strict=True)
    }
    return _node(PAGES.bit_length() - 1, 0, known, leaf, combine)


def _node(level: int, index: int, known: dict, leaf: Callable, combine: Callable) -> torch.Tensor:
    if (level, index) in known:
        return known[level, index]
    if level == 0:
        return leaf(index)
    left = _node(level - 1, 2 * index, known, leaf, combine)
    return combine(left, _node(level - 1, 2 * index + 1, known, leaf, combine))


FOLDS = {
    "gram": Fold(
        start=lambda width: torch.zeros(width, width, dtype=torch.float64),
        add=lambda total, frames: total + frames.T @ frames,
        leaf=lambda total: total,
        join=torch.add,
        solve=_of_gram,
    ),
    "tsqr": Fold(
        start=lambda width: torch.zeros(0, width, dtype=torch.float64),
        add=_below,
        leaf=_square,
        join=lambda left, right: _square(_below(left, right)),
        solve=_of_factor,
    ),
}
METHODS = {"gather": _gather} | {name: partial(_at_once, fold=FOLDS[name]) for name in FOLDS}
