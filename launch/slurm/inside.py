"""What the batch script asks from inside the job: where to start, and whether to come again."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from trainer.commit import committed, read_json, replace_durable, update_json
from trainer.config import Config, resolve
from trainer.leaving import DONE, ENDINGS, HANG, LOST_RANK, PREEMPTED, RUN_FILE
from trainer.main import parser, run_name
from trainer.setup import require_size

FOLDER = "slurm"
"""Folder in a run folder: batch script, logs, what is known of the job."""
JOB = "job.json"
STOP = "stop"
"""A file of this name keeps a run from being queued again."""
TARGETS = "targets.json"
PORTS = range(20000, 32000)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run_folder(words: Sequence[str]) -> tuple[Path, Config]:
    """Run folder and settings of a command line of `trainer.main`, footage looked at.

    Raises:
        UserError: whatever would stop the training before its first step.
    """
    args = parser().parse_args(words)
    config = resolve(args.words, file=args.config)
    if not config.data.manifest:
        raise UserError("data.manifest: not set; give the folder that data_shards.prepare wrote")
    opened = open_manifest(config.data.manifest, config=config.data)
    require_size(opened.manifest)
    return args.runs / run_name(config, opened.manifest.name), config


def begin(words: Sequence[str]) -> str:
    """Note the job in its run folder; `PORT SINCE FOLDER` for the script.

    SINCE tells the file in which a run says how it ends as it was before this life of it.
    """
    folder, config = run_folder(words)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    update_json(folder / FOLDER / JOB, job=job, nodes=nodes)
    _write_targets(folder, config)
    return f"{_free_port()} {_version(folder / RUN_FILE)} {folder}"


def verdict(folder: Path, *, since: int, retries: int) -> str:
    """`CODE again` or `CODE stop`: how the run's last life ended and whether it wants another.

    What the run wrote counts, not how its processes ended: a launcher has one code for every
    failure, and a process may abort after all work is done.
    """
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


def _write_targets(folder: Path, config: Config) -> None:
    """File of scrape targets for Prometheus (`file_sd_configs`), where others may scrape at all."""
    told = config.telemetry
    if not told.endpoint or told.address in LOOPBACK or not told.port:
        return
    target = {
        "targets": [f"{socket.gethostname()}:{told.port}"],
        "labels": {"run": folder.name, "preset": config.preset},
    }
    replace_durable(folder / FOLDER / TARGETS, (json.dumps([target], indent=1) + "\n").encode())


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
