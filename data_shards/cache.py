"""Copies of remote shards on a node's disk, shared by its processes and bounded in bytes.

A copy is named after the shard's SHA-256, so that it serves every run that reads the same bytes. It
is downloaded once per node (a lock file), verified, and put in place by a rename. Room is made by
dropping the copies used longest ago; a reader holds a shared lock on the file while it reads, and a
locked copy is never dropped. Locks are the kernel's (flock): a killed process leaves none behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from data_shards.errors import UserError
from data_shards.manifest import Shard

_POLL = 0.02


class NodeCache:
    """A folder of verified copies.

    Args:
        folder: made where it is missing.
        limit: bytes that all copies may take together.
        timeout: seconds to wait for room before giving up.
        keep_damaged: keep a shard whose bytes are not those of the manifest (each clip is verified
            when it is read) instead of refusing it.
    """

    def __init__(self, folder: Path, *, limit: int, timeout: float, keep_damaged: bool) -> None:
        self.folder, self.limit, self.timeout = folder, limit, timeout
        self.keep_damaged = keep_damaged
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache_dir: {folder}: {error.strerror}") from None

    @contextlib.contextmanager
    def open(self, shard: Shard, fetch: Callable[[Path], object]) -> Iterator[int]:
        """A descriptor of a shard's copy, fetched first where it is missing, locked while open."""
        while True:
            path = self.ensure(shard, fetch)
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink:
                    os.utime(path)
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def ensure(self, shard: Shard, fetch: Callable[[Path], object]) -> Path:
        """Path of a shard's copy; `fetch(path)` downloads it where it is missing.

        Raises:
            UserError: the store's bytes are not the manifest's, or there is no room.
        """
        path = self.folder / f"{shard.sha256}.tar"
        damaged = path.with_suffix(".damaged")
        for ready in (path, damaged) if self.keep_damaged else (path,):
            if ready.exists():
                return ready
        part = self.folder / f"{shard.sha256}.{shard.bytes}.part"
        with self._turn(self.folder / f"{shard.sha256}.lock", part):
            if path.exists():
                return path
            with self._room(shard, part):
                for _ in range(2):
                    fetch(part)
                    if _sha256(part) == shard.sha256:
                        part.replace(path)
                        return path
                if self.keep_damaged:
                    part.replace(damaged)
                    return damaged
        raise UserError(
            f"{shard.file}: the store's bytes are not those of the manifest (SHA-256); copy the "
            "shard again, or set data.on_damage=quarantine"
        )

    def bytes(self) -> int:
        """Bytes of all copies, with those under way at their full size."""
        return sum(size for _, size, _ in self._entries())

    @contextlib.contextmanager
    def _turn(self, lock: Path, part: Path) -> Iterator[None]:
        """Be the one process that fetches a shard, or wait for it for as long as its part grows."""
        seen, since = -1, time.monotonic()
        with lock.open("ab") as file:
            while not _try_lock(file):
                size = part.stat().st_size if part.exists() else 0
                if size != seen:
                    seen, since = size, time.monotonic()
                if time.monotonic() - since > 2 * self.timeout:
                    raise UserError(
                        f"data.cache_dir: another process holds {lock} and fetches nothing; "
                        "end it or choose another folder"
                    )
                time.sleep(_POLL)
            yield

    @contextlib.contextmanager
    def _room(self, shard: Shard, part: Path) -> Iterator[None]:
        """Reserve a shard's bytes, by its part's name, for as long as it is being fetched."""
        deadline = time.monotonic() + self.timeout
        while not self._reserve(shard, part):
            if time.monotonic() > deadline:
                raise UserError(
                    f"data.cache_gib: no room for {shard.file} ({shard.bytes} bytes) in "
                    f"{self.folder} beside the shards in use; raise it"
                )
            time.sleep(_POLL)
        try:
            yield
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, shard: Shard, part: Path) -> bool:
        with _locked(self.folder / "cache.lock"):
            entries = sorted(self._entries())
            total = sum(size for _, size, path in entries if path != part)
            for _, size, path in entries:
                if total + shard.bytes <= self.limit:
                    break
                if path != part and _drop(path):
                    total -= size
            if total + shard.bytes > self.limit:
                return False
            part.touch()
            return True

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every copy, finished or under way."""
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                if path.suffix == ".part":
                    entries.append((facts.st_mtime, int(path.name.split(".")[1]), path))
                elif path.suffix in (".tar", ".damaged"):
                    entries.append((facts.st_mtime, facts.st_size, path))
        return entries


def _drop(path: Path) -> bool:
    """Delete a copy that nobody reads, or the remains of a download whose process is gone."""
    held = path
    if path.suffix == ".part":
        held = path.with_name(path.name.split(".")[0] + ".lock")
    with contextlib.suppress(FileNotFoundError), held.open("rb") as file:
        if _try_lock(file):
            path.unlink(missing_ok=True)
            return True
    return False


def _try_lock(file: IO[bytes]) -> bool:
    """Take an exclusive lock, held until the file is closed, unless another one is in the way."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the processes and threads of a node."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
