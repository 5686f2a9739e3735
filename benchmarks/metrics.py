"""What telemetry costs: its share of training time, and scrapes of an endpoint with 64 ranks.

Run: make bench-metrics [ARGS="--steps 400"]
Targets: at most 0.5 % of step time; p99 of a scrape at most 10 ms. Ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks.machine import line
from trainer.endpoint import Endpoint, Values
from trainer.journal import read
from trainer.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS

SHARE, P99_MS = 0.005, 10.0
TAKES = {
    "phase": ("all", "data", "rows", "forward", "backward", "communication", "optimiser"),
    "where": ("process", "gpu"),
    "table": ("static", "transient"),
    "stat": ("min", "median", "max"),
    "cause": ("training", "data", "checkpoint", "evaluation", "restart", "idle"),
    "term": ("total", "rec", "static", "triplet"),
    "group": ("gamma", "theta", "latents"),
    "kind": ("sum", "max", "gather", "exchange", "broadcast", "gradients", "weights"),
    "outcome": ("committed", "failed"),
    "score": ("psnr", "psnr_worst", "psnr_sample", "ssim", "fcs", "mcs"),
}
"""Values that labels take; labels of `_info` take one."""


def crowded(ranks: int) -> Values:
    """Values of every metric, for so many ranks."""
    values = Values()
    for metric in METRICS:
        combinations: list[dict[str, object]] = [{}]
        for label in metric.labels:
            found = range(ranks) if label == "rank" else TAKES.get(label, ("text",))
            combinations = [{**known, label: value} for known in combinations for value in found]
        write = {COUNTER: values.add, GAUGE: values.set, HISTOGRAM: values.observe}[metric.kind]
        for labels in combinations:
            write(metric.name, 0.123456789, **labels)
    return values


def scrape(ranks: int, *, seconds: float) -> dict[str, float]:
    """Milliseconds of scrapes, while another thread goes on writing values as training does."""
    values = crowded(ranks)
    endpoint = Endpoint(values, address="127.0.0.1", port=0)
    url, took, size = f"http://127.0.0.1:{endpoint.port}/metrics", [], 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 20:
        start = time.perf_counter()
        with urllib.request.urlopen(url) as answer:
            size = len(answer.read())
        took.append(1e3 * (time.perf_counter() - start))
        values.observe("navsynth_step_seconds", 0.1, phase="all")
    endpoint.close()
    median, p99 = np.percentile(took[5:], [50, 99])
    return {"scrapes": len(took), "median_ms": median, "p99_ms": p99, "bytes": size}


def training(steps: int, folder: Path) -> dict[str, float]:
    """Share of a training's time that went into telemetry, as the run itself counts it."""
    prepare = ["-m", "data_shards.prepare", "synthetic", "--out", str(folder / "data")]
    train = [
        "-m", "trainer.main", "--runs", str(folder), "name=run", "preset=weizmann",
        f"data.manifest={folder / 'data'}", f"train.steps={steps}", "telemetry.log=lines",
        "latents.static_key=video", "latents.transient_key=video",
    ]  # fmt: skip
    for words in (prepare, train):
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
    last = list(read(folder / "run" / "metrics.jsonl"))[-1]
    return {
        "steps": steps,
        "seconds": last["seconds"],
        "share": last["telemetry/seconds"] / last["seconds"],
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of the training")
    parser.add_argument("--seconds", type=float, default=10, help="of scraping")
    args = parser.parse_args(argv)
    print(f"bench-metrics: about {60 + args.seconds:.0f} seconds", flush=True)
    scraped = scrape(64, seconds=args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        trained = training(args.steps, Path(folder))
    print(f"telemetry: {trained['share']:.3%} of training time (target {SHARE:.1%})")
    print(f"scrape, 64 ranks: p99 {scraped['p99_ms']:.1f} ms (target {P99_MS:.0f} ms)")
    print(line("metrics", figures={"training": trained, "scrape": scraped}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
