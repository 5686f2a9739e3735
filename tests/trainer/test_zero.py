"""ZeRO through DeepSpeed against plain training."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_shards.errors import UserError
from tests.support.engines import everything, join, make, steps
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.parallel import DEEPSPEED

CONFIGS = Path(__file__).resolve().parents[2] / "launch" / "deepspeed"
WORDS = (
    "schedule.clips=5", "optim.clip=0.5", "optim.gamma_rate=1e-3", "optim.epsilon=1e-4",
    "latents.optimiser=momentum", "latents.rate=1.0",
)  # fmt: skip


def train(comm: Comm, folder: Path, data: str, zero: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Ten steps in one go and, from a checkpoint after the fourth, again; and what is refused."""
    join(comm)
    if zero:
        os.environ |= {DEEPSPEED: "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": zero}
    made = make(data, (*WORDS, *words))
    losses = steps(made, 0, 4)
    sent = dict(made.engine.ranks.comm.bytes_sent)
    checkpoints = Checkpointer(folder, CheckpointConfig(), comm=comm)
    checkpoints.save(4, common=made.engine.common(), own=made.engine.own(), state={})
    losses += steps(made, 4, 10)
    again = make(data, (*WORDS, *words), first=4)
    again.engine.restore(checkpoints.open(checkpoints.at(4)))
    resumed = steps(again, 4, 10)
    refused = ""
    if zero:
        try:
            steps(make(data, (*WORDS, "schedule.kind=alternate")), 0, 1)
        except UserError as error:
            refused = str(error)
    moments = {k: v.clone() for k, v in made.engine.common()["optimiser"].items()}
    learned = everything(made.engine) | moments
    weights = sum(4 * param.numel() for param in made.engine.networks.parameters())
    return {
        "losses": losses, "resumed": resumed, "refused": refused, "learned": learned,
        "sent": sent, "weights": weights,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed: pip install 'navsynth[deepspeed]'",
)
@pytest.mark.parametrize(("stage", "words"), [(1, ("train.accumulate=2",)), (2, ())])
def test_zero_is_plain_training(tmp_path: Path, stage: int, words: tuple[str, ...]) -> None:
    """Losses, weights, moments and rows of 10 steps, resumed in between; alternate is refused."""
    data = str(tiny_set(tmp_path / "set", frames=4, size=32))
    plain = run_ranks(train, 2, tmp_path / "plain", data, "", words)
    sharded = run_ranks(
        train, 2, tmp_path / "zero", data, str(CONFIGS / f"zero{stage}.json"), words
    )
    for one, other in zip(plain, sharded, strict=True):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert other["resumed"] == pytest.approx(other["losses"][4:], rel=1e-6)
        assert one["learned"].keys() == other["learned"].keys()
        for name, tensor in one["learned"].items():
            assert (tensor.double() - other["learned"][name].double()).abs().max() < 1e-4, name
        # A step adds up all gradients (of ZeRO-1 once, whatever the micro-batches) and hands around
        # all weights, dealt evenly but for a little padding: of two ranks, each sends as much as
        # they take, and half of it.
        assert other["sent"]["gradients"] == pytest.approx(4 * one["weights"], rel=1e-3)
        assert other["sent"]["weights"] == pytest.approx(4 * one["weights"] / 2, rel=1e-2)
        assert other["refused"].startswith("schedule.kind: alternate moves one network at a time")


def test_the_config_files_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each accelerate config names a DeepSpeed config that exists, from the repository's root."""
    monkeypatch.chdir(CONFIGS.parents[1])
    for stage in (1, 2):
        config = yaml.safe_load((CONFIGS / f"zero{stage}.yaml").read_text())
        assert config["distributed_type"] == "DEEPSPEED"
        named = Path(config["deepspeed_config"]["deepspeed_config_file"])
        assert f'"stage": {stage}' in named.read_text()
