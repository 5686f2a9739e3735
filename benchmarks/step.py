"""A training step beside the machine's GEMM peak: whole clips, and the default `fast` schedule.

Run: make bench-step [ARGS="--seconds 20"]
Prints clips/s, frames/s, GFLOP/s and the share of every part; ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import gemm_peak, line
from data_shards.batch import ClipBatch
from data_shards.stream import Stream, open_manifest
from trainer import objective, schedule, setup
from trainer.config import Config, resolve
from trainer.draws import draw
from trainer.engine import Engine
from trainer.loop import length
from trainer.parallel import start

SHARE, REST = 0.60, 0.25
"""Of the GEMM peak for the generator; of the generator's time for everything else."""
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


def part_seconds(engine: Engine, batch: ClipBatch, step: int) -> dict[str, float]:
    """Seconds of the RNN's and the losses' forward and backward passes, each by itself."""
    config, pace = engine.config, engine.pace
    codes_BTM = torch.randn(pace.clips, batch.frames_BTCHW.shape[1], config.latents.transient)
    begun = time.perf_counter()
    motion_BTM = engine.networks.motion(codes_BTM.requires_grad_())
    motion_BTM.sum().backward()
    rnn = time.perf_counter() - begun
    choice = draw(
        batch.slot_B, seed=0, step=step, batch=pace.clips, frames=codes_BTM.shape[1],
        drawn=pace.frames, radius=config.loss.radius, gap=config.loss.gap,
    )  # fmt: skip
    shape = (pace.clips, pace.frames or codes_BTM.shape[1], *batch.frames_BTCHW.shape[2:])
    real, fake = torch.rand(shape), torch.rand(shape).requires_grad_()
    codes = motion_BTM.detach().requires_grad_()
    begun = time.perf_counter()
    terms = objective.terms(
        fake, real, codes, choice, batch.valid_B, config=config.loss, batch=pace.clips
    )
    terms.total.backward()
    return {"rnn": rnn, "losses": time.perf_counter() - begun}


def missed(figures: dict[str, dict]) -> list[str]:
    """Targets that whole clips miss."""
    whole = figures["whole clips"]
    found = {
        f"generator at {SHARE:.0%} of the GEMM peak": whole["generator_share_of_peak"] >= SHARE,
        f"all else at most {REST:.0%} on top": whole["rest_over_generator"] <= REST,
    }
    return [target for target, met in found.items() if not met]


def measure(words: tuple[str, ...], data: Path, *, seconds: float) -> dict[str, float | dict]:
    """Times of full steps and of the generator alone, in turns; medians."""
    _, engine, stream = build(words, data)
    moves = schedule.EVERYTHING
    whole, alone, parts, step, begun = [], [], [], 0, time.perf_counter()
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
            parts.clear()
            engine.phases.take()
        alone.append(generator_only(engine, engine.frames))
        parts.append(part_seconds(engine, batch, step))
        step += 1
    spent = {name: total / len(whole) for name, total in engine.phases.take().items()}
    full, generator = statistics.median(whole), statistics.median(alone)
    flop = 3 * generator_flop(engine, engine.frames)
    shares = {name: statistics.median(p[name] for p in parts) for name in ("rnn", "losses")}
    shares |= {
        "generator": generator,
        "dictionary": spent["rows"] + spent["projection"],
        "optimiser": spent["optimiser"],
        "loader": spent["data"],
    }
    return {
        "step_ms": 1e3 * full,
        "generator_ms": 1e3 * generator,
        "rest_over_generator": full / generator - 1,
        "generator_gflops": flop / generator / 1e9,
        "step_gflops": flop / full / 1e9,
        "clips_per_second": engine.pace.clips / full,
        "frames_per_second": engine.frames / full,
        "shares": {name: round(seconds / full, 4) for name, seconds in shares.items()},
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 1 where a target is missed."""
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
    short = missed(figures)
    print(line("step", gemm_gflops=peak, figures=figures, missed=short))
    return int(bool(short))


if __name__ == "__main__":
    raise SystemExit(main())
