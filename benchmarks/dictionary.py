"""Does a dictionary step's time depend on the table's size, and is the promised memory kept?

    python -m benchmarks.dictionary [--rows 5000 583508] [--rounds 3] [--gpu] [--out FOLDER]

Two ranks (with `--gpu` one, on a GPU) train tables of rows (16, 200) that are written in full
before, resident on host and on disk, with the same random batches of distinct rows. Sizes take
turns in rounds, up and down, each in fresh processes: disks and machines drift. Prints the median
step time per size, each rank's growth in resident memory beside `LatentDictionary.promise_bytes`,
and bytes and seconds of the low-rank methods; writes `dictionary.png`; ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig
from trainer.lowrank import METHODS, find_basis

FRAMES, WIDTH, WORLD = 16, 200, 2


def resident_bytes(*, trim: bool = False) -> int:
    """Memory of this process that is in RAM now (Linux), without pages of libraries' files, which
    the system drops and reads again as it likes; `trim` gives freed memory back before.

    Without it what the heap keeps of an earlier stage would count as the next one's.
    """
    if trim:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def read_from_disk() -> int:
    """Bytes that this process had fetched from disks: what the system's cache did not have."""
    path = Path("/proc/self/io")
    lines = dict(line.split(": ") for line in path.read_text().splitlines())
    return int(lines["read_bytes"])


def build(comm: Comm, rows: int, where: str, scratch: str) -> LatentDictionary:
    """A dictionary whose transient rows have all been written once."""
    config = LatentsConfig(
        static_key="dataset", optimiser="momentum", residence=where, scratch=scratch
    )
    keys = {"static": np.zeros(1, dtype=np.int64), "transient": np.arange(rows)}
    dictionary = LatentDictionary(config, frames=FRAMES, keys=keys, comm=comm)
    table = dictionary.tables["transient"]
    for part in table.owned(torch.arange(rows)).split(64):
        slots = table.slots(part)
        table.write_(slots, table.read(slots))
    os.sync()  # the system is not to write the filling back while steps are timed
    comm.barrier()
    return dictionary


