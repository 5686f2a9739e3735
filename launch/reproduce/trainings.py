"""Trainings as cached runs: `trainer/main.py` in a process of its own, once for equal settings.

A run folder is named after its settings; one that is done is not trained again, one that was
interrupted is resumed by the same command.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_shards.errors import UserError
from launch.reproduce.context import Context
from launch.reproduce.footage import FootageSet, manifest_of, prepared
from trainer.commit import read_json
from trainer.leaving import DONE, RUN_FILE

ROOT = Path(__file__).resolve().parent.parent.parent
ALWAYS = ("telemetry.endpoint=false", "telemetry.log=none", "train.sample_minutes=0",
          "train.pictures=false")  # fmt: skip


def start_process(words: list[str], log: Path) -> int:
    """Train in a process of its own; returns its exit code."""
    command = [sys.executable, str(ROOT / "trainer" / "main.py"), *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    with log.open("ab") as file:
        return subprocess.run(command, stdout=file, stderr=file, env=env, check=False).returncode


def trained(
    context: Context, footage: FootageSet, data: Path, variant: str, *words: str, seed: int = 0
) -> Path:
    """The folder of a finished run, trained now unless it was before.

    Args:
        context: of the reproduction.
        footage: the data set; its preset counts.
        data: prepared set.
        variant: short name of what is special, for people.
        words: settings over the preset.
        seed: of the run.

    Raises:
        UserError: the training failed; its log is named.
    """
    settings = [
        f"preset={footage.preset}", f"data.manifest={data}", f"seed={seed}", *ALWAYS,
        *context.plan.length(), *words, *context.plan.words,
    ]  # fmt: skip
    facts = "\n".join([*settings, manifest_of(data).fingerprint])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    name = f"{footage.name}-{variant}-s{seed}-{digest}"
    folder, log = context.out / "runs" / name, context.out / "logs" / f"{name}.log"
    if read_json(folder / RUN_FILE).get("status") == DONE.status:
        return folder
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"training {name}", file=sys.stderr, flush=True)
    code = context.start(["--runs", str(context.out / "runs"), f"name={name}", *settings], log)
    if code != DONE.code:
        raise UserError(f"{log}: the training of {name} ended with code {code}; see its last lines")
    return folder


def whole_set(context: Context, footage: FootageSet) -> Path:
    """All videos of a set, the first T frames of each."""
    return prepared(
        footage, out=context.out, name="all", frames=context.plan.frames, size=context.plan.size
    )


def full_model(context: Context, footage: FootageSet, *, seed: int = 0) -> Path:
    """The run of the full model on a whole set, which several stages look at."""
    return trained(context, footage, whole_set(context, footage), "full", seed=seed)


def seeds(context: Context) -> Sequence[int]:
    """Seeds of the plan."""
    return range(context.plan.seeds)
