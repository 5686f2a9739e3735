"""Where a rank's part of a table lives: on the device, in host memory, or in a file.

The value of a row that was never written is a function of (seed, table, row, element) and of
nothing else, so a table of any size costs nothing before its rows are read, and starts the same on
every number of ranks and in every residence, bit for bit: the draw is whole-number arithmetic, a
sum of four uniforms (nearly normal), scaled and put into the unit ball as the paper does with its
normal samples.
"""

from __future__ import annotations

import errno
import math
import mmap
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from data_shards.errors import UserError
from data_shards.onto import onto
from trainer.rowfile import Field, RowFile
from trainer.staging import STAGED, Staging

RESIDENCES = ("device", "host", "disk")
HUGE = 2 << 20
"""Bytes of a huge page; tables in host memory are laid out in them."""
NO_SCRATCH = "latents.residence: disk needs a scratch folder; give latents.scratch"
INIT_BLOCK = 1 << 18
"""Elements drawn at once: a bound on memory, without effect on the draws."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


_GOLDEN, _MIX1, _MIX2 = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014) on int64 words."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def initial_rows(
    rows: torch.Tensor, trail: tuple[int, ...], *, seed: int, table: str, scale: float
) -> torch.Tensor:
    """First values (n, *trail) of `rows` (n,), float32, on the device of `rows`.

    `scale` is the root mean square norm of a vector (the last dimension) before the unit ball.
    """
    block = max(1, INIT_BLOCK // math.prod(trail))
    if len(rows) > block:
        parts = (
            initial_rows(part, trail, seed=seed, table=table, scale=scale)
            for part in rows.split(block)
        )
        return torch.cat(list(parts))
    key = torch.tensor(_signed((seed * 0x9E3779B97F4A7C15 ^ zlib.crc32(table.encode())) % 2**64))
    size = math.prod(trail)
    index = rows[:, None] * size + torch.arange(size, device=rows.device)
    bits = _mix(index * _GOLDEN + _mix(key).to(rows.device))
    pieces = (_shift(bits, k) & 0xFFFF if k else bits & 0xFFFF for k in (0, 16, 32, 48))
    draws = sum(pieces, torch.full_like(bits, -2 * 65535)).view(-1, *trail)
    unit = scale * math.sqrt(3) / (65536 * math.sqrt(trail[-1]))
    # The sum of squares is a sum of whole numbers: exact, whatever its order.
    norm = (draws * draws).sum(-1, keepdim=True).to(torch.float64).sqrt() * unit
    return (draws.to(torch.float64) * (unit / norm.clamp(min=1.0))).to(torch.float32)


def _host_table(slots: int, field: Field) -> torch.Tensor:
    """Zeros (slots, ...) in huge pages where the system has them: rows of a large table are touched
    at random, and looking up small pages costs a tenth of a step.

    Private memory, since shared memory has huge pages only where an administrator said so; and none
    of a forked loader process's, for which every page that is written would be copied.
    """
    size = slots * field.row_bytes
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(slots, *field.trail, dtype=field.dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_DONTFORK):
        memory.madvise(advice)
    return torch.frombuffer(memory, dtype=field.dtype).view(slots, *field.trail)


class Store:
    """The fields of a rank's slots. Slots are int64 in host memory; rows come on the device.

    `fresh(slots)` gives the first values of the field "value"; all other fields begin at zero.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        slots: int,
        *,
        residence: str,
        device: torch.device,
        folder: Path | None,
        fresh: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Make room for `slots` rows, filled at once on the device and elsewhere when read."""
        self.fields, self.slots, self.residence = dict(fields), slots, residence
        self._fresh, self._device = fresh, device
        self._file: RowFile | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._ready = torch.zeros(slots, dtype=torch.bool)
        if residence == "disk":
            if folder is None:
                raise UserError(NO_SCRATCH)
            folder.mkdir(parents=True, exist_ok=True)
            self._file = RowFile(folder, self.fields, slots)
        elif residence == "host" or device.type == "cpu":
            self._tensors = {name: _host_table(slots, f) for name, f in self.fields.items()}
        else:
            self._tensors = {
                name: torch.zeros(slots, *f.trail, dtype=f.dtype, device=device)
                for name, f in self.fields.items()
            }
        self._staging: Staging | None = None
        if residence != "device" and device.type in STAGED:
            self._staging = Staging(device, read=self._read_ahead, write=self._write)
        self.reset_()

    def reset_(self) -> None:
        """Every row as it was in the beginning."""
        if self._staging is not None:
            self._staging.clear()
        self._ready.zero_()
        if self.residence != "device":
            return
        for name, tensor in self._tensors.items():
            if name != "value":
                tensor.zero_()
        block = max(1, INIT_BLOCK // math.prod(self.fields["value"].trail))
        for part in torch.arange(self.slots).split(block):
            at = part.to(self._device)
            self._tensors["value"].index_copy_(0, at, self._fresh(at))
        self._ready.fill_(True)

    def read(self, slots: torch.Tensor, names: tuple[str, ...] | None = None) -> dict:
        """Copies of the rows in `slots` (n,), per field, on the device."""
        if self.residence != "device":
            if self._staging is not None:
                staged = self._staging.read(slots, names)
                if staged is not None:
                    return staged
                self._ask(slots)
            rows = self.read_host(slots, names)
            return {name: onto(value, self._device) for name, value in rows.items()}
        at = onto(slots, self._device)
        return {name: self._tensors[name].index_select(0, at) for name in names or self.fields}

    def read_host(self, slots: torch.Tensor, names: tuple[str, ...] | None = None) -> dict:
        """The same in host memory. Rows that live there or on disk do not go by the device, where
        they would wait for every kernel that training has asked for."""
        if self.residence == "device":
            return {name: rows.cpu() for name, rows in self.read(slots, names).items()}
        if self._staging is not None:
            self._staging.store()
        return self._read(slots, names)

    def _read(self, slots: torch.Tensor, names: tuple[str, ...] | None = None) -> dict:
        """Rows where they live: in host memory or on disk."""
        rows, new = self._found(slots, names or tuple(self.fields))
        self.draw_(rows, slots, new)
        return rows

    def _found(self, slots: torch.Tensor, names: tuple[str, ...]) -> tuple[dict, torch.Tensor]:
        ready = self._ready.index_select(0, slots)
        if self._file is not None:
            rows = self._file.read(slots, names)
        else:
            rows = {name: self._tensors[name].index_select(0, slots) for name in names}
        return rows, (~ready).nonzero().squeeze(1)

    def read_written(self, slots: torch.Tensor) -> tuple[dict, torch.Tensor]:
        """As `read_host`, but without the draw of rows that were never written: places (n,) of
        those in `slots`, for `draw_`, which needs no store that stands still."""
        if self.residence == "device":
            return self.read_host(slots), torch.zeros(0, dtype=torch.int64)
        if self._staging is not None:
            self._staging.store()
        return self._found(slots, tuple(self.fields))

    def draw_(self, rows: dict, slots: torch.Tensor, new: torch.Tensor) -> None:
        """Give rows of `slots`, at places `new` (n,), what rows are before they are written."""
        for name, value in rows.items() if len(new) else ():
            value[new] = self._fresh(slots[new]) if name == "value" else 0

    def write_(self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        """Store rows (n, ...) of some fields; a row's first write gives all of them.

        Raises:
            UserError: they live on a disk that is full. Beside a GPU the next call may say so.
        """
        if self._staging is not None:
            self._staging.write_(slots, rows)
        else:
            self._write(slots, rows)

    def _write(self, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        if self._file is not None:
            self._store(self._file, slots, {name: value.cpu() for name, value in rows.items()})
        else:
            at = onto(slots, self._device) if self.residence == "device" else slots
            for name, value in rows.items():
                self._tensors[name].index_copy_(0, at, value.to(self._tensors[name].device))
        if self.residence != "device":
            self._ready.index_fill_(0, slots, True)

    @staticmethod
    def _store(file: RowFile, slots: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        try:
            file.write_(slots, rows)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"latents.scratch: {error.filename} is full; choose another folder"
            ) from error

    @property
    def fetches(self) -> bool:
        """Whether rows that will be asked for are worth announcing (see `ahead`)."""
        return self._file is not None or self._staging is not None

    def ahead(self, slots: torch.Tensor) -> Callable[[], None]:
        """What a thread can do for rows that will be asked for: bring them to the device, or from
        disk into the system's cache."""
        if self._staging is not None:
            return self._staging.expect(slots)
        return partial(self.touch, slots)

    def touch(self, slots: torch.Tensor) -> None:
        """Bring rows from disk into the system's cache, all at once; safe beside another thread's
        work. Beside a GPU rows that were announced are there already, and others are asked for by
        `read`."""
        if self._staging is None:
            self._ask(slots)

    def _ask(self, slots: torch.Tensor) -> None:
        if self._file is not None:
            self._file.fetch(slots[self._ready.index_select(0, slots)])

    def _read_ahead(self, slots: torch.Tensor) -> dict:
        self._ask(slots)
        return self._read(slots)

    def sync(self) -> None:
        """Have rows in a file written to the disk, so that what got lost on the way is told; safe
        beside another thread's work."""
        if self._file is not None:
            if self._staging is not None:
                self._staging.store()
            self._file.sync()

    def forget(self) -> None:
        """Have the system drop rows in a file from its cache, for measuring without it."""
        if self._file is not None:
            self._file.forget()
