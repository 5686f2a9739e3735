"""Does a dictionary step's time depend on the table's size, and is the promised memory kept?

    python -m benchmarks.dictionary [--rows 5000 583508] [--rounds 3] [--cold] [--gpu]
        [--low-rank-rows 20268 583508] [--methods gram tsqr] [--write docs/dictionary.md]

Two ranks (with `--gpu` one, on a GPU) train tables of rows (16, 200) that are written in full
before, resident on host and on disk, with the same random batches of distinct rows. Sizes take
turns in rounds, up and down, each in fresh processes: disks and machines drift. So that a step does
the same work on every size, what it stored goes to the disk every 16 steps, untimed: the rows of
a small table would otherwise lie in pages of the system's cache that are to be written anyway, and
those of a large one in pages that are not yet. `--cold` adds steps whose rows are not in that cache
(it is dropped as often), with `--pause` seconds between them in place of the networks, in which
rows are fetched ahead, or are not. The first steps after a table is filled (`--settle`) are not
timed, on any size: memory that the system has just handed out is slower for some hundred of them.

A step is timed twice: of the dictionary alone, and whole, with the forward and backward pass of the
golf preset's networks on its rows (`--whole` steps, one frame of 64x64 of each clip). Beside it,
what the machine's memory takes of a step: the same rows, read and written by their owners.

Prints the median step times per size, each rank's growth in resident memory beside
`LatentDictionary.promise_bytes`, and bytes and seconds of the low-rank methods, each of which reads
a whole table once, and milliseconds of a step where that is spread over a pass; writes
`dictionary.png` (with `--write` beside the page, which shows it); ends with one line of JSON.
`--rows` and `--low-rank-rows` without a number leave a part out. `gather` brings the whole table to
every rank and is left out of tables in which it would take more than 2 GB there. Exit code 1 where,
with rows of the default sizes, a step on the largest table, whole or of the dictionary alone, takes
more than 1.1 times as long as on the smallest (the dictionary's cold steps are the disk's and not
judged), or memory exceeds the promise by more than a tenth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.constants import GOLF
from benchmarks.dictionary_steps import CLIPS, FRAMES, WAYS, WIDTH, WORLD, measure
from benchmarks.dictionary_steps import measure_low_rank as low_rank
from benchmarks.machine import line
from tests.support.ranks import run_ranks
from trainer.lowrank import METHODS

SIZES = (5_000, 50_000, GOLF.clips)
GATHERED = 2e9
"""Bytes of doubles of a whole table up to which `gather` is measured."""
LOW_RANK = {"gather": 3_000, "gram": 40_000, "tsqr": 20_000}
"""Rows a second, for the announced minutes."""
RATIOS = ("whole_step_ratio", "step_time_ratio", "memory_over_promise")
MOST = 1.1
"""Of step time over the smallest table's, and of memory over its promise."""
ALT = "Milliseconds of a step, whole and of the dictionary alone, and MiB per rank, by rows"
"""What the picture shows, in words."""


