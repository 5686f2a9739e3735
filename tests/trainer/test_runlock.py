"""One job per run folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_shards.errors import UserError
from tests.support.ranks import run_ranks
from trainer import runlock
from trainer.comm import Comm
from trainer.runlock import LOCK, take_lock

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys
from trainer.comm import Comm
from trainer.runlock import take_lock
lock = take_lock(sys.argv[1], comm=Comm())
if sys.argv[2] == "fork" and os.fork() == 0:
    os.read(0, 1)
    os._exit(0)
print("held", flush=True)
os.read(0, 1)
"""


def hold(folder: Path, how: str = "alone") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_a_second_job_is_refused_by_name(tmp_path: Path) -> None:
    """The refusal names host and process; when the first is killed, the folder is free at once,
    also while a worker that it forked lives on."""
    with hold(tmp_path, "fork") as first:
        with pytest.raises(UserError, match=rf"in use by process {first.pid} on \S+; stop"):
            take_lock(tmp_path, comm=Comm())
        first.kill()
        first.wait()
        lock = take_lock(tmp_path, comm=Comm())
        assert lock is not None
        assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()
        lock.release()


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """What it leads to is neither written nor emptied; a run folder may be a link itself."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(precious)
    with pytest.raises(UserError, match=r"run\.lock: a link; remove it"):
        take_lock(tmp_path / "run", comm=Comm())
    assert precious.read_text() == "mine"
    (tmp_path / "run" / LOCK).unlink()
    (tmp_path / "other").symlink_to(tmp_path / "run")
    lock = take_lock(tmp_path / "other", comm=Comm())
    assert lock is not None
    with pytest.raises(UserError, match="in use by"):
        take_lock(tmp_path / "run", comm=Comm())
    lock.release()


def test_a_disk_without_locks_leaves_it_to_the_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre mounted without locks refuses them all: a run starts, and a live job of another
    machine or of this one, whose count goes on, is still found; any other failure is the disk's."""
    monkeypatch.setattr(runlock, "BEAT_SECONDS", 0.2)
    refused = errno.ENOSYS

    def lockf(*_: object) -> None:
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(runlock.fcntl, "lockf", lockf)
    lock = take_lock(tmp_path, comm=Comm())
    assert lock is not None
    lock.release()
    entry = {"host": "elsewhere", "pid": 7, "beat": 0}
    done = threading.Event()

    def count() -> None:
        with (tmp_path / LOCK).open("r+b", buffering=0) as file:
            while not done.wait(0.05):
                entry["beat"] += 1
                os.pwrite(file.fileno(), json.dumps(entry).encode().ljust(512), 0)

    other = threading.Thread(target=count)
    other.start()
    try:
        while not (tmp_path / LOCK).stat().st_size:
            time.sleep(0.01)
        for host in ("elsewhere", socket.gethostname()):
            entry["host"] = host
            with pytest.raises(UserError, match=f"in use by process 7 on {host}"):
                take_lock(tmp_path, comm=Comm())
    finally:
        done.set()
        other.join()
    refused = errno.EIO
    with pytest.raises(UserError, match=r"run\.lock: Input/output error"):
        take_lock(tmp_path, comm=Comm())


def test_the_same_process_cannot_lock_twice(tmp_path: Path) -> None:
    """Record locks do not exclude their own process, so the module does."""
    lock = take_lock(tmp_path, comm=Comm())
    assert lock is not None
    with pytest.raises(UserError, match=f"process {os.getpid()}"):
        take_lock(tmp_path, comm=Comm())
    lock.release()
    again = take_lock(tmp_path, comm=Comm())
    assert again is not None
    again.release()


def test_a_dead_owner_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of another host that does not count on is taken over."""
    monkeypatch.setattr(runlock, "BEAT_SECONDS", 0.01)
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": 4}).ljust(512))
    lock = take_lock(tmp_path, comm=Comm())
    assert lock is not None
    lock.release()


def test_a_living_owner_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of another host that counts on is respected, though no lock is felt."""
    monkeypatch.setattr(runlock, "BEAT_SECONDS", 0.01)
    count = iter(range(100))
    entry = {"host": "elsewhere", "pid": 77}
    monkeypatch.setattr(runlock, "_read", lambda _: {**entry, "beat": next(count)})
    with pytest.raises(UserError, match="in use by process 77 on elsewhere"):
        take_lock(tmp_path, comm=Comm())


def try_lock(comm: Comm, folder: str) -> str:
    try:
        lock = take_lock(folder, comm=comm)
    except UserError as error:
        return f"refused: {error}"
    if lock is not None:
        lock.release()
    return "taken"


@pytest.mark.ranks
def test_all_ranks_are_refused_together(tmp_path: Path) -> None:
    """Rank 0 holds the lock for all; when it cannot, every rank gives up with the same words."""
    assert run_ranks(try_lock, 2, str(tmp_path)) == ["taken", "taken"]
    with hold(tmp_path) as first:
        answers = run_ranks(try_lock, 2, str(tmp_path))
        first.kill()
    assert answers[0] == answers[1] and answers[0].startswith("refused: ")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where the run folder should be is a user error."""
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run folder must be writable"):
        take_lock(tmp_path / "run" / "x", comm=Comm())
