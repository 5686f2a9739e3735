"""What a study keeps on disk: its settings, and one record per trial, replaced atomically.

OUT/{study.json, ledger.jsonl, driver.json, trials/ID/..., trials.csv, best.yaml, report.html}. A
trial's folder is the run folder of its training with `trial.json` in it. Records and ledger are all
that a search needs to go on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from data_shards.errors import UserError
from trainer.commit import committed, read_json, replace_durable, step_name

STUDY, TRIAL, TRIALS = "study.json", "trial.json", "trials"
PENDING, RUNNING, DONE, PART = "pending", "running", "done", "part"
"""`part`: the end of a part of the way (`population`), which never wins."""
STOPPED, BUDGET, FAILED = "stopped", "budget", "failed"
UNFINISHED = (PENDING, RUNNING, BUDGET)
"""Statuses of trials that the next life of the search goes on with."""
RUNG = "stopped at a rung"
"""Reason of a trial that the scheduler has no use for."""
OVER_CAP = "over its cap"
"""What the reason of a trial begins with that was ended because it held too much."""
FIRST = "t0000"
"""The first trial: the configuration given, where the space holds it."""


def threads_of(cpus: float, workers: int) -> int:
    """CPU threads of each of a trial's processes."""
    return max(1, int(cpus) // workers)


class Settings(NamedTuple):
    """What every trial of a study shares; a study never changes any of it."""

    manifest: str
    words: tuple[str, ...]
    steps: int
    rungs: tuple[int, ...]
    objectives: tuple[str, ...]
    workers: int
    cpus: float
    gpus: float
    interval: float
    seed: int
    vgg: str
    space: dict[str, Any]
    cap: float = 0.0
    """Most accelerator-seconds that one trial may hold; 0: no cap."""
    population: int = 0
    """Members of a population (searcher `pb2`)."""
    footage: str = ""
    """Fingerprint of the set, held-out cells included; empty: the study is older than this."""

    @property
    def width(self) -> float:
        """Accelerators that a trial holds: GPUs where it has some, else cores."""
        return self.gpus or self.cpus

    @property
    def threads(self) -> int:
        """CPU threads of each process of a trial, of its evaluation too."""
        return threads_of(self.cpus, self.workers)


class Record(NamedTuple):
    """One trial: what it was given, how far it came, what it is worth."""

    id: str
    values: dict[str, Any]
    words: tuple[str, ...]
    status: str = PENDING
    reason: str = ""
    step: int = 0
    scores: Mapping[str, float] = MappingProxyType({})
    rungs: tuple[tuple[int, float], ...] = ()
    process: tuple[str, int, int] | None = None
    parent: str = ""
    """Trial from whose checkpoint this one goes on."""
    until: int = 0
    """Step at which it ends; 0: where all do."""
    changes: str = ""
    """`train.changes` of its whole chain."""


def name_of(number: int) -> str:
    """Name of the trial with a number."""
    return f"t{number:04d}"


def number_of(trial: str) -> int:
    """Number of the trial with a name."""
    return int(trial.removeprefix("t"))


def next_number(records: Sequence[Record]) -> int:
    """Number of the next trial: above all that are there, since folders may have been removed."""
    return 1 + max((number_of(record.id) for record in records), default=-1)


def folder_of(study: Path, trial: str) -> Path:
    """Run folder of a trial."""
    return study / TRIALS / trial


def stop_mark(study: Path, trial: str) -> Path:
    """File by which the search tells a trial, wherever it runs, that it is stopped."""
    return folder_of(study, trial) / "trial.stop"


def inherit(study: Path, record: Record) -> None:
    """Give a trial's folder what its parent's chain has: the last checkpoint, and the log.

    Raises:
        UserError: the parent has no checkpoint.
    """
    ours, theirs = folder_of(study, record.id), folder_of(study, record.parent)
    if not record.parent or (ours / "checkpoints").exists():
        return
    saved = committed(theirs / "checkpoints")
    if not saved:
        raise UserError(f"{theirs}: no checkpoint for {record.id} to go on from")
    newest = theirs / "checkpoints" / step_name(saved[-1])
    whole = ours / "inherited"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(newest, whole / newest.name)
    shutil.copyfile(theirs / "metrics.jsonl", ours / "metrics.jsonl")
    whole.rename(ours / "checkpoints")


def write_record(study: Path, record: Record) -> Record:
    """Make a record durable."""
    folder = folder_of(study, record.id)
    folder.mkdir(parents=True, exist_ok=True)
    replace_durable(
        folder / TRIAL,
        (json.dumps({**record._asdict(), "scores": dict(record.scores)}, indent=1) + "\n").encode(),
    )
    return record


def read_record(study: Path, trial: str) -> Record:
    """One trial's record."""
    return _record(folder_of(study, trial) / TRIAL)


def read_records(study: Path) -> list[Record]:
    """All records, in the order in which trials were made."""
    return [_record(path) for path in sorted((study / TRIALS).glob(f"*/{TRIAL}"))]


def require_same(study: Path, settings: Settings) -> bool:
    """Refuse settings that are not those of the study that is there; whether there is one.

    Raises:
        UserError: the folder is another study's, or the footage is; says which setting differs.
    """
    fresh = json.loads(json.dumps(settings._asdict()))
    try:
        known = read_json(study / STUDY)
    except ValueError as error:
        raise UserError(f"{study / STUDY}: not readable ({error}); choose another --out") from None
    for name in known:
        if known[name] != fresh.get(name):
            if name == "footage":
                raise UserError(
                    f"{settings.manifest}: not the footage of {study}, whose scores are of what "
                    "was there before; choose another --out, or prepare that again"
                )
            raise UserError(
                f"{study}: a study with {name} {known[name]!r}, not {fresh.get(name)!r}; choose "
                "another --out"
            )
    return bool(known)


def settle_settings(study: Path, settings: Settings) -> None:
    """Write a new study's settings, or check that they are those of the study that is there.

    Raises:
        UserError: the folder is another study's; says which setting differs.
    """
    if not require_same(study, settings):
        study.mkdir(parents=True, exist_ok=True)
        replace_durable(study / STUDY, (json.dumps(settings._asdict(), indent=1) + "\n").encode())


def read_settings(study: Path) -> Settings:
    """Settings of a study.

    Raises:
        UserError: not a study.
    """
    found = read_json(study / STUDY)
    if not found:
        raise UserError(f"{study}: not a study (no {STUDY})")
    for name in ("words", "rungs", "objectives"):
        found[name] = tuple(found[name])
    return Settings(**found)


def _record(path: Path) -> Record:
    try:
        found = read_json(path)
        found["words"] = tuple(found["words"])
        found["rungs"] = tuple((int(s), float(v)) for s, v in found["rungs"])
        found["process"] = tuple(found["process"]) if found["process"] else None
        return Record(**found)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a trial's record ({error}); remove its folder") from None
