"""Does saving a dictionary of full size hold training up?

    python -m benchmarks.saving [--rows 583508] [--residence host] [--pause 0.25] [--busy]
        [--unwritten] [--out FOLDER] [--write docs/dictionary.md]

Two ranks step on random rows of (16, 200), all written before, with a pause between steps in place
of the networks, in which cores are idle as beside a GPU; with `--busy` each rank computes with one
thread meanwhile, as a training on CPUs does, and saves take their time from that. In the midst of
it they save in the background three times, as a training does: rows, and on rank 0 weights, Adam's
moments and the average of networks of golf's size; the third commit drops the first checkpoint.
Prints the usual step, and the worst of the steps in which a save begins, that run beside it, that
commit it, and that follow while the old one's files are removed; beside them the longest of as many
steps behind each save, as this machine takes them by itself (not with `--unwritten`: those would
write the rows that the next save is to draw), seconds and size of a save, and the memory that it
took and was promised. Ends with one line of JSON. Exit code 1 where a save holds training up for
more than one step: where the longest whole step of a save, pause and waiting for the other rank
included, takes more than twice as long as a whole step usually does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import pages
from benchmarks.dictionary_steps import FRAMES, WIDTH, WORLD, build, one_step, resident_bytes
from benchmarks.machine import line, work_of
from tests.support.ranks import run_ranks
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.commit import DROPPING
from trainer.latents import LatentDictionary

STEPS, MOST, SAVES = 20, 5000, 3
"""Steps before and after the saves; after which a save is given up; saves."""
WEIGHTS = 17_000_000
"""Of `preset=golf` at 128x128."""
HELD_UP = 2.0
"""Usual whole steps that the longest one of a save may take: its own time, and one step's."""
Tensors = dict[str, dict[str, torch.Tensor]]


class Seconds(NamedTuple):
    """Of one step."""

    own: float
    """The dictionary's part, and what a save adds to it."""
    whole: float
    """The pause in place of the networks and the wait for the other rank, too."""


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
    step: Callable[[float], Seconds], *, number: int, alone: bool,
) -> dict[str, float]:  # fmt: skip
    """Milliseconds of the steps of one save, on one rank, and of as many `alone` behind it."""
    before = peak = resident_bytes()
    start = time.perf_counter()
    own = dictionary.snapshot()
    checkpoints.save(number, common=common, own=own, state={}, background=True)
    begins = step(time.perf_counter() - start)
    beside = []
    while int(comm.max_(torch.tensor([int(checkpoints.busy)]))) and len(beside) < MOST:
        beside.append(step(0.0))
        peak = max(peak, resident_bytes())
    written = time.perf_counter() - start
    start = time.perf_counter()
    saved = checkpoints.poll(ready=True)
    commits = step(time.perf_counter() - start)
    after = [step(0.0) for _ in range(STEPS)]
    while saved is not None and any(saved.parent.glob(f"{DROPPING}*")):
        time.sleep(0.1)  # until the old one's files are removed
    comm.barrier()
    count = 2 + len(beside) + len(after) if alone else 0
    without = [step(0.0) for _ in range(count)]
    return {
        "begins_ms": 1e3 * begins.own,
        "longest_ms": 1e3 * max((one.own for one in beside), default=0.0),
        "commits_ms": 1e3 * commits.own, "after_ms": 1e3 * max(one.own for one in after),
        "longest_whole_ms": 1e3 * max(one.whole for one in (begins, *beside, commits, *after)),
        "without_ms": 1e3 * max((one.whole for one in without), default=0.0),
        "steps": len(beside), "seconds": written, "memory_mib": (peak - before) / 2**20,
        "failed": float(saved is None),
        "gib": sum(f.stat().st_size for f in saved.iterdir()) / 2**30 if saved else 0.0,
    }  # fmt: skip


def measure(
    comm: Comm, rows: int, where: str, batch: int, pause: float, weights: int, scratch: str,
    folder: str, written: bool, busy: bool,
) -> dict[str, float]:  # fmt: skip
    """The usual step and the worst of all saves, on one rank."""
    dictionary = build(comm, rows, where, scratch, written=written)
    comm.barrier()  # so that work is measured as it is done, by all ranks at once
    networks = work_of(pause) if busy else partial(time.sleep, pause)
    checkpoints = Checkpointer(folder, CheckpointConfig(minutes=0, keep=2), comm=comm)
    draw, common = np.random.default_rng(1), networks_of(weights, comm)
    resident_bytes(trim=True)  # what the filling leaves is not the save's

    def step(before: float) -> Seconds:
        asked = torch.from_numpy(draw.choice(rows, batch, replace=False))
        begun = time.perf_counter()
        comm.barrier()
        networks()
        start = time.perf_counter()
        one_step(dictionary, comm, asked)
        end = time.perf_counter()
        return Seconds(before + end - start, before + end - begun)

    if comm.rank == 0:
        checkpoints.copies.reserve(common)  # as a training does after its first step
    usual = [step(0.0) for _ in range(STEPS)]
    saves = [
        save_once(checkpoints, dictionary, comm, common, step, number=number, alone=written)
        for number in range(1, SAVES + 1)
    ]
    checkpoints.close()
    dictionary.close()
    promise = LatentDictionary.promise_bytes(
        dictionary.config, static_rows=1, transient_rows=rows, frames=FRAMES, world=comm.world,
        batch=batch,
    )  # fmt: skip
    shared = sum(tensor.nbytes for tensors in common.values() for tensor in tensors.values())
    first = 0 if written else promise.host  # rows that steps write for the first time
    worst = {key: max(save[key] for save in saves) for key in saves[0]}
    whole = 1e3 * statistics.median(one.whole for one in usual)
    return {
        "usual_ms": 1e3 * statistics.median(one.own for one in usual),
        "usual_whole_ms": whole,
        "held_up": worst["longest_whole_ms"] / whole,
        "without": worst["without_ms"] / whole,
        "promised_mib": (promise.saving + promise.aside + shared + first) / 2**20,
        **worst,
    }


