"""Small dictionaries and a training that any number of ranks can share, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig

FRAMES, BATCH = 3, 7
ROWS = {"static": 5, "transient": 131}


PAPER = {"optimiser": "momentum", "betas": (0.9, 0.999), "epsilon": 1e-8}


def keys_of(names: list[int] | range, kind: str) -> np.ndarray:
    """Distinct keys that are no simple function of the row."""
    salt = {"static": 11, "transient": 29}[kind]
    return np.array([(n * 0x1E3779B97F4A7C15 + salt) % (1 << 62) for n in names], dtype=np.int64)


def make(
    comm: Comm, *, rows: dict[str, Any] | None = None, clips: int = 1, **settings: Any
) -> LatentDictionary:
    """A dictionary of S = 4, M = 6, T = 3; `rows` gives counts or lists of names per table."""
    names = {k: range(v) if isinstance(v, int) else v for k, v in (rows or ROWS).items()}
    settings = {"static": 4, "transient": 6, "rate": 0.3, "replicate_kib": 0} | settings
    keys = {kind: keys_of(list(n), kind) for kind, n in names.items()}
    config = LatentsConfig(**{**PAPER, **settings})
    return LatentDictionary(config, frames=FRAMES, keys=keys, comm=comm, clips=clips, seed=3)


def batch(step: int, counts: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (B,), (B,) and targets (B, T, 10) of a global batch, with duplicates."""
    draw = torch.Generator().manual_seed(step)
    static = torch.randint(counts["static"], (BATCH,), generator=draw)
    transient = torch.randint(counts["transient"], (BATCH,), generator=draw)
    transient[-1] = transient[0]
    return static, transient, torch.randn(BATCH, FRAMES, 10, generator=draw)


def train(
    dictionary: LatentDictionary, comm: Comm, *, first: int = 0, last: int, ahead: bool = False
) -> None:
    """Steps `first` to `last` on squared distances to the targets, each rank on its slots."""
    counts = {kind: table.count for kind, table in dictionary.tables.items()}
    mine = slice(comm.rank * BATCH // comm.world, (comm.rank + 1) * BATCH // comm.world)
    for step in range(first, last):
        static, transient, target = batch(step, counts)
        if ahead:
            dictionary.fetch_ahead(*batch(step + 1, counts)[:2])
        latents = dictionary.gather(static[mine], transient[mine])
        target = target.to(latents.static_BS.device)
        near = (latents.static_BS[:, None] - target[mine, :, :4]).square().sum()
        (near + (latents.transient_BTM - target[mine, :, 4:]).square().sum()).backward()
        dictionary.accumulate(latents, scale=0.5)
        dictionary.step()
        dictionary.project_()


def contents(dictionary: LatentDictionary) -> dict[str, torch.Tensor]:
    """Every row of both tables as gather gives them."""
    return {
        kind: dictionary.rows(kind, torch.arange(table.count))
        for kind, table in dictionary.tables.items()
    }
