"""What a run's checkpoints take of the disk of its folder, before there is one.

A checkpoint is what `engine.Engine.common` and `ShardedTable.snapshot` give: weights, Adam's
moments and the average; keys, values and optimiser state of every row. Headers, counters and sums
of a search for directions come on top, some MiB at most.
"""

from __future__ import annotations

import logging
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from trainer import aside, commit
from trainer.checkpoint import CHECKPOINTS
from trainer.comm import Comm
from trainer.config import Config
from trainer.latents_config import LatentsConfig, local_world, promise_bytes
from trainer.rowfile import record_bytes
from trainer.rowopt import RULES

FLOAT, KEY = 4, 8
log = logging.getLogger("navsynth")


class Room(NamedTuple):
    """Bytes of the disk that checkpoints take, and how many there are at once."""

    one: int
    """Of a checkpoint."""
    count: int
    """Newest ones, the best, and the one that is being written; 0: all are kept."""
    every: int
    """Those at multiples of so many steps stay, too; 0: none."""
    aside: int
    """Of rows that training overwrites while a checkpoint is written, at most."""

    @property
    def most(self) -> int:
        """All that are there at once, as far as that has a bound."""
        return self.count * self.one + self.aside

    def text(self, folder: str | Path = "") -> str:
        """In words, with the run's folder where it is given."""
        many = f"up to {self.count} x" if self.count else "all are kept, each"
        told = f"{many} {size_text(self.one)}{f' in {folder}' if folder else ''}"
        if self.count and self.every:
            told += f", and those at multiples of {self.every} steps"
        if self.aside:
            told += f", up to {size_text(self.aside)} of rows set aside while one is written"
        return told


def room_of(config: Config, manifest: Manifest, *, parameters: int) -> Room:
    """Of a run whose networks have so many parameters."""
    latents, keep = config.latents, config.checkpoint
    rule = RULES[latents.optimiser]
    one = FLOAT * parameters * (3 + bool(config.train.average))
    set_aside = 0
    for key, trail in (
        (latents.static_key, (latents.static,)),
        (latents.transient_key, (manifest.frames, latents.transient)),
    ):
        fields = 1 + len(rule.element_fields)
        row = FLOAT * math.prod(trail) * fields + KEY * len(rule.row_fields)
        count = manifest.rows(key)
        one += count * (row + KEY)
        if count * (row + aside.PART) > aside.HELD:  # else they stay in memory
            set_aside += count * record_bytes(row)
    return Room(
        one,
        keep.keep + keep.best + 1 if keep.keep else 0,
        keep.every,
        set_aside if keep.beside else 0,
    )


def require(
    config: Config, manifest: Manifest, folder: Path, *, parameters: int, comm: Comm, fresh: bool
) -> None:
    """Before training, on all ranks together: see that the disk of a run's folder has room. In a
    `fresh` run rows that live on that disk, too, have taken nothing of it yet.

    Warns where it has less than the checkpoints that are there at once take, and, with
    `checkpoint.on_full=continue`, where it has less than one takes.

    Raises:
        UserError: on every rank, where not one can be saved and a full disk is to stop the run.
    """
    problem, warning = "", ""
    if comm.rank == 0:
        room = room_of(config, manifest, parameters=parameters)
        rows = _scratch(config.latents, manifest, folder, world=comm.world) if fresh else 0
        problem, warning = _shortage(room, folder, rows=rows)
    problem = comm.gather_json(problem)[0]
    if problem and config.checkpoint.on_full == "stop":
        raise UserError(problem)
    told = problem or warning
    if told and comm.rank == 0:
        log.warning(told)


def size_text(size: float) -> str:
    """Bytes in words."""
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{size / unit:.1f} {name}"


def _scratch(latents: LatentsConfig, manifest: Manifest, folder: Path, *, world: int) -> int:
    """Bytes that rows will take of the disk of a run's folder, of all ranks of this machine."""
    rows = promise_bytes(
        latents, world=world, frames=manifest.frames, static_rows=manifest.rows(latents.static_key),
        transient_rows=manifest.rows(latents.transient_key),
    ).disk  # fmt: skip
    if not rows:
        return 0
    with suppress(OSError):  # of the run's folder, which is told where its room is asked for
        if Path(latents.scratch).stat().st_dev == folder.stat().st_dev:
            return rows * local_world()
    return 0


def _shortage(room: Room, folder: Path, *, rows: int) -> tuple[str, str]:
    """Why not one checkpoint can be saved beside so many bytes of rows, or why room will not last;
    empty where that is not so. What the run's checkpoints take by now is theirs."""
    where = folder / CHECKPOINTS
    try:
        free = shutil.disk_usage(folder).free - rows
        there = sum(
            file.stat().st_size
            for step in commit.committed(where)
            for file in (where / commit.step_name(step)).iterdir()
        )
    except OSError as error:  # which costs no run; a save will tell
        return "", f"{folder}: {error.strerror}: no telling whether checkpoints have room"
    beside = f" beside the {size_text(rows)} of rows in latents.scratch" if rows else ""
    told = f"{folder}: its disk has {size_text(max(0, free))} free{beside} and "
    fix = "free some space, choose another disk by --runs, or set "
    if free < room.one:
        return (
            f"{told}a checkpoint takes {size_text(room.one)}; {fix}fewer or smaller rows "
            "(latents.transient_key, latents.transient, latents.optimiser=momentum)"
        ), ""
    if room.count and free + there < room.most:
        return "", (
            f"{told}checkpoints take {room.text()}; {fix}a smaller checkpoint.keep, "
            "checkpoint.best=false or checkpoint.background=false"
        )
    return "", ""
