"""SLURM's own commands: hand a script in, ask what became of jobs, signal and cancel them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError

GONE = "gone"
"""State of a job that the controller no longer knows."""
ENDED = frozenset(
    (GONE, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED",
     "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT")
)  # fmt: skip
"""States that a job does not leave by itself; in every other one it runs, waits or comes again."""
FIELDS = "JobID:|,ArrayJobID:|,ArrayTaskID:|,State:|,Reason:|,RestartCnt:|"


class Job(NamedTuple):
    """One job, or one of an array."""

    id: str
    state: str
    """RUNNING, PENDING, COMPLETED ..., or `gone`."""
    reason: str
    restarts: int

    @property
    def alive(self) -> bool:
        """Whether the job runs, or may run yet."""
        return self.state not in ENDED


def call(*command: str) -> str:
    """Output of a SLURM command.

    Raises:
        UserError: there is no SLURM here, or it refused; the last line of what it said is told.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: not found; run this on a machine of the cluster, or look at the script "
            "with --dry-run"
        ) from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise UserError(f"{command[0]}: {told[-1]}")
    return done.stdout


def sbatch(script: Path) -> str:
    """Hand in a batch script; the job's number."""
    return call("sbatch", "--parsable", str(script)).strip().split(";")[0]


def jobs(numbers: Sequence[str]) -> dict[str, list[Job]]:
    """What the controller knows of jobs, by number; an array has an entry for each of its jobs."""
    found: dict[str, list[Job]] = {number: [] for number in numbers}
    if not found:
        return {}
    told = call("squeue", "--noheader", "--array", "--states=all", f"--Format={FIELDS}")
    for line in told.splitlines():
        number, array, task, state, reason, restarts = line.split("|")[:6]
        name = f"{array}_{task}" if task != "N/A" else number
        entry = Job(name, state, reason if reason != "None" else "", int(restarts or 0))
        for key in {number, array, name} & found.keys():
            found[key].append(entry)
    return {n: entries or [Job(n, GONE, "", 0)] for n, entries in found.items()}


def signal(number: str) -> None:
    """Have a running job save and make room."""
    call("scancel", "--batch", "--signal=USR1", number)


def cancel(number: str) -> None:
    """End a job; what runs gets SIGTERM, and SIGKILL after the cluster's KillWait."""
    call("scancel", number)
