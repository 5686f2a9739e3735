"""How long two processes wait for data: in a loop of matrix products, and in a real training."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import work_of
from data_shards.config import DataConfig
from data_shards.cores import cores
from data_shards.stream import Stream, open_manifest
from launch.quickstart import launcher

ROOT = Path(__file__).resolve().parent.parent
PREFETCH = 4
WORLD = 2
SETTLED = 0.25
"""Share of a training after which it is taken to be in its steady state."""
WORDS = (
    "preset=golf", "data.cache_mib=0", "train.log_steps=10", "train.sample_minutes=0",
    "train.pictures=false", "checkpoint.minutes=0", "telemetry.endpoint=false",
    "telemetry.log=none",
)  # fmt: skip


class Loop(NamedTuple):
    """A loop in the place of a training."""

    batch: int
    """Clips of a batch of one rank."""
    steps: int
    step_ms: float
    """Work of a step."""


class Waited(NamedTuple):
    """Share of a training's time in its steady state, of the rank that waits longest."""

    data: float
    """In the phase `data`: waiting for a batch and taking it, and what else the system runs on this
    core meanwhile."""
    queue: float
    """Of it, until a batch was there."""
    clips_per_second: float


def rank_loop(rank: int, folder: str, loop: Loop, gate: Any, found: Any) -> None:
    """A training-like rank: wait for a batch, work, meet the other; tells its waiting share."""
    torch.set_num_threads(1)
    work = work_of(loop.step_ms / 1000)
    config = DataConfig(cache_mib=0, prefetch=PREFETCH, threads=1)
    with Stream(
        open_manifest(folder), config, seed=0, batch=WORLD * loop.batch, rank=rank, world=WORLD
    ) as stream:
        waited = total = 0.0
        for step, _ in enumerate(itertools.islice(stream, loop.steps + 10)):
            work()
            gate.wait()
            if step == 9:
                waited, total = stream.wait_seconds, time.perf_counter()
        found.put((stream.wait_seconds - waited) / (time.perf_counter() - total))


def loop_share(folder: Path, loop: Loop) -> float:
    """Largest share of time that one of two ranks of the loop waits for data."""
    context = multiprocessing.get_context("spawn")
    gate, found = context.Barrier(WORLD), context.Queue()
    ranks = [
        context.Process(target=rank_loop, args=(rank, str(folder), loop, gate, found))
        for rank in range(WORLD)
    ]
    for rank in ranks:
        rank.start()
    shares = [found.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    return max(shares)


def training_share(
    data: Path, runs: Path, *, seconds: float, words: Sequence[str] = (), name: str = "waiting"
) -> Waited:
    """Train on a set with two processes, nothing of it held in memory, and read the run's metrics.

    Raises:
        RuntimeError: with what the training said, where it failed.
    """
    command = [
        *launcher(processes=WORLD), str(ROOT / "trainer" / "main.py"), "--runs", str(runs),
        f"data.manifest={data}", f"name={name}", f"train.minutes={seconds / 60}", *WORDS, *words,
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // WORLD))}
    done = subprocess.run(
        command, env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the training ended with code {done.returncode}:\n{done.stderr}")
    text = (runs / name / "metrics.jsonl").read_text()
    return steady([json.loads(line) for line in text.splitlines()])


def steady(lines: Sequence[dict[str, Any]]) -> Waited:
    """Shares over the lines of a metric log that come after the first `SETTLED` of its time.

    What a line says of the rank that took longest is of the time since the line before; its
    counters are since the start.
    """
    begun = SETTLED * lines[-1]["seconds"]
    first = next(number for number, line in enumerate(lines) if line["seconds"] >= begun)
    before, rest, last = lines[first], lines[first + 1 :], lines[-1]
    if not rest:
        raise RuntimeError(f"a training of {last['seconds']:.0f} s is too short to see it settle")
    seconds = last["seconds"] - before["seconds"]
    clips = last["shards/clips"] - before["shards/clips"]
    data, waited = (
        sum(line[f"loader/longest_{what}_seconds"] for line in rest) / seconds
        for what in ("data", "wait")
    )
    return Waited(data, waited, clips / seconds)
