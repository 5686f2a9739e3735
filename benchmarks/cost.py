"""A model of what a training costs on W ranks: compute, bytes per link, memory, storage, hours.

    python -m benchmarks.cost [--figures FILE ...] [preset=golf schedule.clips=512 ...]

Prints the table of docs/scaling.md for the full golf set on 8 and 64 GPUs; ends with one line of
JSON. Constants of a machine are a row of `MACHINES`; `--figures` takes the JSON lines that the
other benchmarks end with and puts what they measured in the place of what was assumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_shards.errors import UserError
from trainer.config import Config, resolve
from trainer.latents import LatentDictionary
from trainer.networks import NavSynth, parameter_counts
from trainer.schedule import EVERYTHING, pace

FLOAT, ROW_NUMBER, FLAGS = 4, 8, 6 * 8


class Machine(NamedTuple):
    """Constants of one kind of machine, per rank."""

    flops: float
    """Floating-point operations a second that a step reaches (not the peak)."""
    link: float
    """Bytes a second that a rank sends."""
    latency: float
    """Seconds that a collective takes at least."""
    loader: float
    """Clips a second that a rank's loader delivers."""
    overhead: float
    """Seconds of a step that depend on nothing."""
    copy: float = 4e9
    """Bytes a second that a rank writes into, or reads from, memory which all ranks see."""


MACHINES: dict[str, Machine] = {
    # Arithmetic and overhead as an H200 had them in bf16 with 512 clips a step: 11.6 of 20.9 ms at
    # work on 1.76 TFLOP. Assumed: one 400 Gb/s link a rank, 16 cores a GPU that decode JPEG.
    "gpu": Machine(1.5e14, 4e10, 3e-5, 2000.0, 9.3e-3),
    # 2 threads of the CPU machine of docs/scaling.md; loopback gloo.
    "cpu": Machine(1.2e11, 1e9, 1e-3, 400.0, 1e-2),
}


class Footage(NamedTuple):
    """A prepared set, by its numbers."""

    clips: int
    frames: int
    size: int
    clip_bytes: float
    """Of a stored clip."""


GOLF = Footage(clips=583_508, frames=16, size=128, clip_bytes=60_000)


class Cost(NamedTuple):
    """What one rank of W does and holds. Seconds are of a step."""

    ranks: int
    flops: float
    bytes: dict[str, float]
    compute: float
    communication: float
    loading: float
    step: float
    memory: dict[str, float]
    storage: dict[str, float]
    hours_per_pass: float
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


def cost(
    config: Config, footage: Footage, machine: Machine, *, ranks: int, gradients: str = "send"
) -> Cost:
    """What a rank of `ranks` does and holds, and how long a pass over the footage takes."""
    speed, width = pace(config.schedule), config.latents
    clips = speed.clips / ranks
    flops = clips * flops_per_clip(config, footage)
    sent = bytes_per_step(config, footage, ranks=ranks, gradients=gradients)
    collectives = 8 if ranks > 1 else 0
    compute = flops / machine.flops + machine.overhead
    # What is handed over is written by one rank and read by another.
    handed = sent["handed over"]
    communication = (sum(sent.values()) - handed) / machine.link + collectives * machine.latency
    communication += 2 * handed / machine.copy
    loading = clips / machine.loader
    # Batches are read ahead; rows and the last gradients are waited for.
    step = max(compute + communication, loading)
    counts = parameter_counts(
        config.networks, static=width.static, transient=width.transient, size=footage.size
    )
    promise = LatentDictionary.promise_bytes(
        width, static_rows=1, transient_rows=footage.clips, frames=footage.frames, world=ranks,
        batch=speed.clips, gpu=True,
    )  # fmt: skip
    drawn = min(speed.frames, footage.frames) or footage.frames
    layers = 3 * FLOAT * clips * drawn * (config.networks.channels / 2 + 12) * footage.size**2
    rows = footage.clips * FLOAT * footage.frames * width.transient
    return Cost(
        ranks, flops, sent, compute, communication, loading, step,
        memory={
            "networks": (counts["theta"] + counts["gamma"]) * FLOAT * 6,
            "dictionary": promise.device + promise.host,
            "activations": layers / config.train.accumulate,
            "footage read ahead": clips * 3 * footage.frames * footage.size**2 * 4,
        },
        storage={
            "shards": footage.clips * footage.clip_bytes,
            "checkpoint": rows * (2 if width.optimiser == "momentum" else 3),
        },
        hours_per_pass=footage.clips / speed.clips * step / 3600,
        passes=speed.passes,
    )  # fmt: skip


def measured(
    machine: Machine, footage: Footage, lines: list[dict[str, Any]]
) -> tuple[Machine, Footage]:
    """A machine and footage with what benchmarks found in the place of what was assumed."""
    for line in lines:
        known = {key: float(line[key]) for key in Machine._fields if line.get(key)}
        machine = machine._replace(**known)
        footage = footage._replace(clip_bytes=float(line.get("clip_bytes", footage.clip_bytes)))
    return machine, footage


def read_figures(paths: list[Path]) -> list[dict[str, Any]]:
    """The last line of each file, which a benchmark wrote as JSON (UserError)."""
    found = []
    for path in paths:
        try:
            found.append(json.loads(path.read_text().strip().splitlines()[-1]))
        except (OSError, ValueError, IndexError):
            raise UserError(f"{path}: does not end with a line of JSON of a benchmark") from None
    return found


def table(costs: list[Cost]) -> str:
    """Markdown: one column for each number of ranks."""
    mib, gib = 2**20, 2**30
    rows: dict[str, list[str]] = {
        "compute, GFLOP a rank and step": [f"{c.flops / 1e9:.1f}" for c in costs],
        **{f"{name}, MiB sent a rank and step": [f"{c.bytes[name] / mib:.2f}" for c in costs]
           for name in ("gradients", "rows")},
        "compute, ms": [f"{1e3 * c.compute:.2f}" for c in costs],
        "communication, ms": [f"{1e3 * c.communication:.2f}" for c in costs],
        "loading (beside the rest), ms": [f"{1e3 * c.loading:.2f}" for c in costs],
        "step, ms": [f"{1e3 * c.step:.2f}" for c in costs],
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
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--figures", type=Path, nargs="+", default=[])
    parser.add_argument("--machine", choices=list(MACHINES), default="gpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    args = parser.parse_args(argv)
    print("about 10 seconds, nothing is run")
    try:
        words = ["preset=golf", "schedule.clips=512", "latents.residence=host", *args.words]
        config = resolve(words)
        lines = read_figures(args.figures)
        machine, footage = measured(MACHINES[args.machine], GOLF, lines)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    costs = [cost(config, footage, machine, ranks=ranks) for ranks in args.ranks]
    print(table(costs))
    figures = {"machine": machine._asdict(), "costs": [c._asdict() for c in costs]}
    print(json.dumps({"benchmark": "cost", **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
