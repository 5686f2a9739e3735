"""What a run folder keeps of the lives of a run: starts, how each ended, what was refused.

`run.json` has the state of the newest life; why an earlier one ended is moved to its `events`. A
start that is refused before it has the folder (a mistake of the user, another job at work there)
must not touch `run.json`: under SLURM it says so in a file of its own, which
`launch.slurm.inside.verdict` reads.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.commit import read_json, update_json
from trainer.leaving import RUN_FILE, USER_ERROR, Ending

EVENTS = 200
"""Events that `run.json` keeps; the oldest go, samples before all others."""
SLURM = "slurm"
"""Folder in a run folder: batch script, logs, what is known of the job."""

log = logging.getLogger("navsynth")


def with_event(events: Sequence[Mapping[str, Any]], event: Mapping[str, Any]) -> list[dict]:
    """Events with one more, and no more than `EVENTS` of them."""
    kept = [*map(dict, events), dict(event)]
    while len(kept) > EVENTS:
        oldest = (i for i, known in enumerate(kept) if known.get("kind") == "sample")
        del kept[next(oldest, 0)]
    return kept


def earlier(folder: Path) -> dict[str, Any]:
    """Fields of `run.json` for what comes now: the reason of the life before is among the events,
    once, and no longer the reason of this one."""
    path = folder / RUN_FILE
    known = read_json(path)
    fresh: dict[str, Any] = {"reason": None, "code": None, "ended": None}
    reason, kind = known.get("reason"), str(known.get("status", "failed"))
    if not reason or noted(known, kind):
        return fresh
    ended = known.get("ended") or round(path.stat().st_mtime, 3)
    event = {"time": ended, "kind": kind, "step": None, "text": reason}
    return {**fresh, "events": with_event(known.get("events", []), event)}


def noted(known: Mapping[str, Any], kind: str) -> bool:
    """Whether the newest life in `run.json` has noted an event of this kind itself, at its step."""
    begun = (known.get("starts") or [{}])[-1].get("time", 0)
    notes = (e for e in known.get("events", []) if e.get("step") is not None)
    return any(e.get("kind") == kind and e.get("time", 0) >= begun for e in notes)


def begin(folder: Path, *, start: Mapping[str, Any], fingerprint: str) -> None:
    """Write into `run.json` that a life begins; `start`: what it is started with."""
    starts = read_json(folder / RUN_FILE).get("starts", [])
    starts = [*starts, {"time": round(time.time(), 3), **start}]
    update_json(
        folder / RUN_FILE, **earlier(folder), status="running", starts=starts,
        fingerprint=fingerprint,
    )  # fmt: skip


def end(folder: Path, ending: Ending, **fields: Any) -> None:
    """Write into `run.json` that a life has ended as it should."""
    update_json(
        folder / RUN_FILE, status=ending.status, code=int(ending.code), ended=now(), **fields
    )


def failure(folder: Path, reason: str) -> dict[str, Any]:
    """Fields that `leaving.leave` writes for a life that ends with an error; `run.json` may still
    hold the reason of an earlier one, where this life failed before it began."""
    try:
        kept = earlier(folder) if folder.is_dir() else {}
    except (OSError, ValueError) as error:
        log.warning("%s: an earlier reason is not kept: %s", folder / RUN_FILE, error)
        kept = {}
    kept.pop("code", None)  # `leave` gives the code
    return {**kept, "reason": reason, "ended": now()}


def now() -> float:
    """Unix time, in milliseconds' precision."""
    return round(time.time(), 3)


# Refused starts --------------------------------------------------------------------------------


def refusal_file(folder: Path) -> Path:
    """Where a start in this SLURM job says that it was refused."""
    return folder / SLURM / f"refused-{os.environ.get('SLURM_JOB_ID', '0')}.json"


def refuse(folder: Path, reason: str, *, in_use: bool) -> None:
    """Say that this start is refused, where there is a folder for it."""
    path = refusal_file(folder)
    if not path.parent.is_dir():
        return
    try:
        update_json(path, code=int(USER_ERROR.code), reason=reason, in_use=in_use)
    except (OSError, ValueError) as error:
        log.warning("%s: not written: %s", path, error)


def accept(folder: Path) -> None:
    """This start has the folder: what an earlier one in this job was refused for is over."""
    refusal_file(folder).unlink(missing_ok=True)
