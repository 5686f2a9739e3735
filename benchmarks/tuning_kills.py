"""How exact the ledger is when a search dies: real kills of driver, worker and raylet.

Used by `benchmarks.tuning`. What was held is seen from outside: from the moment at which a lease is
in the ledger until the training's process is gone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trainer.commit import committed
from tuning import processes
from tuning.engine import clear_up
from tuning.ledger import Ledger
from tuning.records import folder_of, read_records

VICTIMS = ("driver", "worker", "raylet")
INTERVAL = 5.0
PATIENCE = 180.0


class Kill(NamedTuple):
    """One kill: who, what the lease was charged and what it held (seconds), and the checkpoint that
    the next life begins at."""

    victim: str
    charged: float
    held: float
    step: int


def parent_of(pid: int) -> int:
    """Pid of a process's parent."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


def raylet_below(pid: int) -> int:
    """Pid of the raylet that a driver has started."""
    for known in processes.descendants(pid):
        if b"raylet/raylet" in Path(f"/proc/{known.pid}/cmdline").read_bytes().split(b"\0")[0]:
            return known.pid
    raise RuntimeError("no raylet below the driver")


def until(found: Callable[[], Any], what: str) -> Any:
    """What `found` returns once that is true."""
    over = time.monotonic() + PATIENCE
    while not (seen := found()):
        if time.monotonic() > over:
            raise RuntimeError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.02)
    return seen


def training(study: Path, known: set[str]) -> tuple[str, processes.Process] | None:
    """A lease that is not known yet, and its training once that runs."""
    account = Ledger(study).account()
    fresh = [name for name in account.open() if name not in known]
    for record in read_records(study) if fresh else ():
        if record.process and record.id == account.leases[fresh[0]].trial:
            process = processes.Process(*record.process)
            if processes.alive(process) and steps(study, record.id):
                return fresh[0], process
    return None


def steps(study: Path, trial: str) -> bool:
    """Whether a trial's training has logged a step: its metrics are younger than its process."""
    metrics, told = (folder_of(study, trial) / name for name in ("metrics.jsonl", "trial.json"))
    return metrics.is_file() and metrics.stat().st_mtime > told.stat().st_mtime


def kill_once(line: list[str], study: Path, *, number: int, log: Path) -> Kill:
    """Start or go on with a search, kill a part of it at a random moment, and settle."""
    draw = random.Random(number)
    victim = VICTIMS[number % len(VICTIMS)]
    known = set(Ledger(study).account().leases) if study.exists() else set()
    with log.open("ab") as out:
        driver = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        fresh = lambda: study.exists() and set(Ledger(study).account().leases) - known  # noqa: E731
        until(fresh, "a lease")
        begun = time.monotonic()
        lease, process = until(lambda: training(study, known), "a training")
        time.sleep(draw.uniform(0, 2 * INTERVAL))
        worker = parent_of(parent_of(process.pid))
        target = {"driver": driver.pid, "worker": worker, "raylet": raylet_below(driver.pid)}
        os.kill(target[victim], signal.SIGKILL)
        until(lambda: not processes.alive(process), "the end of the training")
        held = time.monotonic() - begun
    finally:
        driver.kill()
        driver.wait()
    clear_up(study)
    saved = [committed(folder_of(study, r.id) / "checkpoints") for r in read_records(study)]
    step = max((found[-1] for found in saved if found), default=0)
    return Kill(victim, Ledger(study).account().leases[lease].cost, held, step)
