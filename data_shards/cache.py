"""Copies of remote shards on a node's disk, shared by its processes and bounded in bytes.

A copy is named after the file's SHA-256, so that it serves every run that reads the same bytes. It
is downloaded once per node (a lock file), verified, made durable, and put in place by a rename.
Room is made by dropping the copies used longest ago; a reader holds a shared lock on the file while
it reads, and a locked copy is never dropped. Locks are the kernel's (flock): a killed process
leaves none behind. Clip tables are kept in the same way. A copy may change after it was made: its
size is compared when it is opened, and `discard` drops it where a reader finds it altered.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path

from data_shards import disk, outage
from data_shards.errors import UserError
from data_shards.filelocks import AT_ONCE, GONE, lock, locked, look, names
from data_shards.manifest import Shard

_POLL = 0.02
_PATIENCE = 10
"""Timeouts that room is waited for at most, however much others fetch."""
_COPY = re.compile(r"[0-9a-f]{64}\.(?:tar|npy|damaged)")
_PART = re.compile(r"[0-9a-f]{64}\.(\d+)\.part")
"""Names of copies, and of those under way with their whole size: all else in the folder is not
ours, and neither counted nor dropped."""

Fetch = Callable[[Path], object]
Stop = threading.Event | None


class AlteredError(UserError):
    """The store's bytes are not those of the manifest."""


