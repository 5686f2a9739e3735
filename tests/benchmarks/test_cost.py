"""The model of cost: counts against slow loops and against what two ranks really send."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.cost import GOLF, MACHINES, bytes_per_step, cost, flops_per_clip, main, measured
from tests.support.engines import TINY, join, make
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.config import resolve
from trainer.schedule import EVERYTHING, LATENT

PAPER = ("latents.optimiser=momentum", "schedule.clips=6", "latents.replicate_kib=0")


def test_operations_are_those_of_a_loop_over_layers() -> None:
    """Multiplications of each layer of a 128x128 generator and of the GRU, three times over."""
    config = resolve(["preset=golf", "schedule.frames=3"])
    wide, frames, drawn, hidden, m = 256, 16, 3, config.networks.hidden, 200
    channels = [1024, 512, 256, 128, 64, 3]
    one_frame = wide * 16 * channels[0]
    for layer, side in enumerate((4, 8, 16, 32, 64)):
        one_frame += 16 * channels[layer] * channels[layer + 1] * side * side
    motion = frames * (3 * hidden * (m + hidden) + hidden * m)
    total = 2 * 3 * (drawn * one_frame + motion)
    assert flops_per_clip(config, GOLF) == pytest.approx(total, rel=0.02)
    assert flops_per_clip(config, GOLF, moves=LATENT.moves) < 0.75 * total


def sent(comm: Comm, data: str) -> int:
    """Bytes that a step sends."""
    join(comm)
    made = make(data, (*PAPER, "train.gradients=send"))
    for step in range(2):  # DDP may rebuild its buckets after the first
        made.engine.ranks.comm.bytes_sent.clear()
        made.engine.measure(next(made.stream), step=step, moves=EVERYTHING)
        made.engine.update(step=step, moves=EVERYTHING, factor=1.0)
    return sum(made.engine.ranks.comm.bytes_sent.values())


@pytest.mark.ranks
def test_bytes_are_those_that_two_ranks_send(tmp_path: Path) -> None:
    """The model's bytes of a step, less the loop's flags, are what was counted."""
    data = str(tiny_set(tmp_path, frames=4, size=32))
    config = resolve([*TINY, *PAPER])
    footage = GOLF._replace(clips=6, frames=4, size=32)
    model = bytes_per_step(config, footage, ranks=2)
    expected = 2 * (model["gradients"] + model["rows"])
    assert sum(run_ranks(sent, 2, data)) == pytest.approx(expected, rel=0.01)


def test_more_ranks_hold_and_compute_less_and_never_send_more_than_a_ring() -> None:
    """From 1 to 64 ranks, memory and compute fall, gradients stay below twice their size."""
    config = resolve(["preset=golf", "schedule.clips=512", "latents.residence=host"])
    costs = [cost(config, GOLF, MACHINES["gpu"], ranks=ranks) for ranks in (1, 2, 8, 64)]
    for fewer, more in pairwise(costs):
        assert more.flops < fewer.flops
        assert more.memory["dictionary"] < fewer.memory["dictionary"]
        assert more.memory["networks"] == fewer.memory["networks"]
    assert costs[0].bytes["gradients"] == 0
    assert costs[-1].bytes["gradients"] < costs[-1].memory["networks"] / 3


def test_constants_come_from_the_figures_of_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A benchmark's line replaces what was assumed; a file without one is named."""
    lines = [{"benchmark": "gpu", "flops": 3e14}, {"link": 1e10}, {"clip_bytes": 5e4}]
    machine, footage = measured(MACHINES["gpu"], GOLF, lines)
    assert machine == MACHINES["gpu"]._replace(flops=3e14, link=1e10)
    assert footage == GOLF._replace(clip_bytes=5e4)
    file = tmp_path / "figures"
    file.write_text("a table\n" + json.dumps({"benchmark": "gpu", "flops": 1e15}) + "\n")
    assert main(["--ranks", "8", "--figures", str(file)]) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert json.loads(told[-1])["machine"]["flops"] == 1e15
    assert main(["--figures", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/none: does not end with a line")


def test_two_batch_sizes_give_speed_and_overhead() -> None:
    """10 ms that depend on nothing and 2 GFLOP a clip at 100 TFLOP/s are found again."""

    def row(clips: int) -> dict[str, float]:
        pace = clips / (0.01 + clips * 2e9 / 1e14)
        return {"clips_per_second": pace, "flops": 2e9 * pace}

    found = gpu.fit(row(512), 512, row(128), 128)
    assert found["flops"] == pytest.approx(1e14) and found["overhead"] == pytest.approx(0.01)
