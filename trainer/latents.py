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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_shards.batch import KEY_KINDS
from data_shards.errors import UserError
from trainer import ownership
from trainer.comm import Comm
from trainer.lowrank import Basis, LowRankConfig, find_basis, truncate
from trainer.prefetch import Prefetcher
from trainer.reshard import Reader, Restored, restore_table
from trainer.residence import RESIDENCES, WINDOW
from trainer.rowopt import RULES
from trainer.table import Route, ShardedTable, TableSpec

KINDS = ("static", "transient")


@dataclass(frozen=True)
class LatentsConfig:
    """Widths, layout, row optimiser and residence of the latent dictionary."""

    static: int = 200
    """S, the width of a static code."""
    transient: int = 200
    """M, the width of each frame's transient code."""
    static_key: str = "video"
    """What a static row belongs to: dataset, action, identity, video or clip."""
    transient_key: str = "video"
    """What a transient row belongs to: dataset, action, identity, video or clip."""
    optimiser: str = "momentum"
    """Row optimiser: `momentum` (SGD, as in the paper) or `adam` (step count per row)."""
    rate: float = 12.5
    """Learning rate of the rows (Tab. 6), unless a schedule gives another."""
    momentum: float = 0.9
    """Momentum of `momentum`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of `adam`."""
    epsilon: float = 1e-8
    """Term of `adam` against division by zero."""
    init_scale: float = 1.0
    """Typical norm of a fresh code before it is put into the unit ball."""
    residence: str = "device"
    """Where rows live: `device`, `host` or `disk` (mapped files in `scratch`)."""
    scratch: str = ""
    """Folder of the mapped files of residence `disk`."""
    low_rank: LowRankConfig = field(default_factory=LowRankConfig)
    """The rank constraint of the interpolation experiments."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _choose("static_key", self.static_key, KEY_KINDS)
        _choose("transient_key", self.transient_key, KEY_KINDS)
        _choose("optimiser", self.optimiser, tuple(RULES))
        _choose("residence", self.residence, RESIDENCES)
        for name in ("static", "transient"):
            if getattr(self, name) < 1:
                raise UserError(f"latents.{name}: must be at least 1")
        for name in ("rate", "init_scale", "epsilon"):
            if not getattr(self, name) > 0:
                raise UserError(f"latents.{name}: must be positive")
        for name, value in (("momentum", self.momentum), *(("betas", b) for b in self.betas)):
            if not 0 <= value < 1:
                raise UserError(f"latents.{name}: {value} is not in [0, 1)")


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"latents.{name}: {value!r} is none of {', '.join(choices)}")


class Latents(NamedTuple):
    """Codes of a rank's clips: leaf tensors that take gradients, and the way back to their rows."""

    static_BS: torch.Tensor
    transient_BTM: torch.Tensor
    static_route: Route
    transient_route: Route


class Promise(NamedTuple):
    """Bytes that a rank's part of the dictionary takes at most, by place."""

    device: int
    host: int
    disk: int
    saving: int
    """Memory on top while a snapshot is read, without the rows that training touches meanwhile."""


