"""A training step beside the machine's GEMM peak: whole clips, and the default `fast` schedule.

Run: make bench-step [ARGS="--seconds 20"]
Prints clips/s, frames/s, GFLOP/s and the share of every part; ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import describe, gemm_peak
from data_shards.stream import Stream, open_manifest
from trainer import schedule, setup
from trainer.config import Config, resolve
from trainer.engine import Engine
from trainer.loop import length
from trainer.objective import REGRESSIONS
from trainer.parallel import start

SHAPES = {
    "whole clips": ("schedule.clips=4", "schedule.frames=0"),
    "fast": (),
}


def generator_flop(engine: Engine, frames: int) -> float:
    """FLOP of the generator's forward pass on `frames` frames: two per weight and position."""
    total, size = 2.0 * engine.networks.generator.first.weight.numel(), 4
    for layer in engine.networks.generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            total += 2.0 * layer.weight.numel() * size * size
            size *= 2
    return total * frames


def build(words: tuple[str, ...], data: Path) -> tuple[Config, Engine, Stream]:
    """Engine and stream of one process."""
    config = resolve([f"data.manifest={data}", "preset=weizmann", "latents.static_key=video",
                      "latents.transient_key=video", *words])  # fmt: skip
    opened = open_manifest(config.data.manifest, config=config.data)
    ranks = start(threads=0, precision="no", timeout_seconds=60)
    networks = setup.build_networks(config, opened.manifest)
    dictionary = setup.build_dictionary(config, opened.manifest, opened.table, comm=ranks.comm)
    engine = Engine(config, ranks=ranks, networks=networks, dictionary=dictionary)
    assert length(config, opened.manifest.clips)
    return config, engine, Stream(opened, config.data, seed=0, batch=engine.pace.clips)


def generator_only(engine: Engine, frames: int) -> float:
    """Seconds of the generator's forward and backward pass on `frames` frames."""
    width = engine.networks.generator.first.in_features
    latent = torch.randn(frames, width, requires_grad=True)
    begun = time.perf_counter()
    images = engine.networks.generator(latent)
    images.backward(torch.ones_like(images))
    return time.perf_counter() - begun


def measure(words: tuple[str, ...], data: Path, *, seconds: float) -> dict[str, float | dict]:
    """Times of full steps and of the generator alone, in turns; medians."""
    config, engine, stream = build(words, data)
    moves = schedule.EVERYTHING
    whole, alone, step, begun = [], [], 0, time.perf_counter()
    assert config.loss.regression in REGRESSIONS
    while time.perf_counter() - begun < seconds or step < 6:
        start_step = time.perf_counter()
        with engine.phases("data"):
            batch = next(stream)
        engine.measure(batch, step=step, moves=moves)
        engine.update(step=step, moves=moves, factor=0.5)
        whole.append(time.perf_counter() - start_step)
        if step == 2:  # the first steps warm caches and allocate
            whole.clear()
            alone.clear()
            engine.phases.take()
        alone.append(generator_only(engine, engine.frames))
        step += 1
    parts = engine.phases.take()
    full, generator = statistics.median(whole), statistics.median(alone)
    flop = 3 * generator_flop(engine, engine.frames)
    total = sum(parts.values())
    return {
        "step_ms": 1e3 * full,
        "generator_ms": 1e3 * generator,
        "rest_over_generator": full / generator - 1,
        "generator_gflops": flop / generator / 1e9,
        "step_gflops": flop / full / 1e9,
        "clips_per_second": engine.pace.clips / full,
        "frames_per_second": engine.frames / full,
        "shares": {name: round(spent / total, 4) for name, spent in parts.items()},
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of each shape")
    args = parser.parse_args(argv)
    print(f"bench-step: about {len(SHAPES) * args.seconds + 10:.0f} seconds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare = [sys.executable, "-m", "data_shards.prepare", "synthetic", "--out", str(data)]
        subprocess.run(prepare, check=True, capture_output=True)
        figures = {
            name: measure(words, data, seconds=args.seconds) for name, words in SHAPES.items()
        }
    peak = gemm_peak()
    for name, figure in figures.items():
        figure["generator_share_of_peak"] = figure["generator_gflops"] / peak  # type: ignore
        print(f"\n{name}")
        for key, value in figure.items():
            print(f"  {key:<26}{value if isinstance(value, dict) else f'{value:.3f}'}")
    print(f"\nGEMM peak of this machine, float32: {peak:.0f} GFLOP/s")
    print(json.dumps({"bench": "step", **describe(), "gemm_gflops": peak, "figures": figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
