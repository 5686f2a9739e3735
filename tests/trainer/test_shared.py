"""Weights in memory that ranks share: exact resume, one truth for all ranks, plain checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data_shards.errors import UserError
from tests.support.engines import everything, join, make, steps
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer import schedule
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.optim import GROUPS, OptimConfig
from trainer.parallel import start
from trainer.shared import Shared, shared_memory

WORDS = (
    "schedule.clips=5", "optim.clip=0.5", "optim.gamma_rate=1e-3", "optim.epsilon=1e-4",
    "train.accumulate=2", "train.average=0.9",
)  # fmt: skip
BATCH_NORM = ("networks.norm=batch", "train.accumulate=1")
VISITS = ("schedule.kind=alternate", "schedule.inner_gamma=2", "schedule.inner_latents=3",
          "train.accumulate=1")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_set(tmp_path_factory.mktemp("data"), frames=4, size=32))


def state(made: Any) -> dict[str, torch.Tensor]:
    moments = {k: v.clone() for k, v in made.engine.common()["optimiser"].items()}
    return everything(made.engine) | moments


def train(comm: Comm, folder: Path, data: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Nine steps in one go and, from a checkpoint after the fifth (a visit's last), again."""
    join(comm)
    words = (*WORDS, *words)
    made = make(data, words)
    steps(made, 0, 5)
    checkpoints = Checkpointer(folder, CheckpointConfig(), comm=comm)
    engine = made.engine
    checkpoints.save(5, common=engine.common(), own=engine.own(), state=engine.identity())
    steps(made, 5, 9)
    pace = made.engine.pace
    again = make(data, words, first=schedule.visit(5, pace=pace))
    again.engine.restore(checkpoints.open(checkpoints.at(5)))
    steps(again, 5, 9)
    return {
        "shared": isinstance(made.engine.parallel, Shared),
        "whole": state(made), "resumed": state(again),
    }  # fmt: skip


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("world", "words"),
    [(2, ()), (3, (*BATCH_NORM, "train.average=0")), (2, VISITS)],
)
def test_resume_repeats_the_bits_and_ranks_agree(
    tmp_path: Path, data: str, world: int, words: tuple[str, ...]
) -> None:
    """Weights, average, moments and rows after a restore are those of a run never stopped."""
    found = run_ranks(train, world, tmp_path, data, words)
    for result in found:
        assert result["shared"]
        assert result["whole"].keys() == result["resumed"].keys() == found[0]["whole"].keys()
        for name, tensor in result["whole"].items():
            assert torch.equal(tensor, result["resumed"][name]), name
            assert torch.equal(tensor, found[0]["whole"][name]), name


def four_steps(comm: Comm, data: str, way: str) -> dict[str, torch.Tensor]:
    join(comm)
    made = make(data, (*WORDS, f"train.gradients={way}"))
    steps(made, 0, 4)
    return state(made)


@pytest.mark.ranks
def test_it_learns_what_sent_gradients_teach(data: str) -> None:
    """Four steps: the checkpoint's tensors have the names and, to float tolerance, the values."""
    shared, sent = (run_ranks(four_steps, 2, data, way) for way in ("memory", "send"))
    assert shared[1].keys() == sent[0].keys()
    for name, tensor in sent[0].items():
        assert (tensor.double() - shared[1][name].double()).abs().max() < 1e-4, name


def one_weight(comm: Comm) -> list[float]:
    """Three ranks move a network of one row."""
    join(comm)
    networks = nn.Module()
    networks.motion, networks.generator = nn.Linear(3, 1, bias=False), nn.Linear(4, 5)
    networks.theta = lambda: list(networks.motion.parameters())
    networks.gamma = lambda: list(networks.generator.parameters())
    ranks = start(threads=1, precision="no", timeout_seconds=60)
    memory = shared_memory(networks, ranks, way="memory")  # type: ignore[arg-type]
    made = Shared(networks, ranks, config=OptimConfig(), memory=memory)  # type: ignore[arg-type]
    both = frozenset(GROUPS)
    with made.moving(both):
        made.zero_grad()
        made.backward(networks.motion(torch.ones(3)).sum() + networks.generator.weight.sum())
        made.norms(both)
        made.step(both, factor=1.0)
        made.settle()
    made.load({name: tensor.clone() for name, tensor in made.state().items()})
    return [float(steps) for name, steps in made.state().items() if name.endswith("step")]


@pytest.mark.ranks
def test_a_rank_may_have_nothing_to_move() -> None:
    """More ranks than a network has rows: the others move it, and all know its state."""
    assert run_ranks(one_weight, 3) == [[1.0, 1.0, 1.0]] * 3


def test_one_process_has_nobody_to_share_with(data: str) -> None:
    """Asked for where it cannot be, it is refused and not left out."""
    with pytest.raises(UserError, match=r"train.gradients: memory needs several processes"):
        make(data, (*WORDS, "train.gradients=memory"))
