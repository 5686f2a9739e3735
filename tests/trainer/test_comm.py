"""The collectives, with real gloo processes and alone."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import RankError, run_ranks
from trainer.comm import Comm


def collectives(comm: Comm) -> dict:
    rank, world = comm.rank, comm.world
    parts = [
        torch.full((max(0, rank - to), 2, 3), rank * 10 + to, dtype=torch.bfloat16)
        for to in range(world)
    ]
    got = comm.exchange(parts)
    flags = comm.exchange([torch.tensor([rank > to, True]) for to in range(world)])
    empty = comm.exchange([torch.empty(0, 4) for _ in range(world)])
    known = comm.exchange(
        [torch.full((to + 1,), rank) for to in range(world)], receive=[rank + 1] * world
    )
    strided = torch.zeros(4, 3).t()
    strided += rank + 1
    comm.sum_(strided)
    shapes = comm.gather_tensors(torch.full((rank, 2), rank, dtype=torch.int32))
    scalar = comm.gather_tensors(torch.tensor(rank))
    before = dict(comm.bytes_sent)
    comm.barrier()
    return {
        "got": [t.float() for t in got],
        "flags": flags,
        "empty": [tuple(t.shape) for t in empty],
        "known": known,
        "strided": strided.clone(),
        "max": comm.max_(torch.tensor([rank, -rank])),
        "shapes": shapes,
        "scalar": scalar,
        "json": comm.gather_json({"rank": rank, "text": "é" * rank}),
        "from_last": comm.broadcast_(torch.tensor([rank]), src=world - 1),
        "bytes": before,
        "handle": Comm.from_environment().world,
    }


@pytest.mark.ranks
@pytest.mark.parametrize("world", [1, 3])
def test_collectives_deliver_what_was_sent(world: int) -> None:
    """Uneven, empty, bfloat16 and bool parts arrive at the right rank, alone as among three."""
    for rank, out in enumerate(run_ranks(collectives, world)):
        for sender in range(world):
            expected = torch.full((max(0, sender - rank), 2, 3), float(sender * 10 + rank))
            assert torch.equal(out["got"][sender], expected)
            assert out["flags"][sender].tolist() == [sender > rank, True]
            assert out["empty"][sender] == (0, 4)
            assert out["known"][sender].tolist() == [sender] * (rank + 1)
            assert torch.equal(
                out["shapes"][sender], torch.full((sender, 2), sender, dtype=torch.int32)
            )
            assert int(out["scalar"][sender]) == sender
            assert out["json"][sender] == {"rank": sender, "text": "é" * sender}
        assert torch.equal(out["strided"], torch.full((3, 4), sum(range(1, world + 1)) * 1.0))
        assert out["max"].tolist() == [world - 1, 0]
        assert out["from_last"].tolist() == [world - 1]
        assert out["handle"] == world
        assert bool(out["bytes"]) == (world > 1)


def test_one_rank_copies_nothing() -> None:
    """Alone, an exchange hands back the very tensors."""
    part = torch.ones(3)
    assert Comm().exchange([part])[0] is part
    assert Comm().gather_tensors(part)[0] is part
    assert not Comm().bytes_sent
    with pytest.raises(ValueError, match="needs 1 parts"):
        Comm().exchange([part, part])


def second_rank_fails(comm: Comm) -> None:
    if comm.rank == 1:
        raise KeyError("the lost row")
    dist.barrier()


@pytest.mark.ranks
def test_an_error_of_a_rank_is_shown() -> None:
    """The traceback of the rank that raised reaches the test, while the other is still waiting."""
    with pytest.raises(RankError, match=r"(?s)rank 1 of 2 raised.*the lost row"):
        run_ranks(second_rank_fails, 2)
