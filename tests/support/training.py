"""Tiny trainings for tests: seconds each, real data, real checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from trainer.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "accelerate_config.yaml"

SMALL = (
    "networks.channels=8",
    "networks.hidden=12",
    "latents.static=6",
    "latents.transient=10",
    "schedule.clips=3",
    "schedule.frames=2",
    "optim.curve=constant",
    "train.average=0.9",
    "train.sample_minutes=0",
    "train.log_steps=5",
    "checkpoint.minutes=0",
    "telemetry.endpoint=false",
    "telemetry.log=none",
)

LEAVE = """
if __name__ == "__main__":
    from trainer import main
    from trainer.leaving import ENDINGS, leave
    code = main.main()
    leave(next(ending for ending in ENDINGS if ending.code == code))
"""


def train(runs: Path, data: Path, *words: str, name: str = "run") -> int:
    """Train in this process; returns the exit code."""
    return main(["--runs", str(runs), f"data.manifest={data}", f"name={name}", *SMALL, *words])


def command(
    runs: Path, data: Path, *words: str, name: str = "run", ranks: int = 1, config: Path = CONFIG
) -> list[str]:
    """The command line of the same training, through accelerate where there are ranks."""
    launch = [sys.executable]
    if ranks > 1:
        launch += [
            "-m", "accelerate.commands.accelerate_cli", "launch",
            "--config_file", str(config),
            "--num_processes", str(ranks), "--main_process_port", "0",
        ]  # fmt: skip
    return [
        *launch, str(ROOT / "trainer" / "main.py"), "--runs", str(runs), f"data.manifest={data}",
        f"name={name}", *SMALL, *words,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """One thread a process, this checkout's packages, and no GPU but in tests of the group gpu
    (`tests/conftest.py` hides them)."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launch(
    runs: Path, data: Path, *words: str, name: str = "run", ranks: int = 1, config: Path = CONFIG
):
    """Train in processes of its own; returns the finished `CompletedProcess`."""
    return subprocess.run(
        command(runs, data, *words, name=name, ranks=ranks, config=config),
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def run_script(
    script: Path, text: str, runs: Path, data: Path, *words: str, args=(), ranks: int = 1
):
    """Train by a script that alters the program before it calls `trainer.main`."""
    script.write_text(text + LEAVE)
    line = command(runs, data, *words, ranks=ranks)
    place = next(i for i, word in enumerate(line) if word.endswith("trainer/main.py"))
    return subprocess.run(
        [*line[:place], str(script), *args, *line[place + 1 :]],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def differing(one: dict, other: dict) -> list[str]:
    """Names of tensors that are not the same in two checkpoints."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by file kind and name, whatever ranks wrote it."""
    found = {}
    for path in sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")):
        kind = path.name.split("-")[0] if path.name.startswith("own") else path.stem
        with safe_open(path, framework="pt") as file:
            found |= {f"{kind}/{key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return found