def verdict(held_up: float, alone: float) -> str:
    """What the longest whole step of a save, in usual ones, says of the target; beside it the
    longest without a save, or 0."""
    judged = "more than" if held_up > HELD_UP else "within"
    beside = f"; the longest of as many without a save takes {alone:.2f}" if alone else ""
    return (
        f"the longest whole step of a save takes {held_up:.2f} usual ones, {judged} the "
        f"{HELD_UP:g} of a save that holds training up for one step{beside}"
    )


def table(worst: dict[str, Any], args: argparse.Namespace) -> str:
    """Markdown of all figures."""
    rows = [
        ["a usual step", worst["usual_ms"]],
        ["the step that begins the save", worst["begins_ms"]],
        [f"the longest of {worst['steps']} beside it", worst["longest_ms"]],
        ["the step that commits it", worst["commits_ms"]],
        [f"the longest of {STEPS} behind it", worst["after_ms"]],
        ["a usual whole step", worst["usual_whole_ms"]],
        ["the longest whole step of a save", worst["longest_whole_ms"]],
    ]
    if worst["without_ms"]:
        rows.append(["the longest of as many without a save", worst["without_ms"]])
    first = " of which hardly any is written yet" if args.unwritten else ""
    head = (
        f"{args.rows:,} rows on {args.residence}{first}, {args.weights:,} weights, {WORLD} ranks, "
        f"{args.pause:g} s {'of work' if args.busy else 'of idle cores'} between steps, the worst "
        f"of {SAVES} saves and of the ranks:"
    )
    rows_too = ", with rows that steps write for the first time" if args.unwritten else ""
    tail = (
        f"A save: {worst['gib']:.1f} GiB in {worst['seconds']:.0f} s, with "
        f"{worst['memory_mib']:.0f} MiB of memory on a rank{rows_too}, "
        f"{worst['promised_mib']:.0f} promised."
    )
    times = pages.table(["step", "ms"], [[name, f"{ms:.1f}"] for name, ms in rows])
    told = verdict(worst["held_up"], worst["without"])
    return f"{head}\n\n{times}\n\n{tail} {told[0].upper()}{told[1:]}."


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=583_508)
    parser.add_argument("--residence", default="host", choices=["host", "disk"])
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between steps")
    parser.add_argument("--weights", type=int, default=WEIGHTS, help="of the networks")
    parser.add_argument("--busy", action="store_true", help="compute in the pauses")
    parser.add_argument(
        "--unwritten", action="store_true", help="of a table as in a run's first pass"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    pages.option(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, judge."""
    args = parse(argv)
    place = "-".join(["saving"] + ["busy"] * args.busy + ["unwritten"] * args.unwritten)
    if not pages.ready(args.write, place):
        return 2
    size = (args.rows * FRAMES * WIDTH * 8 + args.weights * 16) / 1e9
    of_a_save = size / (8 if args.busy else 30) + STEPS * args.pause / 60
    times = SAVES * (1 if args.unwritten else 2)
    minutes = args.rows / 25_000 / 60 + times * of_a_save + 0.5
    print(f"about {minutes:.1f} minutes, {SAVES * size:.1f} GB on disk", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        ranks = run_ranks(
            measure, WORLD, args.rows, args.residence, args.batch, args.pause, args.weights,
            f"{scratch}/rows", f"{scratch}/run", not args.unwritten, args.busy, timeout=10_800,
        )  # fmt: skip
    worst: dict[str, Any] = {key: max(r[key] for r in ranks) for key in ranks[0]}
    text = table(worst, args)
    print(text)
    pages.put(args.write, place, text)
    broken = [verdict(worst["held_up"], worst["without"])] if worst["held_up"] > HELD_UP else []
    broken += ["a save was not committed"] if worst["failed"] else []
    told = {"rows": args.rows, "residence": args.residence, "pause": args.pause,
            "busy": args.busy, "unwritten": args.unwritten}  # fmt: skip
    print(line("saving", **told, **worst, most=HELD_UP, broken=broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
