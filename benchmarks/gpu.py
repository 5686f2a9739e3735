"""Clips a second, model FLOP utilisation and the loader's share on a GPU, by way of computing.

    python -m benchmarks.gpu [--steps 100] [--clips 512] [--size 128]

Each row adds one thing to the last: float32, tf32, bf16, torch.compile, footage on the device. Then
three change one thing of that: kernels are deterministic, as trainings have them unless told
otherwise; rows live in host memory and are fetched beside the step before theirs; CUDA graphs.
Footage that is not on the device is decoded beside training, on all cores, as a set that fits
nowhere is. Without a GPU it says so and skips (exit code 0). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.cost import Footage, flops_per_clip
from benchmarks.machine import describe
from data_shards.batch import ClipBatch
from data_shards.stream import Stream
from tests.support.engines import make
from tests.support.footage import tiny_set
from trainer.engine import Engine
from trainer.loop import fetch_ahead
from trainer.schedule import EVERYTHING

WORDS = ("preset=golf", "train.deterministic=false")
WARM = 10


class Way(NamedTuple):
    """A row of the table: settings over those of all rows, and where the footage lies."""

    words: tuple[str, ...]
    resident: bool = False


WAYS: dict[str, Way] = {
    "float32": Way(()),
    "tf32": Way(("train.precision=tf32",)),
    "bf16": Way(("train.precision=bf16",)),
    "bf16, compiled": Way(("train.precision=bf16", "networks.compile=inductor")),
    "bf16, compiled, footage there": Way(
        ("train.precision=bf16", "networks.compile=inductor"), resident=True
    ),
    "the same, deterministic": Way(
        ("train.precision=bf16", "networks.compile=inductor", "train.deterministic=true"),
        resident=True,
    ),
    "the same, rows on the host": Way(
        ("train.precision=bf16", "networks.compile=inductor", "latents.residence=host"),
        resident=True,
    ),
    "bf16, graphs, footage there": Way(
        ("train.precision=bf16", "networks.compile=graphs"), resident=True
    ),
}
HOPPER = {"no": 67e12, "tf32": 495e12, "bf16": 990e12}
AMPERE = {"no": 19.5e12, "tf32": 156e12, "bf16": 312e12}
PEAKS = {
    "NVIDIA H100 80GB HBM3": HOPPER, "NVIDIA H200": HOPPER, "NVIDIA A100-SXM4-40GB": AMPERE,
    "NVIDIA A100-SXM4-80GB": AMPERE, "NVIDIA A100-PCIE-40GB": AMPERE,
    "NVIDIA A100 80GB PCIe": AMPERE,
}  # fmt: skip
"""Dense operations a second by precision, from NVIDIA's data sheets, of what torch calls so."""


def wait_for(device: torch.device) -> None:
    """Until everything that was started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    data: str, words: tuple[str, ...], *, steps: int, resident: bool, base: tuple[str, ...] = WORDS
) -> dict[str, Any]:
    """Clips a second, utilisation and loader share of one way."""
    torch._dynamo.reset()  # or a second batch size would be compiled for any size
    where = () if resident else ("data.cache_mib=0", "data.threads=0")
    made = make(data, (*words, *where), base=base)
    engine, stream = made.engine, made.stream
    if resident:
        stream.to_(engine.ranks.device)
    with deterministic(made.config.train.deterministic):
        batch, seconds, waited = _steps(engine, stream, steps)
    engine.dictionary.close()
    footage = Footage(1, batch.frames_BTCHW.shape[1], batch.frames_BTCHW.shape[-1], 1.0)
    clips = engine.pace.clips * steps
    flops = flops_per_clip(made.config, footage) * clips / seconds
    return {
        "clips_per_second": clips / seconds,
        "flops": flops,
        "utilisation": utilisation(flops, engine.ranks.device, made.config.train.precision),
        "loader_share": waited / seconds,
    }


def utilisation(flops: float, device: torch.device, precision: str) -> float | None:
    """Share of what the device could do at best; None where `PEAKS` does not know it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return flops / PEAKS[name][precision] if name in PEAKS else None


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Torch's kernels in the body are deterministic ones, or are not."""
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _steps(engine: Engine, stream: Stream, steps: int) -> tuple[ClipBatch, float, float]:
    """The last batch of so many steps after `WARM` more, their seconds, those waited for data."""
    waited, start, batch = 0.0, 0.0, next(stream)
    for step in range(WARM + steps):
        if step == WARM:
            wait_for(engine.ranks.device)
            waited, start = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        fetch_ahead(engine, stream, step + 2)
        engine.measure(batch, step=step, moves=EVERYTHING)
        engine.update(step=step, moves=EVERYTHING, factor=1.0)
    wait_for(engine.ranks.device)
    return batch, time.perf_counter() - start, waited


def share(value: float | None) -> str:
    """A share in percent; a question mark where nobody knows it."""
    return "?" if value is None else f"{value:.1%}"


def fit(large: dict[str, Any], clips: int, small: dict[str, Any], fewer: int) -> dict[str, float]:
    """Operations a second and seconds of overhead (`cost.Machine`) that explain two batch sizes."""
    work = large["flops"] / large["clips_per_second"]
    seconds, less = clips / large["clips_per_second"], fewer / small["clips_per_second"]
    slope = max(seconds - less, 1e-9) / (clips - fewer)
    return {"flops": work / slope, "overhead": max(seconds - clips * slope, 0.0)}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*", default=[], help="settings, a.b=c")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("skipped: there is no GPU here (torch.cuda.is_available() is False)")
        print(json.dumps({"benchmark": "gpu", "skipped": "no GPU"}))
        return 0
    print("about 3 minutes")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = tiny_set(Path(folder), identities=48, actions=8, frames=16, size=args.size)
        print("way                               clips/s  TFLOP/s  utilisation  loader")
        for name, way in WAYS.items():
            words = (*way.words, f"schedule.clips={args.clips}", *args.words)
            row = rows[name] = measure(str(data), words, steps=args.steps, resident=way.resident)
            print(
                f"{name:32} {row['clips_per_second']:8.0f} {row['flops'] / 1e12:8.1f} "
                f"{share(row['utilisation']):>11} {share(row['loader_share']):>8}",
                flush=True,
            )
        words = (*way.words, f"schedule.clips={args.clips // 4}", *args.words)
        less = measure(str(data), words, steps=args.steps, resident=way.resident)
    fitted = fit(row, args.clips, less, args.clips // 4)
    print("of the last way: {:.0f} TFLOP/s, and {:.1f} ms of a step that depend on nothing".format(
        fitted["flops"] / 1e12, 1e3 * fitted["overhead"]))  # fmt: skip
    device = torch.cuda.get_device_name()
    print(json.dumps({"benchmark": "gpu", **describe(), "device": device, **fitted, "ways": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
