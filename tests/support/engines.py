"""Engines on the ranks of a test: the training step without run folder, lock and checkpoints."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from data_shards.stream import Stream, open_manifest
from tests.support.training import SMALL
from trainer import schedule, setup
from trainer.comm import Comm
from trainer.config import Config, resolve
from trainer.engine import Engine
from trainer.parallel import start

TINY = (*SMALL, "networks.channels=4", "networks.hidden=8", "begin.latents=random")


class Made(NamedTuple):
    """An engine and the stream of its batches."""

    config: Config
    engine: Engine
    stream: Stream


def join(comm: Comm) -> None:
    """Tell Accelerate about the ranks that a test has started."""
    for name, value in {
        "RANK": comm.rank, "LOCAL_RANK": comm.rank, "WORLD_SIZE": comm.world,
        "LOCAL_WORLD_SIZE": comm.world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0,
    }.items():  # fmt: skip
        if comm.world > 1:
            os.environ[name] = str(value)


def make(
    data: str, words: tuple[str, ...], *, first: int = 0, base: tuple[str, ...] = TINY,
) -> Made:  # fmt: skip
    """A fresh engine on this rank, and its batches from visit `first` on."""
    config = resolve([f"data.manifest={data}", *base, *words])
    ranks = start(
        threads=config.train.threads or 1, precision=config.train.precision, timeout_seconds=120
    )
    opened = open_manifest(config.data.manifest, config=config.data)
    networks = setup.build_networks(config, opened.manifest)
    dictionary = setup.build_dictionary(config, opened.manifest, opened.table, comm=ranks.comm)
    engine = Engine(config, ranks=ranks, networks=networks, dictionary=dictionary)
    stream = Stream(
        opened, config.data, seed=config.seed, batch=engine.pace.clips, rank=ranks.comm.rank,
        world=ranks.comm.world, start_step=first,
    )  # fmt: skip
    return Made(config, engine, stream)


def steps(made: Made, first: int, last: int) -> list[float]:
    """Take steps first..last-1; the total loss of each, over all ranks."""
    _, engine, stream = made
    losses, batch, loaded = [], None, -1
    for step in range(first, last):
        visit = schedule.visit(step, pace=engine.pace)
        if loaded != visit or batch is None:
            batch, loaded = next(stream), visit
        moves = schedule.stage(step, pace=engine.pace).moves
        measured = engine.measure(batch, step=step, moves=moves)
        assert measured.finite
        engine.update(step=step, moves=moves, factor=1.0)
        losses.append(float(engine.ranks.comm.sum_(measured.terms.double())[0]))
    return losses


def everything(engine: Engine) -> dict[str, Any]:
    """All weights, averages and rows, on every rank."""
    rows = {
        kind: engine.dictionary.rows(kind, torch.arange(table.count)).clone()
        for kind, table in engine.dictionary.tables.items()
    }
    common = engine.common()
    weights = {f"weights.{k}": v.clone() for k, v in common["networks"].items()}
    return {**rows, **weights, **{f"average.{k}": v.clone() for k, v in common["average"].items()}}
