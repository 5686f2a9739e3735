"""Up to which size is a table cheaper where every rank holds it (`latents.replicate_kib`)?

    python -m benchmarks.replication [--kib 16 64 256 1024 4096] [--write docs/dictionary.md]

Two ranks of this machine step on a table of codes (200) and on one of codes (16, 200), each once
sharded by row and once held by both, with the same random rows of a batch of 64 clips. Both ways
take turns in rounds of one process. Between machines a message waits longer than here, which speaks
for held tables, and bytes cost more, which speaks against them. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks import pages
from benchmarks.dictionary_steps import FRAMES, WIDTH, WORLD, free_gradients
from benchmarks.machine import line
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig

TRAILS = {"static": (WIDTH,), "transient": (FRAMES, WIDTH)}
LEAST = 16
"""KiB of the smallest table: more than a single row of either kind, which every rank holds."""
WARM = 10
"""Steps of a round that are not timed."""


def build(comm: Comm, kind: str, kib: int, *, held: bool) -> LatentDictionary:
    """A dictionary whose table `kind` has `kib` KiB of values and whose other one has a single row,
    which every rank holds."""
    other = "transient" if kind == "static" else "static"
    one = math.ceil(4 * math.prod(TRAILS[other]) / 1024)
    config = LatentsConfig(
        static=WIDTH, transient=WIDTH, residence="device", replicate_kib=kib if held else one
    )
    keys = {kind: np.arange(rows_of(kind, kib)), other: np.zeros(1, dtype=np.int64)}
    return LatentDictionary(config, frames=FRAMES, keys=keys, comm=comm)


def rows_of(kind: str, kib: int) -> int:
    """Rows of a table of so many KiB of values."""
    return kib * 1024 // (4 * math.prod(TRAILS[kind]))


def seconds_of(
    dictionary: LatentDictionary, comm: Comm, kind: str, batches: list[torch.Tensor]
) -> list[float]:
    """Of the steps on these rows of the table `kind`, without the first `WARM`."""
    seconds = []
    for number, rows in enumerate(batches):
        mine = rows[comm.rank * len(rows) // comm.world : (comm.rank + 1) * len(rows) // comm.world]
        asked = {"static": torch.zeros_like(mine), "transient": torch.zeros_like(mine), kind: mine}
        comm.barrier()
        start = time.perf_counter()
        latents = dictionary.gather(asked["static"], asked["transient"])
        free_gradients(latents)
        dictionary.accumulate(latents)
        dictionary.step(0.1)
        dictionary.project_()
        if number >= WARM:
            seconds.append(time.perf_counter() - start)
    return seconds


def measure(
    comm: Comm, kind: str, kib: int, batch: int, steps: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds of a step of both ways, on one rank."""
    ways = {
        "held": build(comm, kind, kib, held=True),
        "sharded": build(comm, kind, kib, held=False),
    }
    for name, dictionary in ways.items():
        if dictionary.tables[kind].replicated != (name == "held"):
            raise RuntimeError(f"a table of {kib} KiB that is {name} is not")
    draw, found = np.random.default_rng(1), {name: [] for name in ways}
    for number in range(rounds):
        rows = draw.integers(rows_of(kind, kib), size=(steps + WARM, batch))
        for name in list(ways)[:: 1 if number % 2 else -1]:
            batches = list(torch.from_numpy(rows))
            found[name].append(statistics.median(seconds_of(ways[name], comm, kind, batches)))
    for dictionary in ways.values():
        dictionary.close()
    return {f"{name}_ms": 1e3 * statistics.median(times) for name, times in found.items()}


def table(found: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """Markdown of all sizes."""
    head = ["codes", "KiB", "rows", "ms, sharded", "ms, held by every rank", "times as long"]
    rows = [
        [f"`{one['kind']}`", f"{one['kib']:,}", f"{one['rows']:,}", f"{one['sharded_ms']:.2f}",
         f"{one['held_ms']:.2f}", f"{one['held_ms'] / one['sharded_ms']:.2f}"]
        for one in found
    ]  # fmt: skip
    return (
        f"Steps of {WORLD} ranks on one machine, {args.batch} clips, {args.rounds} rounds of "
        f"{args.steps}:\n\n{pages.table(head, rows)}"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kib", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument("--steps", type=int, default=200, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    pages.option(parser)
    args = parser.parse_args(argv)
    if min(args.kib) < LEAST:
        parser.error(f"--kib: {min(args.kib)} is below {LEAST}, what a single row takes")
    if not pages.ready(args.write, "replication"):
        return 2
    seconds = len(TRAILS) * len(args.kib) * (6 + args.rounds * 2 * (args.steps + WARM) * 0.003)
    print(f"about {seconds / 60:.1f} minutes", flush=True)
    found = []
    for kind in TRAILS:
        for kib in args.kib:
            ranks = run_ranks(
                measure, WORLD, kind, kib, args.batch, args.steps, args.rounds, timeout=600
            )
            figures = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
            found.append({"kind": kind, "kib": kib, "rows": rows_of(kind, kib), **figures})
            print(*found[-1].values(), flush=True)
    text = table(found, args)
    print(text)
    pages.put(args.write, "replication", text)
    print(line("replication", sizes=found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
