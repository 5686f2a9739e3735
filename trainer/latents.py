"""The latent dictionary: static (N, S) and transient (N, T, M) codes, sharded by row over ranks.

The codes of Sec. 3 are learned, not inferred: a clip's static code z^(s) and its transient codes
z^(t)_1..T are rows of two tables, looked up by keys that the layout names (Sec. 4.1). A step is

    latents = dictionary.gather(static_rows_B, transient_rows_B)
    loss(latents.static_BS, latents.transient_BTM).backward()
    dictionary.accumulate(latents)
    dictionary.step(rate)
    dictionary.project_()

Callers hold their own part of the batch and never see a shard. Rows that no clip touched do not
move, and any number of ranks gives the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from trainer.comm import Comm
from trainer.latents_config import LatentsConfig, Promise, check_scratch, promise_bytes
from trainer.lowrank import Basis, find_basis, truncate
from trainer.prefetch import Prefetcher
from trainer.projections import project_rows
from trainer.reshard import Reader, Restored, restore_table
from trainer.snapshot import Pages
from trainer.spread import Spread, spread_over
from trainer.table import Route, ShardedTable, TableSpec

__all__ = ["KINDS", "LatentDictionary", "Latents", "LatentsConfig", "Promise", "unit_ball"]

KINDS = ("static", "transient")


class Latents(NamedTuple):
    """Codes of a rank's clips: leaf tensors that take gradients, and the way back to their rows."""

    static_BS: torch.Tensor
    transient_BTM: torch.Tensor
    static_route: Route
    transient_route: Route


