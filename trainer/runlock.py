"""One job per run folder: a second one is refused, a dead one's lock is taken over.

`run.lock` is held with a POSIX record lock, which the system drops when the process dies and which
worker processes do not inherit. Where a shared disk does not carry such locks between machines, or
has none at all, the file's contents do: its owner counts up in it, and a newcomer from another
machine watches the count before it takes over. No clocks are compared.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from trainer.comm import Comm

LOCK = "run.lock"
BEAT_SECONDS = 10.0
PATIENCE = 3
"""Beats that a foreign lock may miss before it counts as dead."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a disk says that carries no locks, such as Lustre mounted without them."""

_mine: set[str] = set()
log = logging.getLogger("navsynth")


class InUse(UserError):  # noqa: N818
    """Another job has the run folder; nothing of it may be touched."""


class RunLock:
    """Holds the lock of a run folder from `take_lock` to `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, name="run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the next job in."""
        self._stop.set()
        self._thread.join()
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        _mine.discard(str(self._path))

    def _count(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_SECONDS):
            beat += 1
            try:
                _write(self._descriptor, {**_me(), "beat": beat})
            except OSError as error:
                log.warning("%s: not written: %s", self._path, error)


def take_lock(folder: str | Path, *, comm: Comm) -> RunLock | None:
    """Take the run's lock for all ranks; rank 0 holds it, the others get None.

    Raises:
        UserError: on every rank; another job has it, or the folder cannot be written.
    """
    lock, error = None, None
    if comm.rank == 0:
        try:
            lock = _take(Path(folder))
        except UserError as refused:
            error = [isinstance(refused, InUse), str(refused)]
    error = comm.gather_json(error)[0]
    if error:
        raise (InUse if error[0] else UserError)(error[1])
    return lock


def _take(folder: Path) -> RunLock:
    path = folder.resolve() / LOCK
    if str(path) in _mine:
        raise InUse(_refusal(folder, _me()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a link; remove it, a run's lock is a file") from None
        raise UserError(f"{path}: {error.strerror}; a run folder must be writable") from None
    felt = True
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InUse(_refusal(folder, _read(descriptor))) from None
            if error.errno not in NO_LOCKS:
                raise
            felt = False
            log.warning("%s: its disk has no locks (%s); the contents decide", path, error.strerror)
        _watch(folder, descriptor, felt=felt)
        _write(descriptor, {**_me(), "beat": 0})
    except OSError as error:
        os.close(descriptor)
        raise UserError(f"{path}: {error.strerror}; a run folder must be writable") from None
    except BaseException:
        os.close(descriptor)
        raise
    _mine.add(str(path))
    return RunLock(path, descriptor)


def _watch(folder: Path, descriptor: int, *, felt: bool) -> None:
    """See whether an owner is alive whose lock we cannot feel: on another machine, or anywhere
    where the disk has no locks."""
    seen = _read(descriptor)
    if not seen or (felt and seen.get("host") == socket.gethostname()):
        return
    end = time.monotonic() + PATIENCE * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_SECONDS))
        now = _read(descriptor)
        if not now:
            return
        if now != seen:
            raise InUse(_refusal(folder, now))


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return f"{folder}: in use by {who}; stop that job first, or choose another name=..."


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _write(descriptor: int, value: dict[str, Any]) -> None:
    # One fixed size, so that a reader never sees the end of an older, longer text.
    os.pwrite(descriptor, json.dumps(value).encode().ljust(512), 0)
    os.fsync(descriptor)  # other machines read it, and a client of NFS may keep it for long


def _read(descriptor: int) -> dict[str, Any]:
    """The owner's entry; empty where there is none or it cannot be read."""
    try:
        value = json.loads(os.pread(descriptor, 512, 0))
    except ValueError:
        return {}
    return value if isinstance(value, dict) and {"host", "pid"} <= value.keys() else {}
