"""Ranks of one machine hold footage that fits in memory once between them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_shards.config import DataConfig
from data_shards.errors import UserError
from data_shards.stream import Stream, open_manifest
from tests.support.ranks import run_ranks
from tests.support.shards import write_set
from trainer.comm import Comm
from trainer.config import resolve
from trainer.loop import open_stream
from trainer.observe import Observer
from trainer.segment import OneMachine

pytestmark = pytest.mark.ranks


def open_together(comm: Comm, folder: str, policy: str, *, shared: bool = True) -> Stream:
    config = DataConfig(on_damage=policy)
    return Stream(
        open_manifest(folder, config=config), config, seed=3, batch=5, rank=comm.rank,
        world=comm.world, together=OneMachine(comm) if shared else None,
    )  # fmt: skip


def look(comm: Comm, folder: str) -> dict:
    """What a rank reads together with the others and for itself, and whether memory is one."""
    alone, stream = (open_together(comm, folder, "quarantine", shared=s) for s in (False, True))
    found: dict = {"same": [], "damaged": [[d.clip for d in s.damaged] for s in (alone, stream)]}
    for _ in range(6):
        mine, shared = next(alone), next(stream)
        found["same"].append(all(torch.equal(a, b) for a, b in zip(mine, shared, strict=True)))
    assert stream.resident is not None
    comm.barrier()
    if comm.rank == 0:
        stream.resident.frames_FCHW[-1].fill_(77)
    comm.barrier()
    found["seen"] = int(stream.resident.frames_FCHW[-1].min())
    found["read"] = (stream.counters().bytes, alone.counters().bytes)
    return found


def spoil(folder: Path, clip: int) -> None:
    """Flip a bit in the middle of a clip."""
    record = open_manifest(str(folder)).table[clip]
    with (folder / f"shard-{int(record['shard']):05d}.tar").open("r+b") as file:
        place = int(record["offset"]) + int(record["size"]) // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize(("world", "extra"), [(2, ()), (3, (0, 2, 1))])
def test_ranks_decode_a_part_and_see_all(world: int, extra: tuple, tmp_path: Path) -> None:
    """Batches, damage and validity are those of a rank that decodes everything for itself; what a
    rank writes the others see; whole videos of different lengths, too."""
    write_set(tmp_path, (4, 3, 4), extra=extra)
    spoil(tmp_path, 9)
    ranks = run_ranks(look, world, str(tmp_path))
    for found in ranks:
        assert found["same"] == [True] * 6
        assert found["damaged"] == [[9], [9]]
        assert found["seen"] == 77
    read = [found["read"][0] for found in ranks]
    assert sum(read) == ranks[0]["read"][1] and max(read) < sum(read)


def refused(comm: Comm, folder: str) -> str:
    with pytest.raises(UserError) as caught:
        open_together(comm, folder, "fail")
    comm.barrier()  # every rank is still there
    return str(caught.value)


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_every_rank_learns_what_one_of_them_met(harm: str, tmp_path: Path) -> None:
    """A damaged clip or a missing shard of one rank's part stops all ranks in the same words."""
    write_set(tmp_path, (4, 3, 4))
    spoil(tmp_path, 9)
    first, second = run_ranks(refused, 2, str(tmp_path)) if harm == "flipped" else run_ranks(
        lose, 2, str(tmp_path)
    )  # fmt: skip
    assert first == second
    assert ("clip 9" if harm == "flipped" else "is the shard still there?") in first


def lose(comm: Comm, folder: str) -> str:
    """The last shard goes between opening the manifest and decoding."""
    config = DataConfig()
    opened = open_manifest(folder, config=config)
    comm.barrier()
    (Path(folder) / "shard-00002.tar").unlink(missing_ok=True)
    comm.barrier()
    with pytest.raises(UserError) as caught:
        Stream(opened, config, seed=0, batch=5, rank=comm.rank, world=comm.world,
               together=OneMachine(comm))  # fmt: skip
    comm.barrier()
    return str(caught.value)


def open_apart(comm: Comm, folders: list[str], policy: str) -> tuple[str, list[int]]:
    """What a rank is told as training opens its machine's copy, and the damage that it tells of."""
    comm.links = None  # as between machines
    config = resolve([f"data.manifest={folders[comm.rank]}", f"data.on_damage={policy}"])
    ranks = SimpleNamespace(comm=comm, device=torch.device("cpu"))
    parts: Any = SimpleNamespace(
        config=config, opened=open_manifest(folders[comm.rank], config=config.data),
        watchdog=SimpleNamespace(patience=lambda _: nullcontext()),
        engine=SimpleNamespace(ranks=ranks, pace=SimpleNamespace(clips=5),
                               dictionary=SimpleNamespace(constrain=lambda: None)),
    )  # fmt: skip
    observer: Any = SimpleNamespace(_damaged=set())
    try:
        with open_stream(parts, first=0) as stream:
            return "", Observer._new_damage(observer, stream)
    except UserError as error:
        return str(error), []


def test_a_copy_that_is_damaged_on_one_machine_is_told_to_all(tmp_path: Path) -> None:
    """Ranks with copies of their own that fit in memory: under `fail` all of them end for the one
    that cannot go on, and under `quarantine` that one tells of its clip."""
    folders = [tmp_path / "machine-0", tmp_path / "machine-1"]
    for folder in folders:
        write_set(folder, (4, 3))
    spoil(folders[1], 2)
    names = [str(folder) for folder in folders]
    told = run_ranks(open_apart, 2, names, "fail")
    assert told[0] == told[1] and told[0][0].startswith(f"{names[1]}/shard-00000.tar: clip 2, ")
    assert run_ranks(open_apart, 2, names, "quarantine") == [("", []), ("", [2])]