class LatentDictionary:
    """Two sharded tables with their row optimiser. Every rank makes the same calls in order."""

    def __init__(
        self,
        config: LatentsConfig,
        *,
        frames: int,
        keys: Mapping[str, np.ndarray],
        comm: Comm,
        clips: int = 1,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`keys["static"]` and `keys["transient"]`: one int64 per row (array or memmap).

        A row's first value depends on (seed, table, row) alone. `frames` is T; `clips` of a global
        batch say how many steps a pass over the rows has.

        Raises:
            UserError: on every rank, where one has no room in `latents.scratch`.
        """
        self.config, self.comm = config, comm
        place = comm.device if device is None else torch.device(device)
        folder = Path(config.scratch) if config.scratch else None
        check_scratch(
            config, comm=comm, static_rows=len(keys["static"]),
            transient_rows=len(keys["transient"]), frames=frames,
        )  # fmt: skip
        trails = {"static": (config.static,), "transient": (frames, config.transient)}
        self.tables = {
            kind: ShardedTable(
                TableSpec(
                    kind,
                    len(keys[kind]),
                    trails[kind],
                    seed,
                    config.init_scale,
                    config.optimiser,
                    config.residence,
                    folder,
                    config.replicate_kib,
                ),
                keys[kind],
                comm,
                place,
            )
            for kind in KINDS
        }
        self.steps = 0
        self.basis: Basis | None = None
        self._basis_MR: torch.Tensor | None = None
        low, rows = config.low_rank, len(keys["transient"])
        self._period = low.period(rows=rows, clips=clips)
        self._search = (
            Spread(self.tables["transient"], method=low.method, period=self._period)
            if spread_over(low, rows) else None
        )  # fmt: skip
        self._prefetcher: Prefetcher | None = None

    def gather(self, static_rows_B: torch.Tensor, transient_rows_B: torch.Tensor) -> Latents:
        """Codes of rows (B,) each; B may be 0 and may differ between ranks.

        `UserError` when a row is not in its table (-1: the clip lacks the label of the layout).
        The first call looks for the directions of low rank over the dictionary.
        """
        self.constrain()
        static_BS, static_route = self.tables["static"].gather(static_rows_B)
        transient_BTM, transient_route = self.tables["transient"].gather(transient_rows_B)
        if self._basis_MR is not None:
            transient_BTM = project_rows(transient_BTM, self._basis_MR)
        return Latents(
            static_BS.requires_grad_(),
            transient_BTM.requires_grad_(),
            static_route,
            transient_route,
        )

    def accumulate(
        self, latents: Latents, *, scale: float = 1.0, keep_B: torch.Tensor | None = None
    ) -> None:
        """Add the gradients of gathered codes, times `scale`, to what the next step will apply.

        Duplicates are summed, within and across ranks. A clip with `keep_B` False (damaged) does
        not count as a touch of its rows. Give `keep_B` on all ranks or on none.
        """
        pairs = (
            ("static", latents.static_BS, latents.static_route),
            ("transient", latents.transient_BTM, latents.transient_route),
        )
        for kind, codes, route in pairs:
            grad = codes.grad if codes.grad is not None else torch.zeros_like(codes)
            self.tables[kind].accumulate(route, grad if scale == 1.0 else grad * scale, keep_B)

    def step(self, rate: float | None = None) -> None:
        """Move the rows that got gradients since the last step; `rate` defaults to the config's."""
        config = self.config
        for kind, table in self.tables.items():
            table.step(
                config.rate if rate is None else rate,
                basis=self._basis_MR if kind == "transient" else None,
                momentum=config.momentum,
                betas=config.betas,
                eps=config.epsilon,
            )
        self.steps += 1

    def project_(self) -> None:
        """Put the rows that the last step moved into the unit ball and under the rank constraint.

        Low rank of scope `dictionary` has new directions every `low_rank.every` steps, for which a
        part of a large table is read after each; rows are projected on them whenever they are read.
        """
        low = self.config.low_rank
        for kind, table in self.tables.items():
            values = table.moved()
            if values is None:
                continue
            if kind == "transient" and low.rank and low.scope == "clip":
                values = truncate(values, low.rank)
            table.replace_moved_(unit_ball(values))
        if self._search is not None:
            self._search.read(self.steps)
        if low.of_dictionary and self.steps % self._period == 0:
            if self._search is not None and self._search.whole:
                self._set_basis(self._search.finish(rank=low.rank))
            else:
                self.find_basis()

    def constrain(self) -> None:
        """Find directions where there are none yet: rows are never read without the constraint.
        That reads the whole table once; reading rows does it, too."""
        if self.config.low_rank.of_dictionary and self.basis is None:
            self.find_basis()

    def find_basis(self) -> Basis:
        """Find the dictionary's directions now: one pass over the table, on every rank."""
        low = self.config.low_rank
        self._set_basis(find_basis(self.tables["transient"], rank=low.rank, method=low.method))
        assert self.basis is not None
        return self.basis

    def _set_basis(self, basis: Basis) -> None:
        self.basis = basis
        self._basis_MR = basis.vectors_MR.to(self.tables["transient"].device)

    def rows(self, kind: str, rows: torch.Tensor) -> torch.Tensor:
        """Values (n, ...) of any rows of the table `kind`, without gradient; on every rank."""
        self.constrain()
        values, _ = self.tables[kind].gather(rows)
        if kind == "transient" and self._basis_MR is not None:
            return project_rows(values, self._basis_MR)
        return values

    def assign(self, kind: str, values_N: torch.Tensor | None) -> None:
        """Give the rows of a table new values (N, ...), rank 0's, put into the unit ball.

        Directions of the old ones are given up; the next read looks for those of the new.
        """
        table = self.tables[kind]
        if values_N is None or self.comm.rank:
            values_N = torch.empty(table.count, *table.trail)
        values_N = unit_ball(self.comm.broadcast_(values_N.contiguous()))
        table.assign_(torch.arange(table.count), values_N)
        if kind == "transient":
            self.basis = self._basis_MR = None
            if self._search is not None:
                self._search.forget()

    def fetch_ahead(self, static_rows: torch.Tensor, transient_rows: torch.Tensor) -> None:
        """Begin to read rows of a coming step (of its whole global batch), from disk or for a GPU
        from wherever they live."""
        for kind, rows in (("static", static_rows), ("transient", transient_rows)):
            if self.tables[kind].store.fetches:
                self._prefetcher = self._prefetcher or Prefetcher()
                self._prefetcher.fetch(self.tables[kind], rows)

    @property
    def fetches(self) -> bool:
        """Whether `fetch_ahead` does anything for some table."""
        return any(table.store.fetches for table in self.tables.values())

    def snapshot(self) -> Pages:
        """This rank's pages as they are now, while training goes on: read it in any one thread."""
        self.constrain()  # what is read back from a checkpoint has the constraint, too
        shared: list[tuple[str, torch.Tensor]] = []
        if self.comm.rank == 0:
            shared.append(("dictionary.steps", torch.tensor([self.steps])))
            basis = self.basis or self._no_basis()
            shared.append(("dictionary.basis", basis.vectors_MR))
            shared.append(("dictionary.singular", basis.singular_M))
        if self._search is not None:
            shared += self._search.saved()
        tables = [table.snapshot() for table in self.tables.values()]
        pictures = [picture for table in tables for picture in table.pictures]
        return Pages(chain(shared, *tables), pictures)

    def export(self) -> Pages:
        """This rank's pages: `static.value.07`, `transient.momentum.07`, `static.key.07`, ..."""
        return self.snapshot()

    def restore(self, reader: Reader) -> dict[str, Restored]:
        """Read pages saved by any number of ranks; rows are matched by key (see `reshard`)."""
        counts = {kind: restore_table(table, reader) for kind, table in self.tables.items()}
        self.steps = int(reader("dictionary.steps"))
        self.basis = self._basis_MR = None
        low = self.config.low_rank
        if low.of_dictionary:
            self._restore_basis(reader)
        if self._search is not None:
            self._search.restore(reader)
        return counts

    def _restore_basis(self, reader: Reader) -> None:
        """The saved directions; new ones where there are none or another number of them."""
        low = self.config.low_rank
        vectors, singular = reader("dictionary.basis"), reader("dictionary.singular")
        if vectors.shape[1] == min(low.rank, self.config.transient):
            # Copies: what is read is a view of the checkpoint's file, and would keep it there.
            self._set_basis(Basis(vectors.clone(), singular.clone(), low.method, 0, 0.0))
        else:
            self.find_basis()

    def _no_basis(self) -> Basis:
        """What stands in a checkpoint where no directions are kept: none (M, 0)."""
        empty = torch.empty(self.config.transient, 0, dtype=torch.float64)
        return Basis(empty, empty[0], self.config.low_rank.method, 0, 0.0)

    def close(self) -> None:
        """End the fetch-ahead thread."""
        prefetcher, self._prefetcher = self._prefetcher, None
        if prefetcher is not None:
            prefetcher.close()

    @staticmethod
    def promise_bytes(config: LatentsConfig, *, gpu: bool = False, **sizes: int) -> Promise:
        """Bytes per rank of a dictionary, before it is made: see `latents_config.promise_bytes`."""
        return promise_bytes(config, gpu=gpu, **sizes)


def unit_ball(values: torch.Tensor) -> torch.Tensor:
    """Each vector (last dimension) divided by max(1, its l2 norm) (Sec. 3.3)."""
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1.0)
