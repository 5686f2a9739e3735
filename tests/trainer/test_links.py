"""Messages between the processes of one machine: sizes, order, and what a dead one leaves."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import RankError, run_ranks
from trainer import links
from trainer.comm import Comm
from trainer.leaving import LOST_RANK, ending_of
from trainer.segment import share_memory

SIZES = (0, 1, 65_535, 65_536, 3_000_001)


def exchange(comm: Comm) -> list[bool]:
    made = links.connect(comm.rank, comm.world, comm.gather_json, timeout_seconds=60)
    assert made is not None
    right = []
    for size in SIZES:
        parts = [bytes([10 * comm.rank + to]) * (size + to) for to in range(comm.world)]
        for sender, got in enumerate(made.exchange(parts)):
            right.append(got == bytes([10 * sender + comm.rank]) * (size + comm.rank))
    made.close()
    return right


@pytest.mark.ranks
def test_every_rank_gets_what_was_sent_to_it() -> None:
    """Empty, small and large messages at once, more than sockets hold, each to its rank."""
    assert all(all(right) for right in run_ranks(exchange, 3))


def die_in_the_middle(comm: Comm, folder: Path) -> None:
    if comm.rank == 1:
        # A forked child, as a loader worker is, must not keep its parent's connections open.
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            signal.pause()
        (folder / "child").write_text(str(child))
        comm.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    comm.barrier()
    try:
        comm.barrier()
    except RuntimeError as error:
        (folder / "told").write_text(f"{ending_of(error).status}: {error}")
    os.kill(int((folder / "child").read_text()), signal.SIGKILL)


@pytest.mark.ranks
def test_a_killed_rank_is_known_at_once(tmp_path: Path) -> None:
    """Also while a forked child of it lives on: the other gets an error that means a lost rank."""
    with pytest.raises(RankError, match="rank 1 of 2 died"):
        run_ranks(die_in_the_middle, 2, tmp_path, timeout=60)
    told = (tmp_path / "told").read_text()
    assert told.startswith(f"{LOST_RANK.status}: connection closed by rank 1")


def out_of_step(comm: Comm) -> str:
    """Rank 0 is ahead by one exchange that rank 1 has skipped."""
    made = links.connect(comm.rank, comm.world, comm.gather_json, timeout_seconds=60)
    assert made is not None
    if comm.rank == 0:
        made._number += 1
    try:
        made.exchange([b"", b""])
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.ranks
def test_ranks_that_are_not_at_the_same_place_say_so() -> None:
    """Messages of different exchanges are never taken for each other."""
    told = run_ranks(out_of_step, 2)
    # Whoever sees it first closes its connections, and the other may learn of that alone.
    assert any(re.fullmatch(r"rank \d is at exchange \d and this one at \d", t) for t in told)
    assert all(told)


def silent(comm: Comm) -> str:
    """Rank 1 does not come to the exchange before rank 0 has given up."""
    made = links.connect(comm.rank, comm.world, comm.gather_json, timeout_seconds=0.2)
    assert made is not None
    told = ""
    if comm.rank == 0:
        with pytest.raises(RuntimeError) as caught:
            made.exchange([b"", b""])
        told = str(caught.value)
    comm.barrier()
    return told


@pytest.mark.ranks
def test_a_rank_that_keeps_the_others_waiting_is_named() -> None:
    """After the timeout, as a lost rank."""
    assert run_ranks(silent, 2)[0] == "timed out waiting for rank 1 after 0 s"


def strangers(comm: Comm) -> bool:
    """Rank 1 seems to be on another machine."""

    def gather(value: Any) -> list[Any]:
        where = f"machine of {comm.rank}"
        return comm.gather_json([where, *value[1:]] if isinstance(value, list) else value)

    return links.connect(comm.rank, comm.world, gather, timeout_seconds=60) is None


@pytest.mark.ranks
def test_ranks_of_several_machines_go_on_without() -> None:
    """None on every rank, at once, so that all take the other way together."""
    assert run_ranks(strangers, 2) == [True, True]


def write_and_read(comm: Comm) -> list[int]:
    memory = share_memory(64, comm)
    assert memory is not None and not memory.any()
    comm.barrier()
    memory[comm.rank] = comm.rank + 1
    comm.barrier()
    return memory[: comm.world].tolist()


@pytest.mark.ranks
def test_a_segment_is_seen_by_all() -> None:
    """What one rank writes the others read."""
    assert run_ranks(write_and_read, 3) == [[1, 2, 3]] * 3


def too_large(comm: Comm) -> bool:
    return share_memory(1 << 62, comm) is None


@pytest.mark.ranks
def test_a_segment_that_does_not_fit_is_none_for_all() -> None:
    """No rank is left waiting."""
    assert run_ranks(too_large, 2) == [True, True]
