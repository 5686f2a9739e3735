"""What a search costs beside its trainings, how exact its ledger is, and whether it beats chance.

Run: make bench-tuning [ARGS="--trials 8 --steps 400 --kills 20 --seeds 3 --manifest DIR"]
Prints search overhead (share of the wall time in which no trial held an accelerator), the ledger's
error over kills of random moments in report intervals, and the best PSNR of optuna and of random
search under the same ledger, by seed; ends with a line of JSON. Defaults are tiny.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from tuning.ledger import Ledger
from tuning.outcome import best
from tuning.records import read_records

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from tuning.ledger import Ledger
ledger, interval, begun = Ledger(sys.argv[1]), float(sys.argv[2]), time.monotonic()
while True:
    held = time.monotonic() - begun
    ledger.hold(sys.argv[3], trial="t", width=1, until=held + interval)
    print(held, flush=True)
    time.sleep(interval / 2)
"""


def searched(data: str, out: Path, *, searcher: str, seed: int, args: Any) -> dict[str, float]:
    """One search: its wall time, what its trials held, and its best PSNR."""
    line = [
        sys.executable, str(ROOT / "tuning" / "search.py"), "--manifest", data, "--out", str(out),
        "--cpu-hours", str(args.cpu_hours), "--trials", str(args.trials), "--steps",
        str(args.steps), "--searcher", searcher, "--seed", str(seed), "--max-concurrent", "1",
        "--interval", "2", *args.words,
    ]  # fmt: skip
    begun = time.monotonic()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    wall, held = time.monotonic() - begun, Ledger(out).account().spent
    winner = best(read_records(out), ("psnr",))
    return {"wall": wall, "held": held, "overhead": 1 - held / wall,
            "psnr": winner.scores["psnr"] if winner else float("-inf")}  # fmt: skip


def ledger_error(folder: Path, *, interval: float, seed: int) -> float:
    """Charged minus held, in intervals, after a holder is killed with -9 at a random moment."""
    ledger = Ledger(folder)
    ledger.grant(1e6)
    words = [sys.executable, "-c", HOLDER, str(folder), str(interval), str(seed)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        begun = time.monotonic()
        time.sleep(random.Random(seed).uniform(0, 3 * interval))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        held = time.monotonic() - begun
    ledger.settle()
    charged = ledger.account().leases[str(seed)].cost
    return (charged - held) / interval


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", default=["networks.channels=16", "networks.hidden=64"])
    parser.add_argument("--manifest", help="default: synthetic footage")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cpu-hours", type=float, default=0.5)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_intermixed_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = args.manifest
        if data is None:
            data = str(Path(folder) / "data")
            prepare = [sys.executable, "-m", "data_shards.prepare", "synthetic", "--out", data]
            subprocess.run(prepare, check=True, capture_output=True)
        errors = [
            ledger_error(Path(folder) / "kills", interval=0.5, seed=seed)
            for seed in range(args.kills)
        ]
        runs = {
            f"{searcher}-{seed}": searched(
                data, Path(folder) / f"{searcher}-{seed}", searcher=searcher, seed=seed, args=args
            )
            for searcher in ("optuna", "random")
            for seed in range(args.seeds)
        }
    for name, figures in runs.items():
        print(f"{name:<12}" + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(f"ledger error over {len(errors)} kills: at most {max(map(abs, errors)):.2f} intervals")
    print(json.dumps({"bench": "tuning", **describe(), "ledger_intervals": errors, "runs": runs}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
