"""Constants of machines and footage for the model of cost, and where each of them comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.errors import UserError


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
    # Arithmetic and overhead as an H200 had them in bf16, compiled, with 512 clips a step: 11.6 of
    # 20.9 ms at work on 1.76 TFLOP. Assumed: one 400 Gb/s link a rank, 16 cores a GPU that decode
    # JPEG.
    "gpu": Machine(1.5e14, 4e10, 3e-5, 2000.0, 9.3e-3),
    # Round numbers for a rank of 2 threads and loopback gloo.
    "cpu": Machine(1.2e11, 1e9, 1e-3, 400.0, 1e-2),
}
EARLIER = {
    "gpu": {
        **dict.fromkeys(("flops", "overhead"), "an H200, docs/scaling.md"),
        "clip_bytes": "bench-ingest, synthetic footage",
    },
    "cpu": {"clip_bytes": "bench-ingest, synthetic footage"},
}
"""What was measured once; all else of `MACHINES` is assumed."""


class Footage(NamedTuple):
    """A prepared set, by its numbers."""

    clips: int
    frames: int
    size: int
    clip_bytes: float
    """Of a stored clip."""


GOLF = Footage(clips=583_508, frames=16, size=128, clip_bytes=170_600)
"""Stored as JPEG; bytes of a clip as bench-ingest found them (docs/scaling.md)."""
UNITS: dict[str, tuple[float, str]] = {
    "flops": (1e-12, "TFLOP/s that a step reaches"),
    "link": (1e-9, "GB/s sent by a rank"),
    "latency": (1e6, "us that a collective takes at least"),
    "loader": (1.0, "clips/s that a rank's loader delivers"),
    "overhead": (1e3, "ms of a step that depend on nothing"),
    "copy": (1e-9, "GB/s into memory that all ranks see"),
    "clip_bytes": (1e-3, "KB of a stored clip"),
}
"""How each constant is shown: times what, and of what."""
TAKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "gpu": {"gpu": ("flops", "overhead"), "stream": ("loader",), "ingest": ("clip_bytes",)},
    "cpu": {
        "scaling": ("link", "latency", "copy", "flops", "overhead"),
        "stream": ("loader",), "ingest": ("clip_bytes",),
    },
}  # fmt: skip
"""By kind of machine and benchmark, what its line of JSON tells. Processes that share the cores of
a machine tell nothing of GPUs, and a GPU nothing of them."""


class Constants(NamedTuple):
    """What the model of cost is fed with."""

    machine: Machine
    footage: Footage
    sources: dict[str, str]
    """By constant: `assumed`, or what measured it."""


def read_figures(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """The last line of each file, the JSON of a benchmark, by the file's name (UserError)."""
    found = {}
    for path in paths:
        try:
            found[str(path)] = dict(json.loads(path.read_text().strip().splitlines()[-1]))
        except (OSError, ValueError, TypeError, IndexError):
            raise UserError(f"{path}: does not end with a line of JSON of a benchmark") from None
    return found


def constants(kind: str, footage: Footage, figures: dict[str, dict[str, Any]]) -> Constants:
    """A machine of `MACHINES` and footage, with what benchmarks found in the place of what was
    assumed.

    Args:
        figures: the benchmarks' lines, by the file that each is from; later ones win.

    Raises:
        UserError: a line that tells nothing of such a machine, or lacks a figure.
    """
    known: dict[str, float] = {}
    sources = dict.fromkeys(UNITS, "assumed") | EARLIER[kind]
    for place, line in figures.items():
        benchmark = line.get("benchmark")
        names = TAKEN[kind].get(str(benchmark))
        if names is None:
            able = ", ".join(f"bench-{name}" for name in TAKEN[kind])
            raise UserError(
                f"{place}: bench-{benchmark} tells nothing of a machine of kind {kind}; {able} do"
            )
        where = line.get("device") or f"{line.get('cores', 'unknown')} cores"
        for name in names:
            known[name] = _figure(line, name, place=place)
            sources[name] = f"measured: bench-{benchmark}, {where}"
        size = line.get("size")
        if "loader" in names and size != footage.size:
            raise UserError(
                f"{place}: clips/s of a loader at {size}x{size}, and the footage has "
                f"{footage.size}x{footage.size}: bench-stream --size {footage.size}"
            )
    clip_bytes = known.pop("clip_bytes", footage.clip_bytes)
    machine = MACHINES[kind]._replace(**known)
    return Constants(machine, footage._replace(clip_bytes=clip_bytes), sources)


def _figure(line: dict[str, Any], name: str, *, place: str) -> float:
    """A positive number out of a benchmark's line; only `overhead` may be nothing (UserError)."""
    try:
        number = float(line[name])
    except (KeyError, TypeError, ValueError):
        why = f" ({line['skipped']})" if "skipped" in line else ""
        raise UserError(f"{place}: has no figure {name!r}{why}") from None
    if not (0 < number < float("inf") or (name == "overhead" and number == 0)):
        raise UserError(f"{place}: {name} is {number}, which no machine has")
    return number
