"""Does saving a dictionary of full size hold training up?

    python -m benchmarks.saving [--rows 583508] [--residence host] [--pause 0.25] [--out FOLDER]

Two ranks step on random rows of (16, 200), all written before, with a pause between steps in place
of the networks. In the midst of it they save in the background three times, as a training does:
rows, and on rank 0 weights, Adam's moments and the average of networks of golf's size; the third
commit drops the first checkpoint. Prints the usual step, and the worst of the steps in which a save
begins, that run beside it, that commit it, and that follow while the old one's files are removed;
beside them seconds and size of a save, and the memory that it took and was promised. Ends with one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.dictionary_steps import FRAMES, WIDTH, WORLD, build, one_step, resident_bytes
from tests.support.ranks import run_ranks
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.latents import LatentDictionary

STEPS, MOST, SAVES = 20, 5000, 3
"""Steps before and after the saves; after which a save is given up; saves."""
WEIGHTS = 17_000_000
"""Of `preset=golf` at 128x128."""
Tensors = dict[str, dict[str, torch.Tensor]]


def networks_of(weights: int, comm: Comm) -> Tensors:
    """What all ranks share of a training with so many weights, which rank 0 saves."""
    if comm.rank:
        return {}
    sizes = {"networks": weights, "optimiser": 2 * weights, "average": weights}
    return {
        name: {f"{i:04d}": part for i, part in enumerate(torch.rand(size).split(1 << 20))}
        for name, size in sizes.items()
    }


def save_once(
    checkpoints: Checkpointer, dictionary: LatentDictionary, comm: Comm, common: Tensors,
    step: Callable[[], float], *, number: int,
) -> dict[str, float]:  # fmt: skip
    """Seconds of the steps of one save, on one rank."""
    before = peak = resident_bytes()
    start = time.perf_counter()
    own = dictionary.snapshot()
    checkpoints.save(number, common=common, own=own, state={}, background=True)
    begins = time.perf_counter() - start + step()
    beside = []
    while int(comm.max_(torch.tensor([int(checkpoints.busy)]))) and len(beside) < MOST:
        beside.append(step())
        peak = max(peak, resident_bytes())
    written = time.perf_counter() - start
    start = time.perf_counter()
    saved = checkpoints.poll(ready=True)
    commits = time.perf_counter() - start + step()
    after = [step() for _ in range(STEPS)]
    return {
        "begins_ms": 1e3 * begins, "longest_ms": 1e3 * max(beside, default=0.0),
        "commits_ms": 1e3 * commits, "after_ms": 1e3 * max(after), "steps": len(beside),
        "seconds": written, "memory_mib": (peak - before) / 2**20,
        "gib": sum(f.stat().st_size for f in saved.iterdir()) / 2**30 if saved else 0.0,
    }  # fmt: skip


def measure(
    comm: Comm, rows: int, where: str, batch: int, pause: float, weights: int, scratch: str,
    folder: str,
) -> dict[str, float]:  # fmt: skip
    """The usual step and the worst of all saves, on one rank."""
    dictionary = build(comm, rows, where, scratch)
    checkpoints = Checkpointer(folder, CheckpointConfig(minutes=0, keep=2), comm=comm)
    draw, common = np.random.default_rng(1), networks_of(weights, comm)
    resident_bytes(trim=True)  # what the filling leaves is not the save's

    def step() -> float:
        asked = torch.from_numpy(draw.choice(rows, batch, replace=False))
        comm.barrier()
        time.sleep(pause)
        start = time.perf_counter()
        one_step(dictionary, comm, asked)
        return time.perf_counter() - start

    usual = [step() for _ in range(STEPS)]
    saves = [
        save_once(checkpoints, dictionary, comm, common, step, number=number)
        for number in range(1, SAVES + 1)
    ]
    checkpoints.close()
    dictionary.close()
    promise = LatentDictionary.promise_bytes(
        dictionary.config, static_rows=1, transient_rows=rows, frames=FRAMES, world=comm.world,
        batch=batch,
    )  # fmt: skip
    shared = sum(tensor.nbytes for tensors in common.values() for tensor in tensors.values())
    return {
        "usual_ms": 1e3 * statistics.median(usual),
        "promised_mib": (promise.saving + promise.aside + shared) / 2**20,
        **{key: max(save[key] for save in saves) for key in saves[0]},
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=583_508)
    parser.add_argument("--residence", default="host", choices=["host", "disk"])
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between steps")
    parser.add_argument("--weights", type=int, default=WEIGHTS, help="of the networks")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args(argv)
    size = (args.rows * FRAMES * WIDTH * 8 + args.weights * 16) / 1e9
    minutes = args.rows / 25_000 / 60 + SAVES * (size / 6 + STEPS * args.pause / 60) + 0.5
    print(f"about {minutes:.1f} minutes, {SAVES * size:.1f} GB on disk", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        ranks = run_ranks(
            measure, WORLD, args.rows, args.residence, args.batch, args.pause, args.weights,
            f"{scratch}/rows", f"{scratch}/run", timeout=7200,
        )  # fmt: skip
    worst: dict[str, Any] = {key: max(r[key] for r in ranks) for key in ranks[0]}
    print(
        f"{args.rows:,} rows on {args.residence}, {args.weights:,} weights, {WORLD} ranks, "
        f"{args.pause:g} s between steps, worst of {SAVES} saves\n"
        f"a step                           {worst['usual_ms']:8.1f} ms\n"
        f"the step that begins the save    {worst['begins_ms']:8.1f} ms\n"
        f"the longest of {worst['steps']:5} beside it    {worst['longest_ms']:8.1f} ms\n"
        f"the step that commits it         {worst['commits_ms']:8.1f} ms\n"
        f"the longest of {STEPS:5} behind it    {worst['after_ms']:8.1f} ms\n"
        f"a save: {worst['gib']:.1f} GiB in {worst['seconds']:.0f} s, {worst['memory_mib']:.0f} "
        f"MiB of memory on a rank, {worst['promised_mib']:.0f} promised"
    )
    print(json.dumps({"benchmark": "saving", "rows": args.rows, **worst}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
