"""Trainings as cached runs: `trainer/main.py` in processes of their own, once for equal settings.

A run folder is named after its settings; one that is done is not trained again, one that was
interrupted is resumed by the same command. Several train at a time (`Plan.jobs`), each on its share
of the cores: small networks get more done so than one after the other on all cores.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from data_shards.cores import cores
from data_shards.errors import UserError
from launch.children import run_to_end
from launch.reproduce.context import Context, seeds_on
from launch.reproduce.footage import FootageSet, manifest_of, prepared
from launch.reproduce.planner import Plan
from trainer.commit import read_json
from trainer.config import resolve
from trainer.leaving import DONE, RUN_FILE
from trainer.run import Run
from trainer.settings import to_yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINER = "trainer.main"
ALWAYS = ("telemetry.endpoint=false", "telemetry.log=none", "train.sample_minutes=0",
          "train.pictures=false")  # fmt: skip


class Training(NamedTuple):
    """A training that a stage wants."""

    footage: FootageSet
    """Its preset and its share of the time count."""
    data: Path
    """Prepared set."""
    variant: str
    """Short name of what is special, for people."""
    words: tuple[str, ...] = ()
    """Settings over the preset."""
    seed: int = 0
    steps: int = 0
    """As many as this, where the plan gives minutes; 0: as many as its minutes allow."""


def start_process(module: str, words: list[str], log: Path) -> int:
    """Run a module of the project in a process that ends with this one; returns its exit code."""
    python = [sys.executable, "-m"]
    command = [*python, "tuning.tether", str(os.getpid()), *python, module, *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    with log.open("ab") as file:
        return run_to_end(command, stdout=file, stderr=file, env=env)


def threads_of(plan: Plan) -> int:
    """CPU threads of each training, where several run at a time; 0: all."""
    return max(1, cores() // plan.jobs) if plan.jobs > 1 else 0


def at_once(tasks: Sequence[Callable[[], object]], *, jobs: int) -> None:
    """Run tasks, so many at a time, in their order; the first one that fails ends it, and those
    that have begun are waited for."""
    if jobs == 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def train(context: Context, wanted: Sequence[Training]) -> list[Path]:
    """Folders of finished runs; those that are not finished are trained now, long ones first.

    Raises:
        UserError: a training failed; its log is named.
    """
    named = {_name(context, one): one for one in wanted}
    context.asked.update(named)
    open_ones = [name for name in named if not _finished(context, name)]
    open_ones.sort(key=lambda name: -context.plan.share(named[name].footage.name))

    def task(name: str, number: int) -> Callable[[], None]:
        return lambda: _train(context, name, named[name], f"{number} of {len(open_ones)}")

    tasks = [task(name, number) for number, name in enumerate(open_ones, 1)]
    at_once(tasks, jobs=context.plan.jobs)
    return [context.out / "runs" / _name(context, one) for one in wanted]


def trained(context: Context, *wanted) -> Path:
    """The folder of one finished run, from the fields of a `Training`."""
    return train(context, [Training(*wanted)])[0]


def _settings(context: Context, one: Training) -> list[str]:
    plan = context.plan
    threads = threads_of(plan)
    length = (f"train.steps={one.steps}",) if one.steps else plan.length_on(one.footage.name)
    return [
        f"preset={one.footage.preset}", f"data.manifest={one.data}", f"seed={one.seed}", *ALWAYS,
        *([f"train.threads={threads}"] if threads else []),
        *length, *plan.words, *one.words,  # what an experiment is about comes last, so it holds
    ]  # fmt: skip


def _name(context: Context, one: Training) -> str:
    # Of settings as resolved: a preset or a default that changes is another training.
    facts = to_yaml(resolve(_settings(context, one))) + manifest_of(one.data).fingerprint
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"{one.footage.name}-{one.variant}-s{one.seed}-{digest}"


def _finished(context: Context, name: str) -> bool:
    return read_json(context.out / "runs" / name / RUN_FILE).get("status") == DONE.status


def _train(context: Context, name: str, one: Training, which: str) -> None:
    words = ["--runs", str(context.out / "runs"), f"name={name}", *_settings(context, one)]
    run_logged(context, TRAINER, words, name, which)


def run_logged(context: Context, module: str, words: list[str], name: str, which: str) -> None:
    """Run a module, its output in a log named after what it trains.

    Raises:
        UserError: it failed; the log is named.
    """
    context.asked.add(name)
    log = context.out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"training {name} ({which})\n")  # in one piece: others write too
    code = context.start(module, words, log)
    if code != DONE.code:
        raise UserError(f"{log}: the training of {name} ended with code {code}; see its last lines")


def whole_set(context: Context, footage: FootageSet) -> Path:
    """All videos of a set, the first T frames of each."""
    return prepared(
        footage, out=context.out, name="all", frames=context.plan.frames, size=context.plan.size
    )


def full_models(context: Context, footage: FootageSet) -> list[Training]:
    """The full model on a whole set with each seed, which several stages look at."""
    data = whole_set(context, footage)
    return [Training(footage, data, "full", (), seed) for seed in seeds(context, footage)]


def full_model(context: Context, footage: FootageSet, *, seed: int = 0) -> Path:
    """The run of the full model with one seed."""
    return trained(context, footage, whole_set(context, footage), "full", (), seed)


def minutes_of(run: Run) -> float:
    """Minutes that a finished run trained, over all its lives."""
    return read_json(run.folder / RUN_FILE)["final"]["seconds"] / 60


def length_told(run: Run) -> str:
    """For a card: how long a run trained, in words."""
    return f"{minutes_of(run):.2f} minutes, {run.step} steps"


def loss_told(regression: str) -> str:
    """For a card: what l_rec is, and the paper's where that is another (Sec. 4.2)."""
    text = f"loss.regression={regression}"
    return text if regression == "pyramid" else f"{text} where the paper has the Laplacian pyramid"


def seeds(context: Context, footage: FootageSet) -> Sequence[int]:
    """Seeds of the plan on a data set."""
    return range(seeds_on(footage, context.plan))
