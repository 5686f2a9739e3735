"""One table of the latent dictionary, sharded by row over ranks.

A small table is replicated instead: every rank holds all rows and takes every step, gradients are
gathered by rank, and each rank saves the pages that it would own. The bits are the same.

Reading and writing rows is two all-to-alls: the asked rows to their owners, their values back;
then the gradients to the owners. The owner sums duplicates in the order of the global batch (rank
by rank, slot by slot), so the sums do not depend on arrival or on the number of ranks.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from data_shards.onto import onto
from trainer import ownership
from trainer.comm import Comm
from trainer.projections import project_rows
from trainer.residence import Store, initial_rows
from trainer.rowfile import Field
from trainer.rowopt import RULES
from trainer.snapshot import Pages, Snapshot


class Route(NamedTuple):
    """How one batch of rows went to its owners, so that gradients can follow."""

    rows_B: torch.Tensor
    order_B: torch.Tensor | None
    """Positions in the batch, by owner; None for one rank."""
    sent: list[int]
    asked: torch.Tensor
    """Rows that other ranks (and this one) asked of this one, by rank."""
    asked_counts: list[int]


class TableSpec(NamedTuple):
    """What a table is made of."""

    name: str
    count: int
    trail: tuple[int, ...]
    seed: int
    init_scale: float
    optimiser: str
    residence: str
    folder: Path | None
    replicate_kib: int = 0


class ShardedTable:
    """Rows (count, *trail) of float32 with their row-optimiser state and keys."""

    def __init__(self, spec: TableSpec, keys: np.ndarray, comm: Comm, device: torch.device) -> None:
        """`keys` (count,) int64 say which sample a row belongs to; only owned ones are kept."""
        if len(keys) != spec.count:
            raise UserError(f"{spec.name} table: {spec.count} rows but {len(keys)} keys")
        self.spec, self.comm, self.device = spec, comm, device
        self.name, self.count, self.trail = spec.name, spec.count, spec.trail
        self.replicated = replicated(
            spec.count, spec.trail, world=comm.world, kib=spec.replicate_kib
        )
        self._place = (0, 1) if self.replicated else (comm.rank, comm.world)
        self.pages = ownership.pages_of(*self._place)
        self.own_pages = ownership.pages_of(comm.rank, comm.world)
        self.depth = ownership.depth(spec.count)
        self.rule = RULES[spec.optimiser]
        self.lock = threading.Lock()
        self._keys = [
            torch.from_numpy(np.array(keys[page :: ownership.PAGES], dtype=np.int64))
            for page in self.pages
        ]
        fields = {"value": Field(spec.trail, torch.float32)}
        fields |= {name: Field(spec.trail, torch.float32) for name in self.rule.element_fields}
        fields |= {name: Field((), torch.int64) for name in self.rule.row_fields}
        self.store = Store(
            fields,
            len(self.pages) * self.depth,
            residence="device" if self.replicated else spec.residence,
            device=device,
            folder=spec.folder,
            fresh=self._fresh,
        )
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._moved: tuple[torch.Tensor, dict[str, torch.Tensor]] | None = None
        """Slots and rows of the last step until they are projected; `_owing`: not stored yet, so
        that they are written once."""
        self._owing = False
        self.touched = 0
        """Rows of this rank that steps have moved so far, a row once per step."""
        # Weak: a snapshot that nobody reads any more must not go on keeping rows.
        self._snapshot: Callable[[], Snapshot | None] = lambda: None

    def slots(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's slots of rows that it holds."""
        return ownership.slot_of(rows, *self._place, self.count)

    def page_keys(self, page: int) -> torch.Tensor:
        """Keys of a held page's rows (int64)."""
        return self._keys[page - self.pages.start]

    def owned(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of `rows` that this rank holds, in their order."""
        rank, world = self._place
        return rows[ownership.owner_of(rows, world) == rank]

    def gather(self, rows_B: torch.Tensor) -> tuple[torch.Tensor, Route]:
        """Values (B, *trail) of any rows, from their owners, and the way back for gradients."""
        rows_B = rows_B.detach().to("cpu", torch.int64)
        if len(rows_B) and (int(rows_B.min()) < 0 or int(rows_B.max()) >= self.count):
            raise UserError(
                f"latents: a clip names row {int(rows_B.min())}..{int(rows_B.max())} of the "
                f"{self.name} table, which has {self.count} rows; is a label absent?"
            )
        if self._place == (0, 1):
            values = self._read_values(rows_B)
            return values, Route(rows_B, None, [len(rows_B)], rows_B, [len(rows_B)])
        owner = ownership.owner_of(rows_B, self.comm.world)
        order = owner.argsort(stable=True)
        sent = owner.bincount(minlength=self.comm.world).tolist()
        asked = self.comm.exchange(rows_B[order].split(sent))
        counts = [len(part) for part in asked]
        route = Route(rows_B, order, sent, torch.cat(asked), counts)
        answers = self._read_values(route.asked).split(counts)
        values = torch.cat(self.comm.exchange(answers, receive=sent))
        out = torch.empty_like(values)
        out[onto(order, self.device)] = values
        return out, route

    def _read_values(self, rows: torch.Tensor) -> torch.Tensor:
        slots = self.slots(rows)
        self.store.touch(slots)  # all at once, where they are on disk; the step finds them read
        return self.read(slots, ("value",))["value"]

    def read(self, slots: torch.Tensor, names: tuple[str, ...] | None = None) -> dict:
        """Copies of rows of held slots, per field, on the device."""
        self.settle_()
        return self.store.read(slots, names)

    def read_host(self, slots: torch.Tensor, names: tuple[str, ...] | None = None) -> dict:
        """The same in host memory, whatever the device is busy with."""
        self.settle_()
        return self.store.read_host(slots, names)

    def accumulate(self, route: Route, grad_B: torch.Tensor, keep_B: torch.Tensor | None) -> None:
        """Send gradients to the owners of their rows, without those where `keep_B` is False."""
        grad_B = grad_B.detach().to(torch.float32)
        asked = route.asked
        if route.order_B is not None:
            back = grad_B[onto(route.order_B, self.device)].split(route.sent)
            grad_B = torch.cat(self.comm.exchange(back, receive=route.asked_counts))
        if keep_B is not None:
            keep = keep_B.to("cpu", torch.bool)
            if route.order_B is not None:
                parts = keep[route.order_B].split(route.sent)
                keep = torch.cat(self.comm.exchange(parts, receive=route.asked_counts))
            asked, grad_B = asked[keep], grad_B[keep.to(self.device)]
        if self.replicated:
            asked, grad_B = self._share(asked, grad_B)
        self._pending.append((asked, grad_B))

    def _share(self, rows: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every rank's rows and gradients, by rank, in one message with the numbers in front."""
        flat = grad.flatten(1)
        # A row asked for alone may come as a view with a stride of its own.
        rows = rows.clone(memory_format=torch.contiguous_format)
        numbers = onto(rows.view(torch.float32).reshape(len(rows), 2), self.device)
        everyone = torch.cat(self.comm.gather_tensors(torch.cat([numbers, flat], 1)))
        rows = everyone[:, :2].contiguous().cpu().view(torch.int64).reshape(-1)
        return rows, everyone[:, 2:].reshape(-1, *self.trail)

    def step(self, rate: float, *, basis: torch.Tensor | None, **settings: object) -> None:
        """Move the rows that got gradients since the last step; `basis` (M, rho) projects first."""
        if not self._pending:
            return
        rows, grad = sum_duplicates(self._pending)
        self._pending = []
        self.touched += len(rows)
        slots = self.slots(rows)
        state = self.read(slots)
        if basis is not None:
            state["value"] = project_rows(state["value"], basis)
        self.rule.update_(state, grad, rate=rate, **settings)
        self._moved, self._owing = (slots, state), True

    def moved(self) -> torch.Tensor | None:
        """Values of the rows that the last step moved, until `replace_moved_`."""
        return None if self._moved is None else self._moved[1]["value"]

    def replace_moved_(self, values: torch.Tensor) -> None:
        """Projected values of the rows that the last step moved."""
        if self._moved is not None:
            slots, state = self._moved
            rows = {"value": values}
            self._moved, self._owing, owing = None, False, self._owing
            self.write_(slots, {**state, **rows} if owing else rows)

    def settle_(self) -> None:
        """Store what the last step moved, if nobody has yet; `replace_moved_` may still come."""
        if self._owing and self._moved is not None:
            self._owing = False
            self.write_(*self._moved)

    def reset_(self) -> None:
        """Every row as it was in the beginning."""
        self._moved, self._owing = None, False
        self.store.reset_()

    def write_(self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        """Store rows of owned slots, after a running snapshot has kept what they held."""
        with self.lock:
            picture = self._snapshot()
            if picture is not None:
                picture.keep(slots)
            self.store.write_(slots, rows)

    def assign_(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Overwrite the values of those of `rows` that this rank holds; optimiser state stays."""
        rows = rows.to("cpu", torch.int64)
        held = ownership.owner_of(rows, self._place[1]) == self._place[0]
        slots = self.slots(rows[held])
        new = values.detach()[held.to(values.device)].to(self.device, torch.float32)
        self.write_(slots, self.read(slots) | {"value": new})

    def snapshot(self) -> Pages:
        """Names and tensors of this rank's pages as they are now; read them in any one thread."""
        running = self._snapshot()
        if running is not None and not running.done:
            raise RuntimeError(f"{self.name}: the last snapshot is still being read")
        self.settle_()
        sizes = {page: len(self.page_keys(page)) for page in self.own_pages}
        picture = Snapshot(self.store, self.lock, sizes, self.pages.start, self.depth)
        self._snapshot = weakref.ref(picture)
        return Pages(self._named(picture), [picture])

    def _named(self, picture: Snapshot) -> Iterator[tuple[str, torch.Tensor]]:
        for page, fields in picture.pages():
            yield f"{self.name}.key.{page:02d}", self.page_keys(page)
            for field, tensor in fields.items():
                yield f"{self.name}.{field}.{page:02d}", tensor

    def _fresh(self, slots: torch.Tensor) -> torch.Tensor:
        rows = ownership.row_of(slots, *self._place, self.count)
        spec = self.spec
        return initial_rows(
            rows, spec.trail, seed=spec.seed, table=spec.name, scale=spec.init_scale
        )


def replicated(count: int, trail: tuple[int, ...], *, world: int, kib: int) -> bool:
    """Whether every rank holds a table of float32 rows (count, *trail)."""
    return world > 1 and 4 * count * math.prod(trail) <= kib << 10


def sum_duplicates(
    pending: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct rows (n,) ascending and the sums (n, ...) of their gradients, in batch order."""
    rows = torch.cat([r for r, _ in pending]) if len(pending) > 1 else pending[0][0]
    grads = torch.cat([g for _, g in pending]) if len(pending) > 1 else pending[0][1]
    order = rows.argsort(stable=True)
    distinct, counts = rows[order].unique_consecutive(return_counts=True)
    grads = grads[onto(order, grads.device)]
    if len(distinct) < len(rows):
        lengths = onto(counts, grads.device)
        grads = torch.segment_reduce(grads, "sum", lengths=lengths, axis=0, unsafe=True)
    return distinct, grads
