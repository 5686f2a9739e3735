"""Settings of the latent dictionary, and what it will take of a rank's memory."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_shards.batch import KEY_KINDS
from data_shards.errors import UserError
from trainer import aside, ownership
from trainer.comm import Comm
from trainer.lowrank import LowRankConfig
from trainer.residence import NO_SCRATCH, RESIDENCES
from trainer.rowfile import record_bytes
from trainer.rowopt import RULES
from trainer.snapshot import WORK_BYTES
from trainer.spread import spread_over
from trainer.staging import KEPT
from trainer.table import replicated

WORKSPACE = 8 << 20
"""Buffers of messages and what the allocator keeps, in host memory."""


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
    optimiser: str = "adam"
    """Row optimiser: `momentum` (SGD, as in the paper) or `adam` (step count per row)."""
    rate: float = 0.01
    """Learning rate of the rows; 12.5 goes with `momentum` (Tab. 6)."""
    momentum: float = 0.9
    """Momentum of `momentum`."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of `adam`."""
    epsilon: float = 1e-10
    """Term of `adam` against division by zero."""
    init_scale: float = 1.0
    """Typical norm of a fresh code before it is put into the unit ball."""
    residence: str = "device"
    """Where rows live: `device`, `host` or `disk` (files in `scratch`)."""
    scratch: str = ""
    """Folder of the files of residence `disk`."""
    replicate_kib: int = 256
    """Tables of up to this many KiB of values are held by every rank, on the device; 0: none."""
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
        if self.replicate_kib < 0:
            raise UserError("latents.replicate_kib: must not be negative; 0 shards every table")
        for name in ("rate", "init_scale", "epsilon"):
            if not getattr(self, name) > 0:
                raise UserError(f"latents.{name}: must be positive")
        for name, value in (("momentum", self.momentum), *(("betas", b) for b in self.betas)):
            if not 0 <= value < 1:
                raise UserError(f"latents.{name}: {value} is not in [0, 1)")


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"latents.{name}: {value!r} is none of {', '.join(choices)}")


class Promise(NamedTuple):
    """Bytes that a rank's part of the dictionary takes at most, by place."""

    device: int
    host: int
    disk: int
    saving: int
    """Memory on top while a snapshot is read."""
    aside: int
    """Memory on top of that where training goes on meanwhile: rows that it overwrites."""


def promise_bytes(
    config: LatentsConfig, *, static_rows: int, transient_rows: int, frames: int,
    world: int = 1, batch: int = 64, gpu: bool = False,
) -> Promise:  # fmt: skip
    """Bytes per rank of a dictionary, before it is made; `batch` is the global batch, `gpu` whether
    steps are taken on one."""
    rule = RULES[config.optimiser]
    copies = 1 + len(rule.element_fields)
    place = {"device": 0, "host": WORKSPACE, "disk": 0, "saving": 0, "aside": 0}
    for count, trail in (
        (static_rows, (config.static,)), (transient_rows, (frames, config.transient)),
    ):  # fmt: skip
        held = replicated(count, trail, world=world, kib=config.replicate_kib)
        where = "device" if held else config.residence
        pages = ownership.PAGES if held else -(-ownership.PAGES // world)
        slots = pages * ownership.depth(count)
        row = 4 * math.prod(trail) * copies + 8 * len(rule.row_fields)
        place[where] += slots * (record_bytes(row) if where == "disk" else row)
        place["host"] += slots * (8 + 1)
        place["device" if where == "device" else "host"] += 4 * batch * row
        if gpu and where != "device":  # rows of batches there, and what a step makes of them
            place["device"] += (KEPT + 5) * batch * row
            place["host"] += KEPT * batch * row
        page = ownership.depth(count) * row
        place["saving"] = max(place["saving"], page + min(page, max(3 * row, WORK_BYTES)))
        place["aside"] += _aside(slots, row, step=min(batch, slots))
    if spread_over(config.low_rank, transient_rows):  # sums of pages
        place["host"] += -(-ownership.PAGES // world) * 8 * config.transient**2
    return Promise(**place)


def _aside(slots: int, row: int, *, step: int) -> int:
    """Bytes of rows that a snapshot sets aside at most, where a step overwrites `step` of them."""
    marks, copied = 2 * slots, 3 * step * row
    queued = max(aside.UNDER_WAY, step * row)
    return marks + copied + min(slots * (row + aside.PART), aside.HELD + queued)


def local_world() -> int:
    """Ranks of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_scratch(config: LatentsConfig, *, comm: Comm, **sizes: int) -> None:
    """`UserError`, on every rank, where some rank finds no room in `latents.scratch` for the rows
    of all ranks of its machine; `sizes` as in `promise_bytes`."""
    need = promise_bytes(config, world=comm.world, gpu=False, **sizes).disk
    if not need:
        return
    told = comm.gather_json(_problem_of(config.scratch, need * local_world()))
    problem = next((problem for problem in told if problem), "")
    if problem:
        raise UserError(problem)


def _problem_of(scratch: str, need: int) -> str:
    """Why a folder cannot take so many bytes; empty where it can."""
    if not scratch:
        return NO_SCRATCH
    folder = Path(scratch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder):  # as the rows will be, before they are all drawn
            pass
    except OSError as error:
        return f"latents.scratch: {folder}: {error.strerror}; choose another folder"
    if need <= free:
        return ""
    return (
        f"latents.scratch: {folder} has {free / 1e9:.1f} GB free and the dictionary needs "
        f"{need / 1e9:.1f} GB; choose another folder"
    )
