"""How a trial's training is started: its command line, its environment, what forks it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tuning.nursery import AVAILABLE, Nursery
from tuning.objectives import OBJECTIVES
from tuning.records import Record, Settings

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("trainer.main", "trainer.job", "torch._dynamo")
"""What a training imports; torch's optimisers import the last one in their first step, in 3 s."""


def command(study: Path, settings: Settings, record: Record) -> list[str]:
    """The training's command line."""
    launch = [sys.executable, "-m", "trainer.main"]
    if settings.workers > 1:
        launch = [
            sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
            "--config_file", str(ROOT / "accelerate_config.yaml"),
            "--num_processes", str(settings.workers), "--main_process_port", "0",
            str(ROOT / "trainer" / "main.py"),
        ]  # fmt: skip
    return [*launch, "--runs", str(study / "trials"), *record.words]


def environment() -> dict[str, str]:
    """Environment of a training: this process's, with the project's packages."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def nursery_for(settings: Settings) -> Nursery | None:
    """What forks the trainings of a study; None where they have several processes."""
    if settings.workers > 1 or not AVAILABLE:
        return None
    evaluated = any(OBJECTIVES[name].evaluated for name in settings.objectives)
    more = ["trainer.evaluate"] if evaluated else []
    return Nursery([*MODULES, *more], environment=environment())


def watched(study: Path, trial: str, targets: str) -> tuple[str, ...]:
    """Words that make a trial a target of Prometheus, with `study` and `trial` as labels."""
    if not targets:
        return ()
    run = f"{study.name}-{trial}"
    return (
        f"telemetry.targets={Path(targets) / run}.json", "telemetry.endpoint=true",
        f"telemetry.labels=run={run},study={study.name},trial={trial}",
    )  # fmt: skip
