"""The batch script: settings of a job, and `train.sbatch.j2` filled in with them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from data_shards.errors import UserError

TEMPLATE = "train.sbatch.j2"
DEEPSPEED = Path(__file__).resolve().parents[1] / "deepspeed"
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
PLAIN = re.compile(r"[\w.,:;/%@+=~^-]*", re.ASCII)
"""Values of options that sbatch takes as they stand."""


@dataclass(frozen=True)
class JobConfig:
    """What is asked of the cluster."""

    nodes: int = 1
    """Machines."""
    gpus_per_node: int = 0
    """GPUs of each machine; 0: none."""
    processes_per_node: int = 0
    """Processes on each machine; 0: one per GPU, or one."""
    time: str = "24:00:00"
    """Time limit as SLURM writes it: minutes, H:M:S, D-H:M:S; the run goes on in the next job."""
    cpus_per_task: int = 0
    """Cores of each machine; 0: the cluster's default."""
    memory: str = ""
    """Memory of each machine, such as 200G."""
    partition: str = ""
    """Partition (queue)."""
    account: str = ""
    """Account that pays."""
    signal_seconds: int = 120
    """How long before the time limit the run saves and makes room."""
    retries: int = 3
    """How often in a row, without a new checkpoint, a run that lost a process is queued again."""
    restarts: int = 0
    """How often torchrun starts dead processes again inside one job."""
    zero: int = 0
    """DeepSpeed ZeRO stage, 1 or 2: optimiser states are sharded over the ranks; 0: none."""
    setup: tuple[str, ...] = ()
    """Shell lines before anything else, such as `module load cuda`."""
    venv: str = ""
    """Virtual environment to activate."""
    container: str = ""
    """Image for `apptainer exec`."""
    at_once: int = 0
    """With a sweep: jobs that run at the same time; 0: as many as there is room for."""
    more: tuple[str, ...] = ()
    """Further sbatch options, `qos=high`."""

    def __post_init__(self) -> None:
        least = {"nodes": 1, "gpus_per_node": 0, "processes_per_node": 0, "cpus_per_task": 0,
                 "signal_seconds": 1, "retries": 0, "restarts": 0, "at_once": 0}  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"--{option(name)}: {getattr(self, name)} is below {low}")
        if self.zero not in (0, 1, 2):
            raise UserError(f"--zero: {self.zero} is none of 0, 1, 2")
        if seconds_of(self.time) < 2 * self.signal_seconds:
            raise UserError(
                f"--time: {self.time} is less than twice --signal-seconds {self.signal_seconds}; "
                "the run would only save"
            )
        for text in (self.partition, self.account, self.memory, self.time, *self.more):
            if len(text.split()) > 1:
                raise UserError(f"{text!r}: an sbatch option holds no spaces")


def option(name: str) -> str:
    """How a setting is written on the command line."""
    return name.replace("_", "-")


def quoted(value: object) -> str:
    """A value as an #SBATCH line has it: between double quotes where it is not plain; a backslash
    makes sbatch take the character after it as it is."""
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def seconds_of(time: str) -> int:
    """Seconds of a SLURM time limit.

    Raises:
        UserError: not a time.
    """
    found = TIME.fullmatch(time)
    if not found:
        raise UserError(f"--time: {time!r} is not a time such as 90, 24:00:00 or 2-12:00:00")
    days, *parts = (int(part) if part is not None else None for part in found.groups())
    if days is not None or parts[2] is not None:
        hours, minutes, seconds = (part or 0 for part in parts)
    else:
        hours, (minutes, seconds) = 0, (part or 0 for part in parts[:2])
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def render(
    job: JobConfig,
    *,
    words: Sequence[str] = (),
    sweep: Sequence[Sequence[str]] = (),
    name: str = "navsynth",
    output: Path | None = None,
    folder: Path | None = None,
    plain: bool = False,
) -> str:
    """The batch script.

    Args:
        words: what `trainer.main` is started with; in every job of a sweep, before its own.
        sweep: words of each job of an array.
        output: folder of the log files; without one they lie where SLURM puts them.
        folder: working folder of the job.
        plain: for any user: takes the words as its arguments.
    """
    options = _options(job, len(sweep), name=name, output=output, folder=folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launch.slurm", "."),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    sharding = shlex.quote(str(DEEPSPEED / f"zero{job.zero}.json"))
    zero = [
        "export ACCELERATE_USE_DEEPSPEED=true",
        f"export ACCELERATE_DEEPSPEED_CONFIG_FILE={sharding}",
    ]
    venv = [f"source {shlex.quote(job.venv)}/bin/activate"]
    return environment.get_template(TEMPLATE).render(
        plain=plain,
        options=[(k, v if v is None else quoted(v)) for k, v in options],
        setup=[*job.setup, *(venv if job.venv else []), *(zero if job.zero else [])],
        words=shlex.join(words),
        sweep=[shlex.join([*words, *own]) for own in sweep],
        python=_python(job, plain),
        processes=_processes(job, plain),
        signal_seconds=job.signal_seconds,
        restarts=job.restarts,
        retries=job.retries,
    )


def _options(
    job: JobConfig, array: int, *, name: str, output: Path | None, folder: Path | None
) -> list[tuple[str, Any]]:
    limit = f"%{job.at_once}" if job.at_once else ""
    log = "%A_%a.out" if array else "%j.out"
    table: dict[str, Any] = {
        "job-name": name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": job.cpus_per_task or None,
        "mem": job.memory or None,
        "time": job.time,
        "partition": job.partition or None,
        "account": job.account or None,
        "array": f"0-{array - 1}{limit}" if array else None,
        "signal": f"B:USR1@{job.signal_seconds}",
        "open-mode": "append",
        "output": f"{str(output).replace('%', '%%')}/{log}" if output else None,
        "chdir": folder,
    }
    more = [(word.partition("=")[0], word.partition("=")[2] or None) for word in job.more]
    return [*((k, v) for k, v in table.items() if v is not None), ("requeue", None), *more]


def _python(job: JobConfig, plain: bool) -> str:
    own = "python" if plain or job.venv or job.container else shlex.quote(sys.executable)
    if not job.container:
        return own
    gpu = "--nv " if job.gpus_per_node else ""
    return f'apptainer exec {gpu}--bind "$PWD" {shlex.quote(job.container)} {own}'


def _processes(job: JobConfig, plain: bool) -> str:
    if plain:
        return "${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
    return str(job.processes_per_node or job.gpus_per_node or 1)