class NodeCache:
    """A folder of verified copies.

    Args:
        folder: made where it is missing.
        limit: bytes that all copies may take together.
        timeout: seconds to wait for room while nobody fetches anything.
        keep_damaged: keep a shard whose bytes are not those of the manifest (each clip is verified
            when it is read) instead of refusing it. Every process looks once whether the store has
            been mended since.
        store: where shards are fetched, for failures that others who fetch there are told of.
    """

    def __init__(
        self, folder: Path, *, limit: int, timeout: float, keep_damaged: bool, store: str = ""
    ) -> None:
        self.folder, self.limit, self.timeout = folder, limit, timeout
        self.keep_damaged = keep_damaged
        self._from = {"store": store, "timeout": timeout}
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._damaged: set[str] = set()
        """SHA-256 of shards whose store this process found damaged."""
        self._renewed: set[str] = set()
        self._lock = threading.Lock()
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def open(self, shard: Shard, fetch: Fetch, stop: Stop = None) -> Iterator[int]:
        """A descriptor of a shard's copy, fetched first where it is missing, locked while open."""
        descriptor = self.take(shard, fetch, stop)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def take(self, shard: Shard, fetch: Fetch, stop: Stop = None) -> int:
        """The same, locked until the caller closes it (`os.close`); raises what `ensure` does."""
        with self._named():
            while True:
                path, usable = self.ensure(shard, fetch, stop), False
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                    continue
                try:
                    usable = self._usable(shard, path, descriptor)
                finally:
                    if not usable:
                        os.close(descriptor)
                if usable:
                    return descriptor

    def ensure(self, shard: Shard, fetch: Fetch, stop: Stop = None) -> Path:
        """Path of a shard's copy; `fetch(path)` downloads it where it is missing. `stop` ends a
        wait for others.

        Raises:
            AlteredError: the store's bytes are not the manifest's.
            UserError: no room, a disk that refuses, or a `fetch` that failed, here or elsewhere.
        """
        path, damaged = self.path(shard), self._damaged_path(shard)
        part = self.folder / f"{shard.sha256}.{shard.bytes}.part"
        with self._named():
            wait = outage.Wait(self.folder / f"{shard.sha256}.failed", stop, **self._from)
            if ready := self._ready(shard):
                return ready
            with self._turn(shard, wait):
                if ready := self._ready(shard):
                    return ready
                wait.heed()
                with self._room(shard, part, wait):
                    for _ in range(2):
                        with wait.told():
                            fetch(part)
                        if disk.sha256(part) == shard.sha256:
                            disk.settle(part, path)
                            damaged.unlink(missing_ok=True)
                            return path
                    if self.keep_damaged and path.suffix == ".tar":
                        disk.settle(part, damaged)
                        self._damaged.add(shard.sha256)
                        return damaged
        raise AlteredError(
            f"{shard.file}: the store's bytes are not those of the manifest (SHA-256); copy the "
            "shard again, or set data.on_damage=quarantine"
        )

    def has(self, shard: Shard) -> bool:
        """Whether a shard's copy is there, so that it needs no download (UserError)."""
        with self._named():
            return self._ready(shard) is not None

    def keep(self, shards: Iterable[Shard]) -> None:
        """Have copies that will be read soon count as just used; else what was fetched ahead would
        be older than what has been read. One that cannot be reached is its reader's to find."""
        for shard in shards:
            with contextlib.suppress(OSError):
                if ready := self._ready(shard):
                    os.utime(ready)

    def moved(self, of: Container[str]) -> bool:
        """Whether bytes of files of these SHA-256 have come, for any process of the node, since the
        last call (UserError)."""
        with self._named():
            found = frozenset(part for part in self._parts() if part[0][:64] in of)
        before, self._seen = self._seen, found
        return found != before

    def discard(self, shard: Shard, descriptor: int) -> bool:
        """Drop the copy that a reader has open and found altered, once in each process.

        Returns:
            Whether to read again: a copy that was verified when it was made is fetched anew; one
            that was kept though damaged would only come back.
        """
        path = self.path(shard)
        with self._named(), self._lock:
            if names(self._damaged_path(shard), descriptor):
                return False
            if not names(path, descriptor):  # another reader was faster
                return True
            if shard.sha256 in self._renewed:
                return False
            self._renewed.add(shard.sha256)
            path.unlink(missing_ok=True)
            return True

    def path(self, shard: Shard) -> Path:
        """Where a verified copy lies."""
        suffix = ".npy" if shard.file.endswith(".npy") else ".tar"
        return self.folder / f"{shard.sha256}{suffix}"

    def bytes(self) -> int:
        """Bytes of all copies, with those under way at their full size."""
        return sum(size for _, size, _ in self._entries())

    def _damaged_path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.damaged"

    def _ready(self, shard: Shard) -> Path | None:
        """A copy that needs no download."""
        path, damaged = self.path(shard), self._damaged_path(shard)
        if path.exists():
            return path
        return damaged if shard.sha256 in self._damaged and damaged.exists() else None

    def _usable(self, shard: Shard, path: Path, descriptor: int) -> bool:
        """Lock an opened copy; whether it is still in place, and was not cut short since."""
        if not lock(descriptor, fcntl.LOCK_SH) or not names(path, descriptor):
            return False
        short = path.suffix == ".tar" and os.fstat(descriptor).st_size != shard.bytes
        if short and self.discard(shard, descriptor):
            return False
        os.utime(descriptor)
        return True

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the setting where the disk of the copies refuses."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"data.cache_dir: {self.folder}: {error.strerror or error}; check that disk or "
                "choose another folder"
            ) from None

    @contextlib.contextmanager
    def _turn(self, shard: Shard, wait: outage.Wait) -> Iterator[None]:
        """Be the one process that fetches a shard, or wait for it for as long as a part grows: its
        own, or another one whose room it waits for."""
        place, motion = self.folder / f"{shard.sha256}.lock", self._motion()
        while True:
            with place.open("ab") as file:
                while not lock(file, AT_ONCE):
                    if motion.still() > 2 * self.timeout:
                        raise UserError(
                            f"data.cache_dir: another process holds {place} and fetches nothing; "
                            "end it or choose another folder"
                        )
                    wait.pause(_POLL)
                if not names(place, file.fileno()):
                    continue  # taken away by whoever held it: the next one is another file
                try:
                    yield
                finally:
                    place.unlink(missing_ok=True)
                return

    @contextlib.contextmanager
    def _room(self, shard: Shard, part: Path, wait: outage.Wait) -> Iterator[None]:
        """Reserve a shard's bytes, by its part's name, while it is being fetched."""
        motion, end = self._motion(), time.monotonic() + _PATIENCE * self.timeout
        while not self._reserve(shard, part):
            if motion.still() > self.timeout or time.monotonic() > end:
                raise UserError(
                    f"data.cache_gib: no room for {shard.file} ({shard.bytes} bytes) in "
                    f"{self.folder} beside the shards in use; raise it"
                )
            wait.pause(_POLL)
        try:
            yield
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, shard: Shard, part: Path) -> bool:
        with locked(self.folder / "cache.lock"):
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

    def _motion(self) -> outage.Motion:
        return outage.Motion(self._parts, every=min(0.5, self.timeout / 10))

    def _parts(self) -> frozenset[tuple[str, int]]:
        """Names of what is under way, and the bytes that are there."""
        found = ((p.name, look(p)) for p in self.folder.iterdir() if _PART.fullmatch(p.name))
        return frozenset((name, facts.st_size) for name, facts in found if facts)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every copy, finished or under way."""
        entries = []
        for path in self.folder.iterdir():
            facts = look(path)
            if facts and (part := _PART.fullmatch(path.name)):
                entries.append((facts.st_mtime, int(part[1]), path))
            elif facts and _COPY.fullmatch(path.name):
                entries.append((facts.st_mtime, facts.st_size, path))
        return entries


def _drop(path: Path) -> bool:
    """Delete a copy that nobody reads, or the remains of a download whose process is gone."""
    held = path
    if path.suffix == ".part":
        held = path.with_name(path.name.split(".")[0] + ".lock")
    try:
        # Open for writing, without which NFS locks no file for one process alone.
        with held.open("r+b") as file:
            if not (lock(file, AT_ONCE) and names(held, file.fileno())):
                return False
            path.unlink(missing_ok=True)
            held.unlink(missing_ok=True)
    except FileNotFoundError:  # gone, or a part that nobody holds
        path.unlink(missing_ok=True)
    return True
