"""What the batch script asks from inside the job: where to start, and whether to come again."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from trainer.commit import committed, read_json, update_json
from trainer.config import Config, resolve
from trainer.leaving import DONE, ENDINGS, HANG, LOST_RANK, PREEMPTED, RUN_FILE
from trainer.lives import SLURM, refusal_file
from trainer.main import parser, run_name
from trainer.setup import require_labels, require_memory, require_size

FOLDER = SLURM
JOB = "job.json"
STOP = "stop"
"""A file of this name keeps a run from being queued again."""
PORTS = range(20000, 32000)


class Checked(NamedTuple):
    """A run that can be trained: where, and how."""

    folder: Path
    config: Config


def check(words: Sequence[str]) -> Checked:
    """A command line of `trainer.main`, its settings and footage looked at.

    Raises:
        UserError: what is wrong with them and would stop the training before its first step.
    """
    args, rest = parser().parse_known_intermixed_args(words)
    gpus = {True: "--gpus", False: "--no-gpus"}.get(args.gpus)
    local = ["--dry-run"] * args.dry_run + ["--ranks"] * (args.ranks is not None)
    wrong = [*rest, *local, *filter(None, [gpus])]
    if wrong:
        raise UserError(f"{wrong[0]}: no option of a job; see submit --help")
    config = resolve(args.words, file=args.config)
    if not config.data.manifest:
        raise UserError("data.manifest: not set; give the folder that data_shards.prepare wrote")
    opened = open_manifest(config.data.manifest, config=config.data)
    require_size(opened.manifest)
    require_labels(config, opened)
    folder = args.runs / run_name(config, opened.manifest.name)
    if not (folder / RUN_FILE).exists():  # else it goes on, and looks at no footage first
        require_memory(config, opened)
    return Checked(folder, config)


def begin(words: Sequence[str]) -> str:
    """Note the job in its run folder; `PORT SINCE FOLDER` for the script.

    SINCE tells the file in which a run says how it ends as it was before this life of it.
    """
    folder = check(words).folder
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    refusal_file(folder).unlink(missing_ok=True)
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    before = read_json(folder / FOLDER / JOB).get("job", "")
    update_json(folder / FOLDER / JOB, job=job, nodes=nodes, before=before)
    return f"{_free_port()} {_version(folder / RUN_FILE)} {folder}"


def verdict(folder: Path, *, since: int, retries: int) -> str:
    """`CODE again` or `CODE stop`: how the run's last life ended and whether it wants another.

    What the run wrote counts, not how its processes ended: a launcher has one code for every
    failure, and a process may abort after all work is done. A start that was refused before it had
    the run's folder would be refused again.
    """
    if refused := read_json(refusal_file(folder)):
        return _refused(folder, refused)
    status = read_json(folder / RUN_FILE).get("status")
    if _version(folder / RUN_FILE) == since:
        status = LOST_RANK.status  # never came to life
    ending = next((known for known in ENDINGS if known.status == status), LOST_RANK)
    stopped = (folder / FOLDER / STOP).exists()
    (folder / FOLDER / STOP).unlink(missing_ok=True)
    if ending is DONE or (ending is PREEMPTED and stopped):
        return _told("0 stop", f"{folder}: {ending.status}")
    if ending is PREEMPTED:
        return _told("6 again", f"{folder}: saved; queued again")
    if ending not in (HANG, LOST_RANK) or stopped:
        return _told(f"{int(ending.code)} stop", f"{folder}: {ending.status}; not queued again")
    count = _count_failure(folder)
    if count > retries:
        text = f"{ending.status} {count} times in a row without a new checkpoint; not queued again"
        return _told(f"{int(ending.code)} stop", f"{folder}: {text}")
    text = f"{ending.status}; queued again ({count} of {retries})"
    return _told(f"{int(ending.code)} again", f"{folder}: {text}")


def _refused(folder: Path, refused: dict[str, Any]) -> str:
    """The answer for a start that never had the run's folder. Where another job has it, what is
    known there is of that job again."""
    refusal_file(folder).unlink()
    before = read_json(folder / FOLDER / JOB).get("before")
    if refused.get("in_use") and before:
        update_json(folder / FOLDER / JOB, job=before)
    return _told(f"{refused['code']} stop", f"{folder}: {refused['reason']}; not queued again")


def _told(answer: str, text: str) -> str:
    print(text, file=sys.stderr)
    return answer


def _count_failure(folder: Path) -> int:
    """Failures in a row, this one included, since the newest checkpoint was written."""
    newest = (committed(folder / "checkpoints") or [0])[-1]
    path = folder / FOLDER / JOB
    known = read_json(path)
    count = known.get("failures", 0) + 1 if known.get("failed_at") == newest else 1
    update_json(path, failures=count, failed_at=newest)
    return count


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _free_port() -> int:
    """A port outside of the range that outgoing connections take theirs from."""
    start = int(os.environ.get("SLURM_JOB_ID", "0")) * 7
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port between {PORTS.start} and {PORTS.stop}")
