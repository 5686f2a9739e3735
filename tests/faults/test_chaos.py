"""Random kills: nothing is lost, and the result is that of a run never killed."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from launch.chaos.__main__ import ALWAYS, TINY, chaos
from launch.chaos.tally import bits_different, newest_whole
from tests.support.training import tensors, train
from trainer import commit
from trainer.checkpoint import Checkpointer
from trainer.observe import Observer

SEED = int(os.environ.get("NAVSYNTH_SEED", random.SystemRandom().randrange(10**6)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "kills"), [(1, 13), (2, 2)])
def test_random_kills_lose_nothing(tmp_path: Path, data: Path, ranks: int, kills: int) -> None:
    """Ranks, launchers and loader processes die while resuming, stepping, writing, renaming and
    deleting; NAVSYNTH_SEED repeats the draws of a failure."""
    words = [*TINY, f"data.manifest={data}"]
    tally = chaos(words, kills=kills, seed=SEED, ranks=[ranks], folder=tmp_path)
    print(tally.text())
    assert tally.kills == kills and tally.runs
    assert tally.kept, tally.text()


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
@pytest.mark.parametrize("background", ["true", "false"])
def test_a_kill_costs_one_interval_however_slow_the_disk(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, interval: int, background: str
) -> None:
    """With a disk that is always still writing, so that nothing is committed before it must be, a
    kill after any step would cost no more than `checkpoint.steps` steps."""
    costs, record = [], Observer.record

    def counted(self: Observer, *args: Any, step: int, **more: Any) -> None:
        record(self, *args, step=step, **more)
        costs.append(step - (newest_whole(tmp_path / "run") or 0))

    monkeypatch.setattr(Observer, "record", counted)
    monkeypatch.setattr(Checkpointer, "busy", property(lambda self: self._pending is not None))
    words = (*ALWAYS, "train.steps=11", f"checkpoint.background={background}")
    assert train(tmp_path, data, *words, f"checkpoint.steps={interval}") == 0
    assert len(costs) == 11 and max(costs) == interval


def test_every_bit_that_differs_is_counted(tmp_path: Path, data: Path) -> None:
    """The comparison sees one bit, and a tensor that only one side has."""
    words = (*ALWAYS, "train.steps=2")
    assert train(tmp_path, data, *words, name="a") == 0
    assert train(tmp_path, data, *words, name="b") == 0
    a, b = (tmp_path / name / "checkpoints" / "step-00000002" for name in "ab")
    assert bits_different(a, b) == 0
    name = "common-optimiser.safetensors"
    known = {
        key.removeprefix("common-optimiser/"): value
        for key, value in tensors(tmp_path / "b", 2).items()
        if key.startswith("common-optimiser/") and isinstance(value, torch.Tensor)
    }
    first = next(key for key, value in known.items() if value.dtype == torch.float32)
    known[first].view(torch.int32).reshape(-1)[0] ^= 0b101
    save_file({**known, "extra": torch.zeros(3, dtype=torch.uint8)}, b / name)
    assert commit.committed(tmp_path / "b" / "checkpoints") == [2]
    assert bits_different(a, b) == 2 + 24
