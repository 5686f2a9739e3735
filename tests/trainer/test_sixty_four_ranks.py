"""64 ranks without 64 processes: who reads, holds, sends and saves how much of the golf set."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from data_shards.plan import Plan, rank_slots
from trainer import ownership
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig
from trainer.links import connect
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
    """Over 50 steps, no rank answers for more than twice its share of a batch's rows."""
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


def test_sixty_four_ranks_of_one_machine_meet_and_talk(many_files: None) -> None:
    """64 real ends of links, as threads: each is connected to all others, and every rank gets from
    every other what was meant for it; the rows of a batch fit through."""
    told: list[list[Any]] = [[None] * WORLD, [None] * WORLD]
    barrier = threading.Barrier(WORLD)

    def talk(rank: int) -> bool:
        calls = iter(told)

        def gather(value: Any) -> list[Any]:
            slots = next(calls)
            slots[rank] = value
            barrier.wait(120)
            return slots

        links = connect(rank, WORLD, gather, timeout_seconds=120)
        assert links is not None and links.world == WORLD
        good = True
        for size in (1, 8, 64):
            got = links.exchange([f"{rank}>{to},".encode() * size for to in range(WORLD)])
            good &= got == [f"{other}>{rank},".encode() * size for other in range(WORLD)]
        barrier.wait(120)
        links.close()
        return good

    with ThreadPoolExecutor(WORLD) as pool:
        assert list(pool.map(talk, range(WORLD))) == [True] * WORLD
