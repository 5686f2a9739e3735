"""ZeRO through DeepSpeed against plain training."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_shards.errors import UserError
from tests.support.engines import everything, join, make, steps
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from tests.support.training import CONFIG, ROOT, launch, tensors
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.commit import read_json
from trainer.engine import Engine
from trainer.optim import GROUPS
from trainer.parallel import DEEPSPEED
from trainer.schedule import EVERYTHING

CONFIGS = ROOT / "launch" / "deepspeed"
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed: pip install 'navsynth[deepspeed]'",
)
WORDS = (
    "schedule.clips=5", "optim.clip=0.5", "optim.gamma_rate=1e-3", "optim.epsilon=1e-4",
    "latents.optimiser=momentum", "latents.rate=1.0",
)  # fmt: skip


def train(comm: Comm, folder: Path, data: str, zero: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Ten steps in one go and, from a checkpoint after the fourth, again; what is refused, and
    whether mixed precision reaches the networks."""
    join(comm)
    if zero:
        os.environ |= {DEEPSPEED: "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": zero}
    made = make(data, (*WORDS, *words))
    losses = steps(made, 0, 4)
    sent = dict(made.engine.ranks.comm.bytes_sent)
    checkpoints = Checkpointer(folder, CheckpointConfig(), comm=comm)
    engine = made.engine
    checkpoints.save(4, common=engine.common(), own=engine.own(), state=engine.identity())
    losses += steps(made, 4, 10)
    again = make(data, (*WORDS, *words), first=4)
    again.engine.restore(checkpoints.open(checkpoints.at(4)))
    resumed = steps(again, 4, 10)
    refused, mixed = "", None
    if zero:
        mixed = _frames_dtype(made.engine)
        try:
            steps(make(data, (*WORDS, "schedule.kind=alternate")), 0, 1)
        except UserError as error:
            refused = str(error)
    moments = {k: v.clone() for k, v in made.engine.common()["optimiser"].items()}
    learned = everything(made.engine) | moments
    weights = sum(4 * param.numel() for param in made.engine.networks.parameters())
    return {
        "losses": losses, "resumed": resumed, "refused": refused, "learned": learned,
        "sent": sent, "weights": weights, "mixed": mixed, "gradients": made.engine.gradients,
    }  # fmt: skip


def _frames_dtype(engine: Engine) -> torch.dtype:
    """Of what the networks make under mixed precision, called as a step calls them."""
    engine.networks.mixed = True
    latents = engine.latents
    with engine.parallel.moving(EVERYTHING) as networks:
        return networks(latents.static_BS, latents.transient_BTM)[0].dtype


@pytest.mark.slow
@pytest.mark.ranks
@NEEDS_DEEPSPEED
@pytest.mark.parametrize(("stage", "parts", "sums"), [(1, 2, 1), (2, 1, 1), (2, 2, 2)])
def test_zero_is_plain_training(tmp_path: Path, stage: int, parts: int, sums: int) -> None:
    """Losses, weights, moments and rows of 10 steps of DDP, resumed in between; alternate is
    refused."""
    data, words = str(tiny_set(tmp_path / "set", frames=4, size=32)), (f"train.accumulate={parts}",)
    ddp = (*words, "train.gradients=send")
    plain = run_ranks(train, 2, tmp_path / "plain", data, "", ddp)
    assert [one["gradients"] for one in plain] == ["send"] * 2
    sharded = run_ranks(
        train, 2, tmp_path / "zero", data, str(CONFIGS / f"zero{stage}.json"), words
    )
    for one, other in zip(plain, sharded, strict=True):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert other["resumed"] == pytest.approx(other["losses"][4:], rel=1e-6)
        assert one["learned"].keys() == other["learned"].keys()
        for name, tensor in one["learned"].items():
            assert (tensor.double() - other["learned"][name].double()).abs().max() < 1e-4, name
        # A step adds up all gradients (of ZeRO-1 once, whatever the micro-batches, of ZeRO-2 once
        # for each) and hands around all weights, dealt evenly but for a little padding: of two
        # ranks, each sends as much as they take, and half of it.
        assert other["sent"]["gradients"] == pytest.approx(4 * sums * one["weights"], rel=1e-3)
        assert other["sent"]["weights"] == pytest.approx(4 * one["weights"] / 2, rel=1e-2)
        assert other["mixed"] == torch.bfloat16
        assert other["refused"].startswith("schedule.kind: alternate moves one network at a time")


@pytest.mark.slow
@pytest.mark.ranks
@NEEDS_DEEPSPEED
def test_the_config_files_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` with either file, from the repository's root, trains as it does plainly
    and with DistributedDataParallel, and a run of one goes on under the other and plainly."""
    monkeypatch.chdir(ROOT)
    data, runs = tiny_set(tmp_path / "set", size=32), tmp_path / "runs"
    configs = {
        "plain": CONFIG, "zero1": CONFIGS / "zero1.yaml", "zero2": CONFIGS / "zero2.yaml"
    }  # fmt: skip
    words = (*WORDS, "train.steps=12")
    for name, config in configs.items():
        done = launch(runs, data, *words, name=name, ranks=2, config=config)
        assert done.returncode == 0, done.stderr
    done = launch(runs, data, *words, "train.gradients=send", name="send", ranks=2)
    assert done.returncode == 0, done.stderr
    for config in configs.values():
        now = read_json(runs / "mixed" / "run.json").get("step", 0)
        more = (*words, f"train.until={now + 4}")
        done = launch(runs, data, *more, name="mixed", ranks=2, config=config)
        assert done.returncode == 0, done.stderr
    ways = {name: read_json(runs / name / "run.json") for name in (*configs, "send", "mixed")}
    kinds = {name: way["starts"][0]["gradients"] for name, way in ways.items() if name != "mixed"}
    assert kinds == {"plain": "memory", "zero1": "zero", "zero2": "zero", "send": "send"}
    assert [one["gradients"] for one in ways["mixed"]["starts"]] == ["memory", "zero", "zero"]
    plain = tensors(runs / "plain", 12)
    for name in ("zero1", "zero2", "send", "mixed"):
        other = tensors(runs / name, 12)
        assert other.keys() == plain.keys()
        for key, tensor in plain.items():
            close = torch.allclose(tensor.double(), other[key].double(), rtol=0, atol=1e-4)
            assert close, (name, key)


@NEEDS_DEEPSPEED
def test_step_counts_lie_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused Adam on a GPU refuses a count in host memory, as a checkpoint is read; another kind
    of device stands for the GPU."""
    from trainer.zero import Zero

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    there = Zero.__new__(Zero)
    shards = [torch.zeros(3, device="meta") for _ in GROUPS]
    optimizer = SimpleNamespace(state={})
    there._zero = SimpleNamespace(optimizer=optimizer, single_partition_of_fp32_groups=shards)
    there.params = {group: [] for group in GROUPS}
    monkeypatch.setattr(there, "adopt", lambda: None)
    monkeypatch.setattr(there, "_link_moments", lambda: None)
    there.load({f"{group}.0000.step": torch.tensor(7.0) for group in GROUPS})
    assert [optimizer.state[shard]["step"].device.type for shard in shards] == ["meta"] * 2