class LatentDictionary:
    """Two sharded tables with their row optimiser. Every rank makes the same calls in order."""

    def __init__(
        self,
        config: LatentsConfig,
        *,
        frames: int,
        keys: Mapping[str, np.ndarray],
        comm: Comm,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`keys["static"]` and `keys["transient"]`: one int64 per row (array or memmap).

        A row's first value depends on (seed, table, row) alone. `frames` is T.
        """
        self.config, self.comm = config, comm
        place = comm.device if device is None else torch.device(device)
        folder = Path(config.scratch) if config.scratch else None
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
        self._prefetcher: Prefetcher | None = None

    def gather(self, static_rows_B: torch.Tensor, transient_rows_B: torch.Tensor) -> Latents:
        """Codes of rows (B,) each; B may be 0 and may differ between ranks.

        `UserError` when a row is not in its table (-1: the clip lacks the label of the layout).
        """
        static_BS, static_route = self.tables["static"].gather(static_rows_B)
        transient_BTM, transient_route = self.tables["transient"].gather(transient_rows_B)
        if self._basis_MR is not None:
            transient_BTM = transient_BTM @ self._basis_MR @ self._basis_MR.T
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

        Low rank of scope `dictionary` looks for its directions every `low_rank.every` steps; rows
        are projected on them whenever they are read.
        """
        low = self.config.low_rank
        for kind, table in self.tables.items():
            values = table.moved()
            if values is None:
                continue
            if kind == "transient" and low.rank and low.scope == "clip":
                values = truncate(values, low.rank)
            table.replace_moved_(unit_ball(values))
        if low.rank and low.scope == "dictionary" and self.steps % low.every == 0:
            self.find_basis()

    def find_basis(self) -> Basis:
        """Find the dictionary's directions now: one pass over the table, on every rank."""
        low = self.config.low_rank
        self._set_basis(find_basis(self.tables["transient"], rank=low.rank, method=low.method))
        assert self.basis is not None
        return self.basis

    def _set_basis(self, basis: Basis) -> None:
        self.basis = basis
        self._basis_MR = basis.vectors_MR.to(self.tables["transient"].device, torch.float32)

    def rows(self, kind: str, rows: torch.Tensor) -> torch.Tensor:
        """Values (n, ...) of any rows of the table `kind`, without gradient; on every rank."""
        values, _ = self.tables[kind].gather(rows)
        if kind == "transient" and self._basis_MR is not None:
            return values @ self._basis_MR @ self._basis_MR.T
        return values

    def assign(self, kind: str, values_N: torch.Tensor | None) -> None:
        """Give the rows of a table new values (N, ...), rank 0's; put into the unit ball."""
        table = self.tables[kind]
        if values_N is None or self.comm.rank:
            values_N = torch.empty(table.count, *table.trail)
        table.assign_(unit_ball(self.comm.broadcast_(values_N.contiguous())))

    def fetch_ahead(self, static_rows: torch.Tensor, transient_rows: torch.Tensor) -> None:
        """Begin to read rows of a coming step (of its whole global batch) from disk."""
        if self.config.residence != "disk":
            return
        self._prefetcher = self._prefetcher or Prefetcher()
        self._prefetcher.fetch(self.tables["static"], static_rows)
        self._prefetcher.fetch(self.tables["transient"], transient_rows)

    def snapshot(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's pages as they are now, while training goes on: read it in any one thread."""
        shared: list[tuple[str, torch.Tensor]] = []
        if self.comm.rank == 0:
            shared.append(("dictionary.steps", torch.tensor([self.steps])))
            if self.basis is not None:
                shared.append(("dictionary.basis", self.basis.vectors_MR))
                shared.append(("dictionary.singular", self.basis.singular_M))
        return chain(shared, *(table.snapshot() for table in self.tables.values()))

    def export(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's pages: `static.value.07`, `transient.momentum.07`, `static.key.07`, ..."""
        return self.snapshot()

    def restore(self, reader: Reader) -> dict[str, Restored]:
        """Read pages saved by any number of ranks; rows are matched by key (see `reshard`)."""
        counts = {kind: restore_table(table, reader) for kind, table in self.tables.items()}
        self.steps = int(reader("dictionary.steps"))
        low = self.config.low_rank
        if low.rank and low.scope == "dictionary" and self.steps >= low.every:
            self._restore_basis(reader)
        return counts

    def _restore_basis(self, reader: Reader) -> None:
        """The saved directions, or new ones where the constraint was not on before."""
        method = self.config.low_rank.method
        try:
            vectors, singular = reader("dictionary.basis"), reader("dictionary.singular")
        except KeyError:
            self.find_basis()
        else:
            self._set_basis(Basis(vectors, singular, method, 0, 0.0))

    def close(self) -> None:
        """End the fetch-ahead thread."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    @staticmethod
    def promise_bytes(
        config: LatentsConfig, *, static_rows: int, transient_rows: int, frames: int,
        world: int = 1, batch: int = 64,
    ) -> Promise:  # fmt: skip
        """Bytes per rank of a dictionary, before it is made; `batch` is the global batch."""
        rule = RULES[config.optimiser]
        copies = 1 + len(rule.element_fields)
        widths = (config.static, frames * config.transient)
        stored = kept = moving = page = 0
        for count, width in zip((static_rows, transient_rows), widths, strict=True):
            slots = -(-ownership.PAGES // world) * ownership.depth(count)
            row = 4 * width * copies + 8 * len(rule.row_fields)
            stored += slots * row
            kept += slots * (8 + 1)
            moving += 4 * batch * row
            page = max(page, ownership.depth(count) * row)
        files = 2 * (copies + len(rule.row_fields))
        place = {"device": 0, "host": 0, "disk": 0, "saving": 2 * page}
        place[config.residence] = stored
        place["host"] += kept + (2 * WINDOW if config.residence == "disk" else 0) + files * 4096
        place["device" if config.residence == "device" else "host"] += moving
        return Promise(**place)


def unit_ball(values: torch.Tensor) -> torch.Tensor:
    """Each vector (last dimension) divided by max(1, its l2 norm) (Sec. 3.3)."""
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1.0)
