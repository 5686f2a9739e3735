"""Does saving a dictionary of full size hold training up?

    python -m benchmarks.saving [--rows 583508] [--residence host] [--pause 0.25] [--out FOLDER]

Two ranks step on random rows of (16, 200), all written before, with a pause between steps in place
of the networks. In the midst of it they save in the background, as a training does. Prints the
usual step, the one in which the save begins, the longest one while it is written, and the one that
commits it, beside the save's seconds, its size, and the memory that it took; ends with JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.dictionary import WORLD, build, one_step, resident_bytes
from tests.support.ranks import run_ranks
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm

BEFORE, MOST = 20, 5000
"""Steps before the save, and after which it is given up."""


def measure(
    comm: Comm, rows: int, where: str, batch: int, pause: float, scratch: str, folder: str
) -> dict:
    """Seconds of steps around and beside a save, on one rank."""
    dictionary = build(comm, rows, where, scratch)
    checkpoints = Checkpointer(folder, CheckpointConfig(minutes=0), comm=comm)
    draw = np.random.default_rng(1)
    resident_bytes(trim=True)  # what the filling leaves is not the save's

    def step() -> float:
        asked = torch.from_numpy(draw.choice(rows, batch, replace=False))
        comm.barrier()
        time.sleep(pause)
        start = time.perf_counter()
        one_step(dictionary, comm, asked)
        return time.perf_counter() - start

    usual = [step() for _ in range(BEFORE)]
    before = peak = resident_bytes()
    start = time.perf_counter()
    checkpoints.save(1, common={}, own=dictionary.snapshot(), state={}, background=True)
    begins = time.perf_counter() - start + step()
    beside = []
    while int(comm.max_(torch.tensor([int(checkpoints.busy)]))) and len(beside) < MOST:
        beside.append(step())
        peak = max(peak, resident_bytes())
    written = time.perf_counter() - start
    start = time.perf_counter()
    saved = checkpoints.poll(ready=True)
    commits = time.perf_counter() - start + step()
    checkpoints.close()
    dictionary.close()
    return {
        "usual_ms": 1e3 * statistics.median(usual), "begins_ms": 1e3 * begins,
        "longest_ms": 1e3 * max(beside, default=0.0), "commits_ms": 1e3 * commits,
        "steps": len(beside), "seconds": written, "memory_mib": (peak - before) / 2**20,
        "gib": sum(f.stat().st_size for f in saved.iterdir()) / 2**30 if saved else 0.0,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=583_508)
    parser.add_argument("--residence", default="host", choices=["host", "disk"])
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between steps")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args(argv)
    disk = args.rows * 16 * 200 * 8 / 1e9
    print(f"about {args.rows / 25_000 / 60 + disk / 6 + 0.5:.1f} minutes, {disk:.1f} GB on disk")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        ranks = run_ranks(
            measure, WORLD, args.rows, args.residence, args.batch, args.pause,
            f"{scratch}/rows", f"{scratch}/run", timeout=3600,
        )  # fmt: skip
    worst = {key: max(r[key] for r in ranks) for key in ranks[0]}
    print(
        f"{args.rows:,} rows on {args.residence}, {WORLD} ranks, {args.pause:g} s between steps\n"
        f"a step                        {worst['usual_ms']:8.1f} ms\n"
        f"the step that begins the save {worst['begins_ms']:8.1f} ms\n"
        f"the longest of {worst['steps']:5} beside it {worst['longest_ms']:8.1f} ms\n"
        f"the step that commits it      {worst['commits_ms']:8.1f} ms\n"
        f"the save: {worst['gib']:.1f} GiB in {worst['seconds']:.0f} s, "
        f"{worst['memory_mib']:.0f} MiB of memory on a rank"
    )
    print(json.dumps({"benchmark": "saving", "rows": args.rows, **worst}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
