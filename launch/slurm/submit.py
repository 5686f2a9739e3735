"""Handing runs in, and what one does with them afterwards: status, logs, cancel, resume."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError
from launch.slurm import cluster
from launch.slurm.inside import FOLDER, JOB, STOP, check
from launch.slurm.script import JobConfig, render
from trainer.commit import read_json, update_json
from trainer.leaving import RUN_FILE
from trainer.setup import without_clips

SCRIPT = "train.sbatch"


class Prepared(NamedTuple):
    """A script that has been checked, and the run folders it will train in."""

    script: str
    home: Path
    """Where script and logs lie."""
    folders: list[Path]
    alone: list[str]
    """Of a sweep, a script for each run by itself; it is what `resume` hands in."""
    warnings: list[str]


def prepare(job: JobConfig, words: Sequence[str], *, sweep: Path | None = None) -> Prepared:
    """Check settings and footage of every run, and write the script (into memory).

    Raises:
        UserError: whatever would end a run before its first step; two runs in one folder.
    """
    own = list(read_sweep(sweep)) if sweep else []
    runs = [check([*words, *line]) for line in own] or [check(words)]
    folders = [run.folder for run in runs]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise UserError(
                f"{sweep}: lines {folders.index(folder) + 1} and {index + 1} would both train in "
                f"{folder}; give each a name=..."
            )
    name = folders[0].name if not sweep else sweep.stem
    home = folders[0] / FOLDER if not sweep else folders[0].parent / f"sweep-{name}"
    here = Path.cwd()
    script = render(
        job, words=words, sweep=own, name=f"navsynth-{name}", output=home.absolute(), folder=here
    )
    alone = [
        render(
            job, words=[*words, *line], name=f"navsynth-{folder.name}",
            output=(folder / FOLDER).absolute(), folder=here,
        )
        for folder, line in zip(folders, own, strict=bool(own))
    ]  # fmt: skip
    ranks = job.nodes * (job.processes_per_node or job.gpus_per_node or 1)
    warnings = [without_clips(run.config, ranks) for run in runs]
    return Prepared(script, home, folders, alone, list(dict.fromkeys(filter(None, warnings))))


def read_sweep(path: Path) -> Iterator[list[str]]:
    """Words of each job of a sweep: one line each; `#` begins a comment.

    Raises:
        UserError: cannot be read, or nothing in it.
    """
    try:
        lines = [shlex.split(line, comments=True) for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not any(lines):
        raise UserError(f"{path}: no line with settings in it")
    return filter(None, lines)


def submit(prepared: Prepared) -> str:
    """Hand a prepared script in; the job's number.

    Raises:
        UserError: a job of one of the runs is still there.
    """
    require_no_job(prepared.folders)
    for folder, text in zip(prepared.folders, prepared.alone, strict=bool(prepared.alone)):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / FOLDER / SCRIPT).write_text(text)
    prepared.home.mkdir(parents=True, exist_ok=True)
    path = prepared.home / SCRIPT
    path.write_text(prepared.script)
    return _hand_in(path, prepared.folders, sweep=bool(prepared.alone))


def resume(folder: Path) -> str:
    """Hand the script of a run in again; the job's number.

    Raises:
        UserError: there is none, or a job of this run is still there.
    """
    _known(folder)
    require_no_job([folder])
    script = folder / FOLDER / SCRIPT
    if not script.is_file():
        raise UserError(f"{script}: not there; the run was not handed in by `submit`")
    return _hand_in(script, [folder])


def require_no_job(folders: Sequence[Path]) -> None:
    """Refuse to hand runs in that still have a job (UserError): two would meet in one folder."""
    known = {f: str(read_json(f / FOLDER / JOB).get("job", "")) for f in folders}
    jobs = cluster.jobs([number for number in known.values() if number])
    for folder, number in known.items():
        for job in jobs.get(number, []):
            if job.alive:
                raise UserError(f"{folder}: job {job.id} is {job.state.lower()}; cancel it first")


def _hand_in(script: Path, folders: Sequence[Path], *, sweep: bool = False) -> str:
    for folder in folders:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / FOLDER / STOP).unlink(missing_ok=True)
    number = cluster.sbatch(script)
    for index, folder in enumerate(folders):
        job = f"{number}_{index}" if sweep else number
        update_json(folder / FOLDER / JOB, job=job, logs=str(script.parent.absolute()))
    return number


def cancel(folder: Path, *, now: bool = False) -> str:
    """Have a run save and leave the cluster; `now`: by `scancel`. What was done, in words."""
    number = _known(folder)
    told = []
    for job in cluster.jobs([number])[number]:
        if job.state == "RUNNING" and not now:
            (folder / FOLDER / STOP).touch()
            cluster.signal(job.id)
            told.append(f"job {job.id}: asked to save and leave")
        elif job.alive:
            cluster.cancel(job.id)
            told.append(f"job {job.id}: cancelled")
        else:
            told.append(f"job {job.id}: {job.state.lower()} already")
    return "\n".join(told)


def status(folders: Sequence[Path]) -> Iterator[str]:
    """One line for each run: job, its state, the run's own state and step."""
    numbers = {folder: _known(folder) for folder in folders}
    known = cluster.jobs(list(numbers.values()))
    for folder, number in numbers.items():
        run = read_json(folder / RUN_FILE)
        for job in known[number]:
            often = f", queued again {job.restarts} times" if job.restarts else ""
            why = f" ({job.reason})" if job.reason and job.state == "PENDING" else ""
            yield (
                f"{folder}: job {job.id} {job.state.lower()}{why}{often}; "
                f"run {run.get('status', 'not begun')}, {_newest(folder)}"
            )


def logs(folder: Path, *, follow: bool = False) -> int:
    """Show the newest log file of a run, to its end or for ever; the exit code."""
    known = read_json(folder / FOLDER / JOB)
    where = Path(known.get("logs", folder / FOLDER))
    files = sorted(where.glob(f"{known.get('job', '*')}.out"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise UserError(f"{where}: no log yet")
    if follow:
        return subprocess.run(["tail", "-n", "+1", "-F", str(files[-1])], check=False).returncode
    sys.stdout.write(files[-1].read_text(errors="replace"))
    return 0


def _newest(folder: Path) -> str:
    names = sorted(p.name for p in (folder / "checkpoints").glob("step-*") if p.suffix == "")
    return f"checkpoint {names[-1]}" if names else "no checkpoint"


def _known(folder: Path) -> str:
    number = str(read_json(folder / FOLDER / JOB).get("job", ""))
    if not number:
        raise UserError(f"{folder}: no SLURM job is known of it ({FOLDER}/{JOB})")
    return number
