"""Clips a second of two processes over those of one process with all threads, through the main job.

Run: make bench-ranks [ARGS="--pairs 3 --seconds 30"]
For whole clips and for the default schedule; runs alternate. Ends with a line of JSON.
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

from benchmarks.machine import line
from data_shards.cores import cores
from launch.quickstart import launcher

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {"whole clips": ("schedule.clips=4", "schedule.frames=0"), "fast": ()}


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
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of each training")
    args = parser.parse_args(argv)
    total = len(SHAPES) * args.pairs * 2 * (args.seconds + 15)
    print(f"bench-ranks: about {total / 60:.0f} minutes", flush=True)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare = [sys.executable, "-m", "data_shards.prepare", "synthetic"]
        subprocess.run([*prepare, "--out", str(folder / "data")], check=True, capture_output=True)
        for shape, words in SHAPES.items():
            pairs = [
                [clips_per_second(n, words, folder, args.seconds) for n in (1, 2)]
                for _ in range(args.pairs)
            ]
            figures[shape] = {
                "one": statistics.median(one for one, _ in pairs),
                "two": statistics.median(two for _, two in pairs),
                "ratio": statistics.median(two / one for one, two in pairs),
            }
            print(shape, {key: round(value, 3) for key, value in figures[shape].items()})
    print(line("ranks", figures=figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
