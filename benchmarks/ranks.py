"""Clips a second of two processes over those of one process with all threads, through the main job.

Run: make bench-ranks [ARGS="--rounds 3 --seconds 30 --write docs/scaling.md"]
For whole clips and for the default schedule, with gradients sent and in shared memory; runs
alternate. Ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import pages
from benchmarks.machine import line
from data_shards.cores import cores
from launch.quickstart import launcher

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "whole clips (4 clips of 16 frames)": ("schedule.clips=4", "schedule.frames=0"),
    "`fast` (1 frame of 8 clips)": (),
}
WAYS = {"alone": (1, ()), "send": (2, ("train.gradients=send",)),
        "memory": (2, ("train.gradients=memory",))}  # fmt: skip
"""Processes and settings of each of the trainings that alternate."""


def clips_per_second(processes: int, words: tuple[str, ...], folder: Path, seconds: float) -> float:
    """Median over the logged intervals of one training, the first ones left out."""
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // processes))}
    name = f"run-{len(list((folder / 'runs').glob('*')))}"
    start = [sys.executable] if processes == 1 else launcher(processes=processes)
    subprocess.run(
        [*start, str(ROOT / "trainer" / "main.py"), "--runs", str(folder / "runs"),
         f"data.manifest={folder / 'data'}", f"name={name}", "preset=weizmann",
         "latents.static_key=video", "latents.transient_key=video", "train.log_steps=10",
         f"train.minutes={seconds / 60}", "train.sample_minutes=0", "checkpoint.minutes=0",
         *words],
        check=True, env=env, capture_output=True,
    )  # fmt: skip
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["clips_per_second"] for line in lines]
    return statistics.median(speeds[2:-1] or speeds)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of each training")
    pages.option(parser)
    args = parser.parse_args(argv)
    if not pages.ready(args.write, "ranks"):
        return 2
    total = len(SHAPES) * args.rounds * len(WAYS) * (args.seconds + 15)
    print(f"bench-ranks: about {total / 60:.0f} minutes", flush=True)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare = [sys.executable, "-m", "data_shards.prepare", "synthetic"]
        subprocess.run([*prepare, "--out", str(folder / "data")], check=True, capture_output=True)
        for shape, words in SHAPES.items():
            made = [
                {way: clips_per_second(n, (*words, *more), folder, args.seconds)
                 for way, (n, more) in WAYS.items()}
                for _ in range(args.rounds)
            ]  # fmt: skip
            figures[shape] = {"clips/s": statistics.median(each["alone"] for each in made)} | {
                way: statistics.median(each[way] / each["alone"] for each in made)
                for way in ("send", "memory")
            }
    text = as_table(figures)
    print(text)
    pages.put(args.write, "ranks", text)
    print(line("ranks", figures=figures))
    return 0


def as_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown: one process's clips a second, and the share of it that two reach each way."""
    rows = [
        [shape, f"{found['clips/s']:.1f}", f"{found['send']:.2f}", f"{found['memory']:.2f}"]
        for shape, found in figures.items()
    ]
    head = ["step", "clips/s of one process", "two, gloo and DDP", "two, shared memory"]
    return pages.table(head, rows)


if __name__ == "__main__":
    raise SystemExit(main())
