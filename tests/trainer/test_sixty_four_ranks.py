"""64 ranks without 64 processes: who reads, holds, sends and saves how much of the golf set."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_shards.plan import Plan, rank_slots
from tests.support.dictionaries import contents, make, train
from trainer import ownership
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig
from trainer.links import connect
from trainer.lowrank import LowRankConfig
from trainer.table import ShardedTable, TableSpec

WORLD, CLIPS, BATCH = 64, 583_508, 1000
"""A batch that 64 ranks do not divide."""


class Seat(Comm):
    """One of many ranks that are not there: it can hold and save, and talks to nobody."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rank, self.world = rank, world


def golf_plan() -> Plan:
    shards = [4096] * (CLIPS // 4096) + [CLIPS % 4096]
    return Plan(shards, seed=0, batch=BATCH, group=16, block=4096)


def test_every_clip_of_a_batch_is_read_by_one_rank() -> None:
    """64 ranks deal a batch of 1,000; the busiest reads one clip more than the idlest."""
    slots = [rank_slots(BATCH, rank=rank, world=WORLD) for rank in range(WORLD)]
    assert [slot for part in slots for slot in part] == list(range(BATCH))
    assert {len(part) for part in slots} == {15, 16}
    assert len(np.unique(golf_plan().batch(7).clip_B)) == BATCH


def test_rows_asked_of_the_busiest_rank() -> None:
    """Over 50 steps the busiest rank answers for at most 1.15 times its share of rows, and for 2.5
    times in a single step."""
    plan = golf_plan()
    asked = torch.stack([
        ownership.owner_of(torch.from_numpy(plan.batch(step).clip_B), WORLD).bincount(
            minlength=WORLD
        )
        for step in range(50)
    ])  # fmt: skip
    assert int(asked.sum()) == 50 * BATCH
    share = BATCH / WORLD
    assert asked.double().mean(dim=0).max() < 1.15 * share
    assert asked.max() < 2.5 * share


def test_ranks_hold_and_save_every_row_once_in_equal_parts() -> None:
    """Rows held and bytes saved by 64 ranks are the whole table, 1 % apart at most."""
    keys = np.arange(CLIPS, dtype=np.int64)
    spec = TableSpec("transient", CLIPS, (1, 2), 0, 1.0, "momentum", "host", None)
    rows, sizes = [], []
    for rank in range(WORLD):
        table = ShardedTable(spec, keys, Seat(rank, WORLD), torch.device("cpu"))
        held = torch.cat([table.page_keys(page) for page in table.own_pages])
        rows.append(held)
        sizes.append(sum(tensor.nbytes for _, tensor in table.snapshot()))
    assert torch.equal(torch.cat(rows).sort().values, torch.from_numpy(keys))
    assert max(sizes) <= 1.01 * min(sizes)
    assert sum(sizes) == CLIPS * (8 + 2 * 2 * 4)


def test_a_rank_of_sixty_four_is_promised_its_share_of_memory() -> None:
    """A sixty-fourth of rows and momentum, and the buffers of a batch."""
    config = LatentsConfig(
        static=56, static_key="dataset", transient_key="clip", optimiser="momentum",
        residence="host",
    )  # fmt: skip
    promise = LatentDictionary.promise_bytes(
        config, static_rows=1, transient_rows=CLIPS, frames=16, world=WORLD, batch=BATCH
    )
    whole = CLIPS * 16 * 200 * 4 * 2
    assert whole / WORLD < promise.host < whole / WORLD + 150 * 2**20


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for the sockets of 64 ranks in this one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip(f"64 ranks have 4,032 sockets, and {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Linked(Comm):
    """One of many ranks that are threads of this process, with real links to all others."""

    def __init__(self, rank: int, world: int, gather: Callable[[Any], list[Any]]) -> None:
        super().__init__()
        self.rank, self.world = rank, world
        self.links = connect(rank, world, gather, timeout_seconds=120)


def together(world: int, task: Callable[[Comm], Any]) -> list[Any]:
    """What a task gives on each of so many ranks, by rank."""
    told: list[list[Any]] = [[None] * world, [None] * world]
    barrier = threading.Barrier(world)

    def one(rank: int) -> Any:
        calls = iter(told)

        def gather(value: Any) -> list[Any]:
            slots = next(calls)
            slots[rank] = value
            barrier.wait(120)
            return slots

        comm = Linked(rank, world, gather)
        assert comm.links is not None and comm.links.world == world
        try:
            found = task(comm)
            barrier.wait(120)
            return found
        finally:
            comm.links.close()

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def test_sixty_four_ranks_of_one_machine_meet_and_talk(many_files: None) -> None:
    """64 real ends of links, as threads: each is connected to all others, and every rank gets from
    every other what was meant for it; the rows of a batch fit through."""

    def talk(comm: Comm) -> bool:
        assert comm.links is not None
        rank, good = comm.rank, True
        for size in (1, 8, 64):
            got = comm.links.exchange([f"{rank}>{to},".encode() * size for to in range(WORLD)])
            good &= got == [f"{other}>{rank},".encode() * size for other in range(WORLD)]
        return good

    assert together(WORLD, talk) == [True] * WORLD


def test_sixty_four_ranks_step_search_save_and_three_go_on(
    many_files: None, tmp_path: Path
) -> None:
    """A dictionary on 64 ranks, most of them without a clip and some without a row, takes the steps
    and finds the directions of one rank, bit for bit; its checkpoint comes back on three."""
    low = LowRankConfig(rank=2, scope="dictionary", every=2)

    def steps(comm: Comm) -> tuple[dict[str, torch.Tensor], Path | None]:
        dictionary = make(comm, low_rank=low)
        train(dictionary, comm, last=4)
        checkpoints = Checkpointer(tmp_path / str(comm.world), CheckpointConfig(), comm=comm)
        path = checkpoints.save(4, common={}, own=dictionary.snapshot(), state={})
        checkpoints.close()
        return contents(dictionary), path

    def back(comm: Comm) -> dict[str, torch.Tensor]:
        dictionary = make(comm, low_rank=low)
        checkpoints = Checkpointer(tmp_path / str(WORLD), CheckpointConfig(), comm=comm)
        newest = checkpoints.latest()
        assert newest is not None
        dictionary.restore(checkpoints.open(newest).read)
        train(dictionary, comm, first=4, last=6)
        checkpoints.close()
        return contents(dictionary)

    alone, _ = steps(Comm())
    for found, path in together(WORLD, steps):
        assert path is not None and path.is_dir()
        assert all(torch.equal(found[kind], rows) for kind, rows in alone.items())
    straight = make(Comm(), low_rank=low)
    train(straight, Comm(), last=6)
    for found in together(3, back):
        assert all(torch.equal(found[kind], rows) for kind, rows in contents(straight).items())
