"""Saved pages back into a table, on any number of ranks; rows are matched by key.

Where every page holds the same keys as before, each rank copies its pages. Otherwise videos were
added or removed: each rank walks over all saved pages and takes the rows whose keys it owns; rows
without a match begin anew. A page is the most that is in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from data_shards.errors import UserError
from trainer import ownership
from trainer.saved import AbsentPageError
from trainer.table import ShardedTable

Reader = Callable[[str], torch.Tensor]


class Restored(NamedTuple):
    """Rows of a table that the checkpoint had, rows that it lacked, and rows it had in vain."""

    matched: int
    new: int
    dropped: int


def restore_table(table: ShardedTable, reader: Reader) -> Restored:
    """Fill `table` from saved pages; the same counts on every rank.

    `reader(name)` gives the tensor saved under `name` and raises KeyError or AbsentPageError
    for an unknown one.
    `UserError` when no key matches, or the shapes or the row optimiser differ.
    """
    same = all(
        torch.equal(table.page_keys(page), _read(reader, table, "key", page))
        for page in table.pages
    )
    _check_shapes(table, reader)
    differ = table.comm.max_(torch.tensor([0 if same else 1]))
    table.reset_()
    if not int(differ):
        for page in table.pages:
            _fill(table, reader, page, ownership.page_rows(page, table.count), None)
        return Restored(table.count, 0, 0)
    matched, saved = _match(table, reader)
    total = matched if table.replicated else int(table.comm.sum_(torch.tensor([matched])))
    if not total:
        raise UserError(
            f"{table.name} table: no key of the checkpoint is in this data set; resume with the "
            "manifest and layout that the checkpoint was trained on"
        )
    return Restored(total, table.count - total, saved - total)


def saved_rows(reader: Reader, kind: str, rows: torch.Tensor) -> torch.Tensor:
    """Values (n, ...) of rows straight from a checkpoint's pages, without a dictionary.

    `rows` are positions in the table that was saved. Transient rows are read inside the saved
    directions where low rank of scope `dictionary` was on. `reader` as for `restore_table`.
    """
    rows = rows.to("cpu", torch.int64)
    page = ownership.page_of(rows)
    values: list[torch.Tensor | None] = [None] * len(rows)
    for number in page.unique().tolist():
        saved = reader(f"{kind}.value.{number:02d}")
        for at in (page == number).nonzero().squeeze(1).tolist():
            values[at] = saved[int(rows[at]) // ownership.PAGES]
    if len(rows):
        found = torch.stack([value for value in values if value is not None])
    else:
        found = reader(f"{kind}.value.00")[:0].clone()
    if kind != "transient":
        return found
    basis = reader("dictionary.basis").to(torch.float32)
    return found @ basis @ basis.T if basis.shape[1] else found


def _match(table: ShardedTable, reader: Reader) -> tuple[int, int]:
    """Take matching rows from every saved page; rows matched here, and rows saved in all."""
    matched = saved = 0
    rows, keys = _owned_sorted(table)
    for page in range(ownership.PAGES):
        theirs = _read(reader, table, "key", page)
        saved += len(theirs)
        if not len(keys) or not len(theirs):
            continue
        at = torch.searchsorted(keys, theirs).clamp(max=len(keys) - 1)
        found = keys[at] == theirs
        if bool(found.any()):
            _fill(table, reader, page, rows[at[found]], found.nonzero().squeeze(1))
            matched += int(found.sum())
    return matched, saved


def _owned_sorted(table: ShardedTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of this rank and their keys, by key; UserError on all ranks where two keys are equal."""
    empty = [torch.empty(0, dtype=torch.int64)]
    pages = table.pages
    rows = torch.cat([*empty, *(ownership.page_rows(page, table.count) for page in pages)])
    keys, order = torch.cat([*empty, *(table.page_keys(page) for page in pages)]).sort()
    _require_distinct(table, keys)
    return rows[order], keys


def _require_distinct(table: ShardedTable, keys: torch.Tensor) -> None:
    """Refuse on every rank alike where two rows share a key. Equal keys are sent to one rank, so
    that rows of different ranks are compared, too; a replicated table is whole on each."""
    comm = table.comm
    if not table.replicated:
        judge = keys.remainder(comm.world)
        sizes = judge.bincount(minlength=comm.world).tolist()
        parts = keys[judge.argsort(stable=True)].split(sizes)
        keys = torch.cat(comm.exchange(parts)).sort().values
    twice = torch.tensor([int((keys[1:] == keys[:-1]).any())])
    if int(comm.max_(twice)):
        raise UserError(f"{table.name} table: two rows have the same key; keys must be distinct")


def _fill(
    table: ShardedTable, reader: Reader, page: int, rows: torch.Tensor, pick: torch.Tensor | None
) -> None:
    """Write a saved page's rows (those at `pick`) into owned `rows`, field by field."""
    if not len(rows):
        return
    fields = {}
    for name in table.store.fields:
        saved = _read(reader, table, name, page)
        fields[name] = saved if pick is None else saved[pick]
    for part in _blocks(len(rows)):
        table.write_(table.slots(rows[part]), {name: t[part] for name, t in fields.items()})


def _check_shapes(table: ShardedTable, reader: Reader) -> None:
    """Refuse on every rank alike, by the first page, so that no rank waits for one that left."""
    for name, field in table.store.fields.items():
        shape = tuple(_read(reader, table, name, 0).shape[1:])
        if shape != field.trail:
            raise UserError(
                f"{table.name} table: the checkpoint has rows of shape {shape} and the settings "
                f"ask for {field.trail}; keep latents.static, latents.transient and the clip "
                "length as they were"
            )


def _blocks(count: int, size: int = 4096) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))


def _read(reader: Reader, table: ShardedTable, field: str, page: int) -> torch.Tensor:
    name = f"{table.name}.{field}.{page:02d}"
    try:
        return reader(name)
    except (KeyError, AbsentPageError):
        raise UserError(
            f"checkpoint: {name} is missing; it was saved with another latents.optimiser "
            f"than {table.spec.optimiser!r}, or is no checkpoint of a dictionary"
        ) from None