def one_step(dictionary: LatentDictionary, comm: Comm, rows: torch.Tensor) -> None:
    """A whole step on this rank's share of the global batch, with a gradient that costs nothing."""
    batch = len(rows)
    mine = rows[comm.rank * batch // comm.world : (comm.rank + 1) * batch // comm.world]
    latents = dictionary.gather(torch.zeros_like(mine), mine)
    latents.static_BS.grad = torch.full_like(latents.static_BS, 1e-3)
    latents.transient_BTM.grad = torch.full_like(latents.transient_BTM, 1e-3)
    dictionary.accumulate(latents)
    dictionary.step(0.1)
    dictionary.project_()


def measure(
    comm: Comm, rows: int, where: str, steps: int, batch: int, scratch: str, gpu: bool
) -> dict:
    """Median seconds of a step and the growth of memory, on one rank."""
    device = torch.device("cuda" if gpu else "cpu")
    comm = Comm(device=device) if gpu else comm
    warm = build(comm, 500, where, scratch)  # load what is loaded once
    warm.fetch_ahead(torch.zeros(1, dtype=torch.int64), torch.arange(batch))
    one_step(warm, comm, torch.arange(batch))
    warm.close()
    del warm
    before = resident_bytes(trim=True)
    dictionary = build(comm, rows, where, scratch)
    resident_bytes(trim=True)  # what the filling leaves is not the dictionary's
    # Not permutations of all rows, whose freed memory would count as the dictionary's.
    draw = np.random.default_rng(1)
    batches = [torch.from_numpy(draw.choice(rows, batch, replace=False)) for _ in range(steps + 11)]
    seconds, peak, on_disk = [], 0, read_from_disk()
    for now, ahead in pairwise(batches):
        comm.barrier()
        start = time.perf_counter()
        dictionary.fetch_ahead(torch.zeros(1, dtype=torch.int64), ahead)
        one_step(dictionary, comm, now)
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        peak = max(peak, resident_bytes())
    promise = LatentDictionary.promise_bytes(
        dictionary.config, static_rows=1, transient_rows=rows, frames=FRAMES,
        world=comm.world, batch=batch,
    )  # fmt: skip
    dictionary.close()
    return {
        "rows": rows,
        "residence": where,
        "milliseconds": 1e3 * statistics.median(seconds[10:]),
        "read_kib": (read_from_disk() - on_disk) / 1024 / len(seconds),
        "resident_mib": (peak - before) / 2**20,
        "promised_mib": (promise.host + promise.device) / 2**20,
    }


def measure_low_rank(comm: Comm, rows: int) -> list[dict]:
    """Bytes sent and seconds of each way to find the dictionary's directions, on one rank."""
    table = build(comm, rows, "host", "").tables["transient"]
    found = []
    for method in METHODS:
        comm.barrier()
        basis = find_basis(table, rank=10, method=method)
        found.append(
            {"method": method, "rows": rows, "mib": basis.bytes_sent / 2**20}
            | {"seconds": basis.seconds}
        )
    return found


def plot(sizes: list[dict], path: Path) -> None:
    """Step time, and memory beside its promise, against rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for where in dict.fromkeys(r["residence"] for r in sizes):
        mine = [r for r in sizes if r["residence"] == where]
        rows = [r["rows"] for r in mine]
        left.plot(rows, [r["milliseconds"] for r in mine], "o-", label=where)
        (line,) = right.plot(rows, [r["resident_mib"] for r in mine], "o-", label=where)
        right.plot(rows, [r["promised_mib"] for r in mine], ":", color=line.get_color())
    left.set(xscale="log", ylim=(0, None), xlabel="rows", ylabel="ms per step (median)")
    right.set(xscale="log", yscale="log", xlabel="rows", ylabel="MiB per rank (dotted: promised)")
    left.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 50_000, 583_508])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of all sizes (default: 3)")
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument("--residences", nargs="+", default=["host", "disk"])
    parser.add_argument("--low-rank-rows", type=int, default=20_268)
    parser.add_argument("--gpu", action="store_true", help="one rank, which computes on a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser.parse_args(argv)


def minutes(args: argparse.Namespace) -> float:
    """A guess from 25,000 rows written a second and 20 ms a step."""
    each = [rows / 25_000 + args.steps * 0.02 + 6 for rows in args.rows]
    sizes = args.rounds * len(args.residences) * sum(each)
    return (sizes + args.low_rank_rows / 500 + 10) / 60


def main(argv: list[str] | None = None) -> int:
    """Measure, print, plot."""
    args = arguments(argv)
    disk = max(args.rows) * FRAMES * WIDTH * 8 / 1e9
    world = 1 if args.gpu else WORLD
    print(
        f"about {minutes(args):.1f} minutes, {world} ranks, up to {disk:.1f} GB of memory or disk"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    print("residence      rows  ms/step  resident MiB  promised MiB  KiB/step from disk (worst)")
    rounds = [one_round(args, world, down=number % 2 == 1) for number in range(args.rounds)]
    sizes = [over_rounds(same) for same in zip(*rounds, strict=True)]
    print(f"medians of {args.rounds} rounds, worst memory")
    for size in sizes:
        print(as_line(size))
    low = run_ranks(measure_low_rank, world, args.low_rank_rows, timeout=3600)[0]
    print("low rank         rows  MiB sent  seconds  (rank 0)")
    for r in low:
        print(f"{r['method']:9} {r['rows']:11,} {r['mib']:9.2f} {r['seconds']:8.2f}")
    plot(sizes, args.out / "dictionary.png")
    figures = {"growth": growth(rounds), "sizes": sizes, "low_rank": low}
    print(json.dumps({"benchmark": "dictionary", **figures}))
    return 0


def one_round(args: argparse.Namespace, world: int, *, down: bool) -> list[dict[str, Any]]:
    """Every size once, the largest first where `down`; by residence and rows."""
    found = []
    for where in args.residences:
        for rows in sorted(args.rows, reverse=down):
            with tempfile.TemporaryDirectory(dir=args.out) as scratch:
                ranks = run_ranks(
                    measure, world, rows, where, args.steps, args.batch, scratch, args.gpu,
                    timeout=3600,
                )  # fmt: skip
            found.append({key: max(r[key] for r in ranks) for key in ranks[0]})
            print(as_line(found[-1]), flush=True)
    return sorted(found, key=lambda r: (args.residences.index(r["residence"]), r["rows"]))


def over_rounds(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One size over all rounds: median, least and most step time, worst memory."""
    times = [r["milliseconds"] for r in same]
    return {
        **same[0], "milliseconds": statistics.median(times), "least": min(times),
        "most": max(times), "resident_mib": max(r["resident_mib"] for r in same),
        "read_kib": statistics.median(r["read_kib"] for r in same),
    }  # fmt: skip


def as_line(size: dict[str, Any]) -> str:
    """A size's figures for the terminal."""
    spread = f"  {size['least']:.2f} to {size['most']:.2f} ms" if "least" in size else ""
    return (
        f"{size['residence']:9} {size['rows']:9,} {size['milliseconds']:8.2f} "
        f"{size['resident_mib']:13.1f} {size['promised_mib']:13.1f} {size['read_kib']:9.0f}{spread}"
    )


def growth(rounds: Sequence[list[dict]]) -> dict[str, dict[str, float]]:
    """Per residence: step time of the largest table over the smallest's, the median over rounds of
    the ratio within a round; worst memory ratio."""
    out = {}
    for where in dict.fromkeys(r["residence"] for r in rounds[0]):
        mine = [[r for r in sizes if r["residence"] == where] for sizes in rounds]
        ratios = [sizes[-1]["milliseconds"] / sizes[0]["milliseconds"] for sizes in mine]
        memory = [r["resident_mib"] / r["promised_mib"] for sizes in mine for r in sizes]
        out[where] = {
            "step_time_ratio": statistics.median(ratios), "memory_over_promise": max(memory),
        }  # fmt: skip
    return out


if __name__ == "__main__":
    sys.exit(main())
