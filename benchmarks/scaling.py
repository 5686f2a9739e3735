"""Clips a second of 1, 2 and 4 processes on this machine, beside what the model of cost predicts.

    python -m benchmarks.scaling [--steps 40] [--ranks 1 2 4]

The constants of the prediction are measured in the same run: operations a second and the step's
fixed part from one process at two batch sizes, bytes a second and latency from sums over two ranks.
Processes share the machine's cores. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost import Footage, Machine, cost, flops_per_clip
from benchmarks.machine import describe
from tests.support.engines import join, make
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.config import Config, resolve
from trainer.schedule import EVERYTHING

WORDS = ("preset=golf", "schedule.clips=16", "latents.replicate_kib=0")
WARM, SMALL, LARGE = 3, 1_000, 10_000_000


def measure(comm: Comm, data: str, words: tuple[str, ...], steps: int) -> float:
    """Median seconds of a step of the global batch, loading included, on one rank."""
    join(comm)
    threads = max(1, len(os.sched_getaffinity(0)) // comm.world)
    made = make(data, (*words, f"train.threads={threads}"), base=WORDS)
    seconds = []
    for step in range(WARM + steps):
        start = time.perf_counter()
        made.engine.measure(next(made.stream), step=step, moves=EVERYTHING)
        made.engine.update(step=step, moves=EVERYTHING, factor=1.0)
        comm.barrier()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM:])


def measure_link(comm: Comm, large: int) -> tuple[float, float]:
    """Bytes a second that this rank sends in a large sum, and seconds of a small one."""
    found = []
    for size in (SMALL, large):
        numbers = torch.ones(size)
        seconds = []
        for _ in range(5):
            comm.barrier()
            start = time.perf_counter()
            comm.sum_(numbers)
            seconds.append(time.perf_counter() - start)
        found.append(statistics.median(seconds))
    sent = 4 * large * 2 * (comm.world - 1) / comm.world
    return sent / found[1], found[0]


def fit(config: Config, footage: Footage, seconds: dict[int, float]) -> tuple[float, float]:
    """Operations a second and fixed seconds from steps of two batch sizes (a line through both)."""
    (few, fast), (many, slow) = sorted(seconds.items())
    rate = flops_per_clip(config, footage) * (many - few) / max(slow - fast, 1e-9)
    return rate, max(0.0, fast - few * flops_per_clip(config, footage) / rate)


def predict(config: Config, footage: Footage, machine: Machine, *, world: int) -> float:
    """Seconds of a step of `world` processes that share this machine's cores."""
    cores = len(os.sched_getaffinity(0))
    # With a core or more each, the cores are shared out; with less, they take turns.
    share = machine._replace(
        flops=machine.flops / world, overhead=machine.overhead * max(1.0, world / cores)
    )
    return cost(config, footage, share, ranks=world).step


def main(argv: list[str] | None = None) -> int:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--link-floats", type=int, default=LARGE)
    args = parser.parse_args(argv)
    runs = len(args.ranks) + 2
    print(f"about {(runs * (15 + args.steps * 0.4) + 30) / 60:.1f} minutes")
    words = tuple(args.words)
    config = resolve([*WORDS, *words])
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_set(Path(folder), identities=8, actions=8, frames=16, size=args.size)
        data, footage = str(path), Footage(64, 16, args.size, 1.0)
        at = {
            clips: run_ranks(measure, 1, data, (*words, f"schedule.clips={clips}"), args.steps)[0]
            for clips in (4, 32)
        }
        link, latency = run_ranks(measure_link, 2, args.link_floats)[0]
        flops, overhead = fit(config, footage, at)
        machine = Machine(flops, link, latency, 1e9, overhead)
        rows: list[dict[str, Any]] = []
        print("processes  clips/s  predicted  seconds a step")
        for world in args.ranks:
            seconds = max(run_ranks(measure, world, data, words, args.steps, timeout=3600))
            predicted = predict(config, footage, machine, world=world)
            clips = resolve([*WORDS, *words]).schedule.clips or 1
            rows.append({"ranks": world, "clips_per_second": clips / seconds,
                         "predicted": clips / predicted, "seconds": seconds})  # fmt: skip
            print(f"{world:9} {clips / seconds:8.1f} {clips / predicted:10.1f} {seconds:11.3f}",
                  flush=True)  # fmt: skip
    known = {key: value for key, value in machine._asdict().items() if key != "loader"}
    print(json.dumps({"benchmark": "scaling", **describe(), **known, "worlds": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
