"""What a step of each stage costs on 2 ranks: milliseconds, bytes sent by kind, FLOPs.

    python -m benchmarks.stages [--steps 50] [--size 64] [--write docs/scaling.md]

In the stage whose generator is frozen no generator gradient is computed or sent. Gradients are sent
(`train.gradients=send`), as with GPUs or several machines, unless words say otherwise. Ends with
one line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.constants import GOLF
from benchmarks.cost import flops_per_clip
from benchmarks.machine import line
from tests.support.engines import join, make
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.config import resolve
from trainer.schedule import EVERYTHING, GENERATOR, LATENT, Stage, pace

STAGES = (GENERATOR, LATENT, Stage("together", EVERYTHING))
WORDS = ("preset=golf", "schedule.clips=8", "train.gradients=send")
WARM = 3


def measure(comm: Comm, data: str, words: tuple[str, ...], steps: int) -> dict[str, Any]:
    """Median step and mean bytes sent of each stage, of this rank."""
    join(comm)
    made = make(data, words, base=WORDS)
    engine, found = made.engine, {}
    for stage in STAGES:
        seconds: list[float] = []
        for step in range(WARM + steps):
            if step == WARM:
                engine.ranks.comm.bytes_sent.clear()
            batch = next(made.stream)
            start = time.perf_counter()
            engine.measure(batch, step=step, moves=stage.moves)
            engine.update(step=step, moves=stage.moves, factor=1.0)
            seconds.append(time.perf_counter() - start)
        sent: Counter[str] = engine.ranks.comm.bytes_sent
        found[stage.name] = {
            "milliseconds": 1e3 * statistics.median(seconds[WARM:]),
            "bytes": {kind: count / steps for kind, count in sorted(sent.items())},
            "gflop": made.engine.pace.clips / comm.world / 1e9 * flops_per_clip(
                made.config, GOLF._replace(frames=batch.frames_BTCHW.shape[1],
                                           size=batch.frames_BTCHW.shape[-1]),
                moves=stage.moves,
            ),
        }  # fmt: skip
    return found


def averaged(ranks: list[Any]) -> Any:
    """Figures of the ranks, each averaged over them: one that owns more rows sends more of them."""
    if not isinstance(ranks[0], dict):
        return statistics.fmean(ranks)
    kinds = sorted({kind for figures in ranks for kind in figures})
    return {kind: averaged([figures.get(kind, 0.0) for figures in ranks]) for kind in kinds}


def table(found: dict[str, Any], *, ranks: int, size: int, clips: int, way: str) -> str:
    """Markdown: a line for each stage."""
    head = ["stage", "ms a step", "GFLOP", "KiB of gradients", "KiB of rows and flags"]
    rows = []
    for name, figures in found.items():
        gradients = figures["bytes"].get("gradients", 0.0)
        rest = sum(figures["bytes"].values()) - gradients
        rows.append([f"`{name}`", f"{figures['milliseconds']:.1f}", f"{figures['gflop']:.2f}",
                     f"{gradients / 1024:,.1f}", f"{rest / 1024:,.1f}"])  # fmt: skip
    return (
        f"{pages.table(head, rows)}\n\nEach of {ranks} ranks on average, a step of {clips} clips "
        f"in all, {size}x{size}, one thread each, `train.gradients={way}`. `{GENERATOR.name}` "
        f"moves the generator, `{LATENT.name}` the recurrence and the rows, `together` all of them."
    )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    pages.option(parser)
    args = parser.parse_intermixed_args(argv)
    if not pages.ready(args.write, "stages"):
        return 2
    minutes = (30 + 3 * (WARM + args.steps) * 0.3 * (args.size / 64) ** 2) / 60
    print(f"about {minutes:.1f} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = tiny_set(Path(folder), identities=6, actions=4, frames=16, size=args.size)
        ranks = run_ranks(
            measure, args.ranks, str(data), tuple(args.words), args.steps, timeout=3600
        )
    found, config = averaged(ranks), resolve([*WORDS, *args.words])
    text = table(
        found, ranks=args.ranks, size=args.size, clips=pace(config.schedule).clips,
        way=config.train.gradients,
    )  # fmt: skip
    print(text)
    pages.put(args.write, "stages", text)
    print(line("stages", ranks=args.ranks, size=args.size, stages=found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
