"""`make train`: demo footage, the main job on this machine's processors, and where to look next.

Run: python -m launch.quickstart [setting=value ...]; the words go to trainer/main.py.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

from data_shards.cores import cores
from data_shards.ending import ended
from launch.children import run_to_end

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path("data/demo")


def launcher(*, processes: int) -> list[str]:
    """The `accelerate launch` command for this many processes on one machine."""
    return [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(ROOT / "accelerate_config.yaml"),
        "--num_processes",
        str(processes),
        "--main_process_port",
        "0",
    ]


@ended
def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code of the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, help="default: the GPUs, or two on a CPU machine")
    parser.add_argument("words", nargs="*", metavar="setting=value", help="for trainer/main.py")
    args = parser.parse_intermixed_args(argv)
    gpus = torch.cuda.device_count()
    processes = args.processes or gpus or min(2, cores())
    env = {**os.environ}
    env.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    env.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")  # else a save has 30 s after Ctrl-C
    prepare = [sys.executable, "-m", "data_shards.prepare", "synthetic", "--out", str(DEMO)]
    words = args.words if any(w.startswith("preset=") for w in args.words) else [
        "preset=demo", f"data.manifest={DEMO}", "name=demo", *args.words,
    ]  # fmt: skip
    train = [*launcher(processes=processes), str(ROOT / "trainer" / "main.py"), *words]
    for command in (prepare, train):
        print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
        code = run_to_end(command, env=env)
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