def plot(sizes: list[dict], path: Path) -> None:
    """Step times, and memory beside its promise, against rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    first, left, right = figure.subplots(1, 3)
    for where in dict.fromkeys(r["residence"] for r in sizes):
        mine = [r for r in sizes if r["residence"] == where]
        rows = [r["rows"] for r in mine]
        first.plot(rows, [r["whole_ms"] for r in mine], "o-", label=where)
        (line,) = left.plot(rows, [r["milliseconds"] for r in mine], "o-")
        left.plot(rows, [r["rows_ms"] for r in mine], ":", color=line.get_color())
        (line,) = right.plot(rows, [r["resident_mib"] for r in mine], "o-", label=where)
        right.plot(rows, [r["promised_mib"] for r in mine], ":", color=line.get_color())
    for place, time, label in (
        (first, "whole_ms", "ms per whole step (median)"),
        (left, "milliseconds", "ms of the dictionary alone (dotted: its rows)"),
    ):
        most = max(r[time] for r in sizes)
        place.set(xscale="log", ylim=(0, 1.2 * most), xlabel="rows", ylabel=label)
    right.set(xscale="log", yscale="log", xlabel="rows", ylabel="MiB per rank (dotted: promised)")
    first.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; `ways` are names of `WAYS`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=208, help="timed (default: 208)")
    parser.add_argument("--settle", type=int, default=256, help="steps before (default: 256)")
    parser.add_argument("--whole", type=int, default=16, help="steps with networks (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="of all sizes (default: 3)")
    parser.add_argument("--batch", type=int, default=64, help="clips of the global batch")
    parser.add_argument(
        "--residences", nargs="+", default=["host", "disk"], choices=["device", "host", "disk"]
    )
    parser.add_argument("--cold", action="store_true", help="disks without the system's cache, too")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between cold steps")
    parser.add_argument("--low-rank-rows", type=int, nargs="*", default=[20_268])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--gpu", action="store_true", help="one rank, which computes on a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    pages.option(parser)
    args = parser.parse_args(argv)
    if not args.rows and not args.low_rank_rows:
        parser.error("--rows, --low-rank-rows: nothing is left to measure")
    args.ways = [
        name for name, way in WAYS.items()
        if way.residence in args.residences and (args.cold or not way.cold)
    ]  # fmt: skip
    return args


def minutes(args: argparse.Namespace) -> float:
    """A guess from 25,000 rows written a second, 20 ms a step and 0.5 s a whole one."""
    steps = args.settle + args.steps
    each = [rows / 25_000 + steps * 0.02 + args.whole * 0.5 + 6 for rows in args.rows]
    pauses = sum(WAYS[name].cold for name in args.ways) * len(args.rows) * steps * args.pause
    sizes = args.rounds * (len(args.ways) * sum(each) + pauses)
    low = [
        2 * rows / 25_000 + 2 * rows / LOW_RANK[m] + 6
        for rows in args.low_rank_rows for m in methods(args, rows)
    ]  # fmt: skip
    return (sizes + sum(low) + 10) / 60


def methods(args: argparse.Namespace, rows: int) -> list[str]:
    """What is measured of those that were asked for, in a table of so many rows."""
    large = rows * FRAMES * WIDTH * 8 > GATHERED
    return [method for method in args.methods if not (large and method == "gather")]


def main(argv: list[str] | None = None) -> int:
    """Measure, print, plot, judge."""
    args = arguments(argv)
    parts = {"dictionary": args.rows, "low-rank": args.low_rank_rows}
    if not pages.ready(args.write, *(name for name, rows in parts.items() if rows)):
        return 2
    disk = max([*args.rows, *args.low_rank_rows]) * FRAMES * WIDTH * 8 / 1e9
    world = 1 if args.gpu else WORLD
    print(
        f"about {minutes(args):.1f} minutes, {world} ranks, up to {disk:.1f} GB of memory or disk"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rounds, sizes = measure_sizes(args, world) if args.rows else ([], [])
    low = [
        found
        for rows in args.low_rank_rows
        for found in run_ranks(low_rank, world, rows, methods(args, rows), timeout=3600)[0]
    ]  # fmt: skip
    grown = growth(rounds) if rounds else {}
    judged = {min(SIZES), max(SIZES)} <= set(args.rows)
    broken = broken_limits(grown) if judged else None
    if sizes:
        picture = (args.write.parent if args.write else args.out) / "dictionary.png"
        plot(sizes, picture)
        text = f"{sizes_table(sizes, grown, broken)}\n\n![{ALT}]({picture.name})"
        print(text)
        pages.put(args.write, "dictionary", text)
    if low:
        text = low_rank_table(low, world)
        print(text)
        pages.put(args.write, "low-rank", text)
    print(line("dictionary", growth=grown, most=MOST, broken=broken, sizes=sizes, low_rank=low))
    return 1 if broken else 0


def measure_sizes(
    args: argparse.Namespace, world: int
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Every size in every round, and each over its rounds."""
    print(f"{'residence':24}     rows    whole  ms/step  resident MiB  promised MiB  KiB/step read")
    rounds = [one_round(args, world, down=number % 2 == 1) for number in range(args.rounds)]
    return rounds, [over_rounds(same) for same in zip(*rounds, strict=True)]


def sizes_table(
    sizes: Sequence[dict[str, Any]], grown: dict[str, dict[str, float]], broken: list[str] | None
) -> str:
    """Markdown: each size, how they differ, and what was judged."""
    head = ["residence", "rows", "ms of a whole step", "the dictionary alone (least to most)",
            "rows read and written", "KiB a step from disk", "MiB a rank",
            "promised"]  # fmt: skip
    rows = [
        [f"`{size['residence']}`", f"{size['rows']:,}", f"{size['whole_ms']:.0f}",
         f"{size['milliseconds']:.2f} ({size['least']:.2f} to {size['most']:.2f})",
         f"{size['rows_ms']:.2f}", f"{size['read_kib']:.0f}", f"{size['resident_mib']:,.1f}",
         f"{size['promised_mib']:,.1f}"]
        for size in sizes
    ]  # fmt: skip
    told = [
        f"`{name}`: on the largest table a whole step takes {ratios['whole_step_ratio']:.3f} times "
        f"as long as on the smallest, the dictionary alone {ratios['step_time_ratio']:.3f} times "
        f"({ratios['added_ms']:+.2f} ms, of which {ratios['added_rows_ms']:+.2f} are reading and "
        f"writing the rows); memory is at most {ratios['memory_over_promise']:.3f} times the "
        f"promise."
        for name, ratios in grown.items()
    ]
    judged = "not of the default sizes, and so not judged" if broken is None else "nothing"
    told.append(f"Above the limit of {MOST}: {'; '.join(broken or []) or judged}.")
    return "\n".join([pages.table(head, rows), "", *told])


