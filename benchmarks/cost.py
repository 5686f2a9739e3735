"""A model of what a training costs on W ranks: compute, bytes per link, memory, storage, hours.

    python -m benchmarks.cost [schedule.inner=2 ...] [--figures FILE ...]

Prints the tables of docs/scaling.md for the full golf set on 8 and 64 GPUs, trained by `preset=golf
schedule.clips=512 latents.residence=host` (of itself the preset has 8 clips a step, and rows on the
device) and the words that are given; which constants were measured; and what of the settings it
knows nothing of. Ends with one line of JSON. Constants of a machine are a row of
`benchmarks.constants.MACHINES`; `--figures` takes the lines of JSON that other benchmarks end with
and puts what they measured in the place of what was assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pages
from benchmarks.constants import (
    GOLF,
    MACHINES,
    UNITS,
    Constants,
    Footage,
    Machine,
    constants,
    read_figures,
)
from benchmarks.machine import line
from data_shards.config import FEW_THREADS, MOST_THREADS
from data_shards.errors import UserError
from trainer.config import Config, resolve
from trainer.latents import LatentDictionary
from trainer.networks import NavSynth, parameter_counts
from trainer.schedule import EVERYTHING, pace

FLOAT, ROW_NUMBER, FLAGS = 4, 8, 6 * 8


class Cost(NamedTuple):
    """What one rank of W does and holds: the one with the most clips. What is said of a step is of
    the mean step of a visit."""

    ranks: int
    flops: float
    bytes: dict[str, float]
    """Sent, of all ranks on average."""
    compute: float
    communication: float
    loading: float
    """Of a batch, which is loaded once a visit, the part of one of its steps."""
    step: float
    memory: dict[str, float]
    storage: dict[str, float]
    hours_per_pass: float
    visit_steps: int
    """Steps on each batch."""
    passes: int
    """That the preset asks for."""


def flops_per_clip(config: Config, footage: Footage, *, moves: frozenset[str] = EVERYTHING) -> int:
    """Operations of a forward and backward pass of one clip, counted by torch on no data."""
    drawn = min(pace(config.schedule).frames, footage.frames) or footage.frames
    width = config.latents
    with torch.device("meta"):
        networks = NavSynth(
            config.networks, static=width.static, transient=width.transient, size=footage.size
        )
        static = torch.empty(1, width.static, requires_grad=True)
        transient = torch.empty(1, footage.frames, width.transient, requires_grad=True)
        chosen = torch.zeros(1, drawn, dtype=torch.int64)
    for group, params in (("gamma", networks.gamma()), ("theta", networks.theta())):
        for param in params:
            param.requires_grad_(group in moves)
    with FlopCounterMode(display=False) as counter:
        networks(static, transient, chosen).images_BFCHW.sum().backward()
    return counter.get_total_flops()


def bytes_per_step(
    config: Config,
    footage: Footage,
    *,
    ranks: int,
    moves: frozenset[str] = EVERYTHING,
    gradients: str = "send",
) -> dict[str, float]:
    """Bytes that a rank sends in a step, by what they are; tables are taken to be sharded. With
    `gradients` memory those of the networks are `handed over` (`trainer.shared`) and not sent."""
    if ranks == 1:
        return {"gradients": 0.0, "rows": 0.0, "flags": 0.0, "handed over": 0.0}
    width = config.latents
    counts = parameter_counts(
        config.networks, static=width.static, transient=width.transient, size=footage.size
    )
    elsewhere = (ranks - 1) / ranks
    moved = sum(counts[group] for group in ("theta", "gamma") if group in moves)
    clips = pace(config.schedule).clips / ranks
    row = FLOAT * (width.static + footage.frames * width.transient)
    journeys = 1 + ("latents" in moves)  # values come, gradients go
    told = config.data.on_damage == "quarantine"  # whether a clip is whole, a byte each
    numbers = 2 * (ROW_NUMBER + told) * clips
    return {
        "gradients": 2 * elsewhere * FLOAT * moved if gradients == "send" else 0.0,
        "rows": elsewhere * (journeys * clips * row + numbers) + 2 * 8 * (ranks - 1),
        "flags": 2 * elsewhere * FLAGS,
        "handed over": 0.0 if gradients == "send" else elsewhere * FLOAT * moved,
    }


def left_out(config: Config) -> list[str]:
    """What these settings ask for that the model knows nothing of."""
    latents, networks, train = config.latents, config.networks, config.train
    layout = latents.static_key, latents.transient_key
    asked = {
        "sums of `networks.norm=batch` over ranks": networks.norm == "batch",
        "labels of `networks.generator=conditional`": networks.generator == "conditional",
        "`latents.low_rank`": latents.low_rank.rank > 0,
        "rows by anything but `dataset` and `clip`": layout != ("dataset", "clip"),
        "an end by `train.steps`, `train.minutes` or `train.until`": any(
            end is not None for end in (train.steps, train.minutes, train.until)
        ),
    }
    return [what for what, is_asked in asked.items() if is_asked]


def mean_step(
    config: Config, footage: Footage, *, ranks: int, gradients: str = "send"
) -> tuple[float, dict[str, float]]:
    """Operations for a clip, and bytes that a rank sends, of the mean step of a visit: its stages
    move different things."""
    speed = pace(config.schedule)
    flops, sent = 0.0, defaultdict[str, float](float)
    for stage, steps in speed.stages:
        share = steps / speed.visit_steps
        flops += share * flops_per_clip(config, footage, moves=stage.moves)
        found = bytes_per_step(config, footage, ranks=ranks, moves=stage.moves, gradients=gradients)
        for name, count in found.items():
            sent[name] += share * count
    return flops, dict(sent)


def cost(
    config: Config,
    footage: Footage,
    machine: Machine,
    *,
    ranks: int,
    gradients: str = "send",
    gpu: bool = False,
) -> Cost:
    """What a rank of `ranks` does and holds, and how long a pass over the footage takes."""
    speed, width = pace(config.schedule), config.latents
    clips = -(-speed.clips // ranks)  # the rank with the most is waited for
    per_clip, sent = mean_step(config, footage, ranks=ranks, gradients=gradients)
    flops = clips * per_clip
    collectives = 8 if ranks > 1 else 0
    compute = flops / machine.flops + machine.overhead
    # What is handed over is written by one rank and read by another.
    handed = sent["handed over"]
    communication = (sum(sent.values()) - handed) / machine.link + collectives * machine.latency
    communication += 2 * handed / machine.copy
    loading = clips / machine.loader / speed.visit_steps
    # Batches are read ahead; rows and the last gradients are waited for.
    step = max(compute + communication, loading)
    counts = parameter_counts(
        config.networks, static=width.static, transient=width.transient, size=footage.size
    )
    promise = LatentDictionary.promise_bytes(
        width, static_rows=1, transient_rows=footage.clips, frames=footage.frames, world=ranks,
        batch=speed.clips, gpu=gpu,
    )  # fmt: skip
    drawn = min(speed.frames, footage.frames) or footage.frames
    layers = 3 * FLOAT * clips * drawn * (config.networks.channels / 2 + 12) * footage.size**2
    rows = footage.clips * FLOAT * footage.frames * width.transient
    ahead = config.data.prefetch + (MOST_THREADS if gpu else FEW_THREADS) + 1
    return Cost(
        ranks, flops, sent, compute, communication, loading, step,
        memory={
            "networks": (counts["theta"] + counts["gamma"]) * FLOAT * 6,
            "dictionary": promise.device + promise.host,
            "activations": layers / config.train.accumulate,
            "footage read ahead": ahead * clips * 3 * footage.frames * footage.size**2,
        },
        storage={
            "shards": footage.clips * footage.clip_bytes,
            "checkpoint": rows * (2 if width.optimiser == "momentum" else 3),
        },
        hours_per_pass=footage.clips / speed.clips * speed.visit_steps * step / 3600,
        visit_steps=speed.visit_steps,
        passes=speed.passes,
    )  # fmt: skip


def table(costs: list[Cost]) -> str:
    """Markdown: one column for each number of ranks."""
    mib, gib, visit = 2**20, 2**30, costs[0].visit_steps
    rows: dict[str, list[str]] = {
        "compute, GFLOP a rank and step": [f"{c.flops / 1e9:.1f}" for c in costs],
        **{f"{name}, MiB sent a rank and step": [f"{c.bytes[name] / mib:.2f}" for c in costs]
           for name in ("gradients", "rows")},
        "compute, ms": [f"{1e3 * c.compute:.2f}" for c in costs],
        "communication, ms": [f"{1e3 * c.communication:.2f}" for c in costs],
        "loading (beside the rest), ms": [f"{1e3 * c.loading:.2f}" for c in costs],
        "step, ms": [f"{1e3 * c.step:.2f}" for c in costs],
        **({f"visit of {visit} steps, ms": [f"{1e3 * visit * c.step:.2f}" for c in costs]}
           if visit > 1 else {}),
        **{f"{name}, GiB a rank": [f"{c.memory[name] / gib:.2f}" for c in costs]
           for name in costs[0].memory},
        **{f"{name}, GiB in all": [f"{c.storage[name] / gib:.1f}" for c in costs]
           for name in costs[0].storage},
        "hours a pass": [f"{c.hours_per_pass:.3f}" for c in costs],
        f"hours of {costs[0].passes} passes": [
            f"{c.passes * c.hours_per_pass:.1f}" for c in costs
        ],
    }  # fmt: skip
    head = ["", *(f"{c.ranks} ranks" for c in costs)]
    return pages.table(head, [[name, *cells] for name, cells in rows.items()])


def sources_table(known: Constants) -> str:
    """Markdown: every constant, and whether it was measured or assumed."""
    values = {**known.machine._asdict(), "clip_bytes": known.footage.clip_bytes}
    rows = [
        [f"`{name}`", f"{values[name] * UNITS[name][0]:,.4g}", UNITS[name][1], source]
        for name, source in known.sources.items()
    ]
    return pages.table(["constant", "value", "of what", "from"], rows)


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--figures", type=Path, nargs="+", default=[])
    parser.add_argument("--machine", choices=list(MACHINES), default="gpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    pages.option(parser)
    args = parser.parse_args(argv)
    if not pages.ready(args.write, "cost"):
        return 2
    print("about 10 seconds, nothing is run")
    try:
        words = ["preset=golf", "schedule.clips=512", "latents.residence=host", *args.words]
        config = resolve(words)
        known = constants(args.machine, GOLF, read_figures(args.figures))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    costs = [
        cost(config, known.footage, known.machine, ranks=ranks, gpu=args.machine == "gpu")
        for ranks in args.ranks
    ]
    unknown = left_out(config)
    told = [f"Not in these figures: {'; '.join(unknown)}."] if unknown else []
    text = "\n\n".join([sources_table(known), table(costs), *told])
    print(text)
    pages.put(args.write, "cost", text)
    facts = {"machine": known.machine._asdict(), "sources": known.sources, "left_out": unknown}
    print(line("cost", **facts, costs=[c._asdict() for c in costs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
