"""How a trial's training is started: its command line, its environment, what forks it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tuning.nursery import AVAILABLE, Nursery
from tuning.objectives import FIT_STEPS, OBJECTIVES, UNSEEN, needs_vgg
from tuning.records import Record, Settings

ROOT = Path(__file__).resolve().parent.parent
THREADS = "OMP_NUM_THREADS"
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
"""Environment of a program that is to see no GPU."""
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


def evaluation(settings: Settings) -> list[str]:
    """Options of `trainer.evaluate` that give a study's objectives; empty where none needs it."""
    wanted = set(settings.objectives)
    if not any(OBJECTIVES[name].evaluated for name in wanted):
        return []
    # Held-out cells are scored whole; of training videos no more than the objectives ask for.
    options = ["--videos", "500" if wanted & {"mcs", "fcs"} else "1"]
    options += ["--vgg", settings.vgg] if settings.vgg else []
    options += ["--fit", str(FIT_STEPS)] if wanted & set(UNSEEN) else []
    options += [] if needs_vgg(settings.objectives) else ["--no-mcs"]
    return options


def environment(settings: Settings) -> dict[str, str]:
    """Environment of a training or an evaluation: this process's, with the project's packages, and
    as many CPU threads for what does not ask for a number (`trainer.evaluate`). Under a budget of
    cores it sees no GPU, which nobody would be charged for. Nothing is imported from the folder in
    which it runs, the study's."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    hidden = {} if settings.gpus else HIDDEN
    own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", THREADS: str(settings.threads)}
    return {**os.environ, **own, **hidden}


def nursery_for(settings: Settings) -> Nursery | None:
    """What forks the trainings of a study; None where they have several processes."""
    if settings.workers > 1 or not AVAILABLE:
        return None
    more = ["trainer.evaluate"] if evaluation(settings) else []
    # Its own environment counts: torch reads the number of threads when it is imported.
    return Nursery([*MODULES, *more], environment=environment(settings))


def watched(study: Path, trial: str, targets: str, *, address: str = "") -> tuple[str, ...]:
    """Words that make a trial a target of Prometheus, with `study` and `trial` as labels.

    Args:
        targets: folder of its file; empty: it is none.
        address: that its endpoint listens on; empty: what its settings say, or loopback.
    """
    if not targets:
        return ()
    run = f"{study.name}-{trial}"
    return (
        f"telemetry.targets={Path(targets) / run}.json", "telemetry.endpoint=true",
        f"telemetry.labels=run={run},study={study.name},trial={trial}",
        *([f"telemetry.address={address}"] if address else []),
    )  # fmt: skip