def low_rank_table(low: Sequence[dict[str, Any]], world: int) -> str:
    """Markdown: what each method sent and took, and what has not been measured."""

    def spread(one: dict[str, Any], name: str) -> str:
        return f"{one[name]:.1f}" if name in one else "at once"

    rows = [
        [f"`{one['method']}`", f"{one['rows']:,}", f"{one['mib']:.2f}", f"{one['seconds']:.2f}",
         f"{one['first_seconds']:.2f}",
         *(spread(one, name) for name in ("step_ms", "longest_ms", "end_ms"))]
        for one in low
    ]  # fmt: skip
    head = ["method", "rows", "MiB sent", "seconds", "seconds before any row is written",
            "ms a step, spread over a pass", "the longest", "its end"]  # fmt: skip
    text = pages.table(head, rows)
    text += (
        f"\n\nOf {world} ranks, the first; one thread each. A pass is of steps of {CLIPS} clips, "
        "whose ms are those of the last rank to be done."
    )
    if not any(one["rows"] >= GOLF.clips for one in low):
        text += f" Not measured: {GOLF.clips:,} rows, those of the full golf set."
    return text


def one_round(args: argparse.Namespace, world: int, *, down: bool) -> list[dict[str, Any]]:
    """Every size once, the largest first where `down`; by residence and rows."""
    found = []
    for name in args.ways:
        for rows in sorted(args.rows, reverse=down):
            with tempfile.TemporaryDirectory(dir=args.out) as scratch:
                ranks = run_ranks(
                    measure, world, rows, name, args.settle, args.steps, args.batch, scratch,
                    args.gpu, args.pause, args.whole, timeout=3600,
                )  # fmt: skip
            found.append({key: max(r[key] for r in ranks) for key in ranks[0]})
            print(as_line(found[-1]), flush=True)
    return sorted(found, key=lambda r: (args.ways.index(r["residence"]), r["rows"]))


def over_rounds(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One size over all rounds: median, least and most step time, worst memory."""
    times = [r["milliseconds"] for r in same]
    return {
        **same[0], "milliseconds": statistics.median(times), "least": min(times),
        "most": max(times),
        **{name: statistics.median(r[name] for r in same) for name in ("whole_ms", "rows_ms")},
        "resident_mib": max(r["resident_mib"] for r in same),
        "read_kib": statistics.median(r["read_kib"] for r in same),
    }  # fmt: skip


def as_line(size: dict[str, Any]) -> str:
    """A size's figures for the terminal."""
    spread = f"  {size['least']:.2f} to {size['most']:.2f} ms" if "least" in size else ""
    return (
        f"{size['residence']:24}{size['rows']:9,} {size['whole_ms']:8.1f} "
        f"{size['milliseconds']:8.2f} "
        f"{size['resident_mib']:13.1f} {size['promised_mib']:13.1f} {size['read_kib']:9.0f}{spread}"
    )


def growth(rounds: Sequence[list[dict]]) -> dict[str, dict[str, float]]:
    """Per residence: step times of the largest table over the smallest's, and milliseconds more,
    medians over rounds of what they are within a round; worst memory ratio."""
    out = {}
    for where in dict.fromkeys(r["residence"] for r in rounds[0]):
        mine = [[r for r in sizes if r["residence"] == where] for sizes in rounds]
        whole, alone = (
            statistics.median(sizes[-1][time] / sizes[0][time] for sizes in mine)
            for time in ("whole_ms", "milliseconds")
        )
        added, added_rows = (
            statistics.median(sizes[-1][time] - sizes[0][time] for sizes in mine)
            for time in ("milliseconds", "rows_ms")
        )
        memory = [r["resident_mib"] / r["promised_mib"] for sizes in mine for r in sizes]
        out[where] = {
            "whole_step_ratio": whole, "step_time_ratio": alone,
            "memory_over_promise": max(memory), "added_ms": added, "added_rows_ms": added_rows,
        }  # fmt: skip
    return out


def broken_limits(grown: dict[str, dict[str, float]]) -> list[str]:
    """What exceeds `MOST`, as residence and ratio; the time of the dictionary's cold steps may."""
    return [
        f"{name}: {ratio} {ratios[ratio]:.3f}"
        for name, ratios in grown.items()
        for ratio in RATIOS
        if ratios[ratio] > MOST and not (WAYS[name].cold and ratio == "step_time_ratio")
    ]


if __name__ == "__main__":
    sys.exit(main())
