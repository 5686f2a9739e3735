"""Clips a second of 1, 2 and 4 processes on this machine, beside what the model of cost predicts.

    python -m benchmarks.scaling [--steps 40] [--ranks 1 2 4] [--write docs/scaling.md]

Both ways to add up gradients are measured, each beside a prediction of its own: `send`
(DistributedDataParallel over gloo, predicted as a ring) and `memory` (`trainer.shared`: nothing of
the networks is sent, gradients are handed over within memory and every rank moves its share of the
weights). The constants are measured in the same run: operations a second and the step's fixed part
from one process at two batch sizes, the part of it that moves weights, bytes a second and latency
from sums over two ranks, and how fast two ranks copy. Processes share the machine's cores. Prints
each prediction's error; ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import pages
from benchmarks.constants import Footage, Machine
from benchmarks.cost import cost, flops_per_clip
from benchmarks.machine import line
from data_shards.cores import cores
from tests.support.engines import join, make
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.config import Config, resolve
from trainer.schedule import EVERYTHING

WORDS = ("preset=golf", "schedule.clips=16", "latents.replicate_kib=0")
FEW, MANY = 4, 32
"""Clips of the two batches whose steps tell speed from what a step takes in any case."""
WARM, SMALL, LARGE = 3, 1_000, 10_000_000


class Seconds(NamedTuple):
    """Medians over the steps of a training."""

    step: float
    update: float
    """Of it, moving weights and rows."""


class Row(NamedTuple):
    """A number of processes, measured and predicted."""

    ranks: int
    gradients: str
    """How they are added up: alone | send | memory."""
    clips_per_second: float
    predicted: float
    error: float
    """Of the prediction, as a share of what was measured."""
    seconds: float
    """Of a step, measured."""


def measure(comm: Comm, data: str, words: tuple[str, ...], steps: int) -> Seconds:
    """A step of the global batch, loading included, on one rank."""
    join(comm)
    threads = max(1, cores() // comm.world)
    made = make(data, (*words, f"train.threads={threads}"), base=WORDS)
    seconds, updates = [], []
    for step in range(WARM + steps):
        start = time.perf_counter()
        made.engine.measure(next(made.stream), step=step, moves=EVERYTHING)
        measured = time.perf_counter()
        made.engine.update(step=step, moves=EVERYTHING, factor=1.0)
        updates.append(time.perf_counter() - measured)
        comm.barrier()
        seconds.append(time.perf_counter() - start)
    return Seconds(statistics.median(seconds[WARM:]), statistics.median(updates[WARM:]))


def measure_link(comm: Comm, large: int) -> tuple[float, float, float]:
    """Bytes a second that this rank sends in a large sum, seconds of a small one, and bytes a
    second that it copies while the other does."""
    found = []
    target = torch.zeros(large)
    for size in (SMALL, large, 0):
        numbers, seconds = torch.ones(size or large), []
        for _ in range(5):
            comm.barrier()
            start = time.perf_counter()
            if size:
                comm.sum_(numbers)
            else:
                target.copy_(numbers)
            seconds.append(time.perf_counter() - start)
        found.append(statistics.median(seconds))
    sent = 4 * large * 2 * (comm.world - 1) / comm.world
    return sent / found[1], found[0], 4 * large / found[2]


def fit(config: Config, footage: Footage, seconds: dict[int, float]) -> tuple[float, float]:
    """Operations a second and fixed seconds from steps of two batch sizes (a line through both)."""
    (few, fast), (many, slow) = sorted(seconds.items())
    rate = flops_per_clip(config, footage) * (many - few) / max(slow - fast, 1e-9)
    return rate, max(0.0, fast - few * flops_per_clip(config, footage) / rate)


def predict(
    config: Config, footage: Footage, machine: Machine, *, world: int, gradients: str, moving: float
) -> float:
    """Seconds of a step of `world` processes that share this machine's cores.

    Args:
        gradients: `memory`, where each moves its share of the weights, or `send`, where all move
            all of them.
        moving: seconds of the fixed part that one process with all cores takes to move weights.
    """
    # With a core or more each, the cores are shared out; with less, they take turns. Moving
    # weights keeps every core busy, so that all processes together take their sum.
    moving = min(moving, machine.overhead)
    fixed = (machine.overhead - moving) * max(1.0, world / cores())
    fixed += moving * (1 if gradients == "memory" else world)
    share = machine._replace(flops=machine.flops / world, overhead=fixed)
    way = "memory" if gradients == "memory" else "send"
    return cost(config, footage, share, ranks=world, gradients=way).step


def ways_of(worlds: list[int]) -> list[tuple[int, str]]:
    """What is measured: each number of processes in both ways, one process alone."""
    return [
        (world, way)
        for world in worlds
        for way in (("alone",) if world == 1 else ("send", "memory"))
    ]


def table(rows: list[Row]) -> str:
    """Markdown of all figures."""
    head = ["processes", "gradients", "clips/s", "predicted", "error", "ms a step"]
    lines = [
        [f"{row.ranks}", row.gradients, f"{row.clips_per_second:.1f}", f"{row.predicted:.1f}",
         f"{100 * row.error:+.0f} %", f"{1e3 * row.seconds:.1f}"]
        for row in rows
    ]  # fmt: skip
    return pages.table(head, lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--link-floats", type=int, default=LARGE)
    pages.option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> tuple[Machine, list[Row]]:
    """Constants of this machine, and each number of processes in each way."""
    words, rows = tuple(args.words), []
    config = resolve([*WORDS, *words])
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_set(Path(folder), identities=8, actions=8, frames=16, size=args.size)
        data, footage = str(path), Footage(64, 16, args.size, 1.0)
        at: dict[int, Seconds] = {
            clips: run_ranks(measure, 1, data, (*words, f"schedule.clips={clips}"), args.steps)[0]
            for clips in (FEW, MANY)
        }
        link, latency, copy = run_ranks(measure_link, 2, args.link_floats)[0]
        flops, overhead = fit(config, footage, {clips: found.step for clips, found in at.items()})
        machine, clips = Machine(flops, link, latency, 1e9, overhead, copy), config.schedule.clips
        assert clips is not None
        for world, way in ways_of(args.ranks):
            how = () if way == "alone" else (f"train.gradients={way}",)
            found = run_ranks(measure, world, data, (*words, *how), args.steps, timeout=3600)
            seconds = max(rank.step for rank in found)
            predicted = predict(
                config, footage, machine, world=world, gradients=way, moving=at[FEW].update
            )
            rows.append(Row(world, way, clips / seconds, clips / predicted,
                            seconds / predicted - 1, seconds))  # fmt: skip
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return machine, rows


def main(argv: list[str] | None = None) -> int:
    """Measure, predict, print."""
    args = parse(argv)
    if not pages.ready(args.write, "scaling"):
        return 2
    minutes = ((2 + len(ways_of(args.ranks))) * (15 + args.steps * 0.4) + 30) / 60
    print(f"about {minutes:.1f} minutes", flush=True)
    machine, rows = run(args)
    text = table(rows)
    print(text)
    pages.put(args.write, "scaling", text)
    known = {k: v for k, v in machine._asdict().items() if k != "loader"}
    worst = {
        way: max((abs(row.error) for row in rows if row.gradients == way), default=None)
        for way in ("send", "memory")
    }
    print(line("scaling", **known, worst_error=worst, worlds=[row._asdict() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
