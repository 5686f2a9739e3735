"""How good the order of clips is, beside a true permutation of the same clips.

    python -m benchmarks.shuffle [--epochs 6] [--write docs/data.md]

Exact figures of `data_shards.plan.Plan`, no timing: how far a clip comes from its place in storage,
how many shards a batch meets, and how often two neighbours in storage, which are often of one
video, come in one batch. Permutations are drawn as often as epochs are read. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np

from benchmarks import pages
from benchmarks.machine import line
from data_shards.plan import ORDER, Plan


class Set(NamedTuple):
    """Clips in each shard, and the shuffle's two settings."""

    name: str
    counts: list[int]
    group: int
    block: int


class Figures(NamedTuple):
    """Of an order of clips, means over epochs."""

    displacement: float
    """Mean of |place in the epoch - place in storage| over N / 3."""
    shards: float
    """Shards met by a batch."""
    neighbours: float
    """Share of clips whose successor in storage is in the same batch."""


GOLF = [393] * 1484 + [296]
"""583,508 clips at 128 x 128 in shards of 64 MiB, at 170.6 KB a clip (`bench-ingest`)."""
SETS = (
    Set("64 shards of 500 clips", [500] * 64, 16, 4096),
    Set("1485 shards of 393 clips (full golf)", GOLF, 16, 4096),
    Set("the same", GOLF, 8, 1024),
    Set("4 shards of 100 clips", [100] * 4, 16, 4096),
)


def judge(order: np.ndarray, counts: list[int], *, batch: int) -> Figures:
    """Figures of one epoch: `order` (N,) holds clip numbers in the order in which they come, which
    begin with a batch; a last one that is not full meets fewer shards and is not asked."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    shard = np.repeat(np.arange(len(counts)), counts)[order]
    cuts = np.arange(batch, len(order), batch)
    met = [len(np.unique(part)) for part in np.split(shard, cuts) if len(part) == batch]
    batch_of = place // batch
    return Figures(
        displacement=float(np.abs(place - np.arange(len(order))).mean() / (len(order) / 3)),
        shards=float(np.mean(met)),
        neighbours=float((batch_of[1:] == batch_of[:-1]).sum() / len(order)),
    )


def mean(found: list[Figures]) -> Figures:
    """Of each figure."""
    return Figures(*(float(np.mean(column)) for column in zip(*found, strict=True)))


def measure(one: Set, *, batch: int, epochs: int) -> tuple[Figures, Figures]:
    """The plan's figures, and those of as many true permutations."""
    plan = Plan(one.counts, seed=0, batch=batch, group=one.group, block=one.block)
    orders = [plan.span(epoch * plan.clips, plan.clips).clip_B for epoch in range(epochs)]
    draw = np.random.default_rng(0)
    true = [draw.permutation(plan.clips) for _ in range(epochs)]
    ours, theirs = (
        mean([judge(order, one.counts, batch=batch) for order in some]) for some in (orders, true)
    )
    return ours, theirs


def share(value: float) -> str:
    """A share in percent, to two digits."""
    return f"{100 * value:#.2g}".rstrip(".") + " %"


def table(found: list[tuple[Set, Figures, Figures]], *, batch: int, epochs: int) -> str:
    """Markdown of all figures, true permutations in brackets."""
    head = ["set", "shuffle", "mean displacement", "shards met by a batch",
            "storage neighbours in one batch"]  # fmt: skip
    rows = [
        [one.name, f"{one.group} shards, blocks of {one.block}",
         f"{ours.displacement:.2f} ({true.displacement:.2f})",
         f"{ours.shards:.1f} ({true.shards:.1f})",
         f"{share(ours.neighbours)} ({share(true.neighbours)})"]
        for one, ours, true in found
    ]  # fmt: skip
    return (
        f"{pages.table(head, rows)}\n\nMeans over {epochs} epochs in batches of {batch}, order "
        f"{ORDER} of `plan.ORDER`; in brackets, those of as many true permutations."
    )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    pages.option(parser)
    args = parser.parse_args(argv)
    if not pages.ready(args.write, "shuffle"):
        return 2
    print("about 10 seconds", flush=True)
    found = [(one, *measure(one, batch=args.batch, epochs=args.epochs)) for one in SETS]
    text = table(found, batch=args.batch, epochs=args.epochs)
    print(text)
    pages.put(args.write, "shuffle", text)
    rows = [
        {"set": one.name, "group": one.group, "block": one.block, "plan": ours._asdict(),
         "true": true._asdict()}
        for one, ours, true in found
    ]  # fmt: skip
    print(line("shuffle", order=ORDER, epochs=args.epochs, batch=args.batch, sets=rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
