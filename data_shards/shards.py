"""An opened manifest: its checked table of clips, and its shards, to be read by byte range."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data_shards import disk
from data_shards.cache import AlteredError, NodeCache
from data_shards.config import DataConfig
from data_shards.errors import UserError
from data_shards.manifest import CLIP_RECORD, CLIPS, MANIFEST, Manifest, Shard, loads
from data_shards.single import Singles
from data_shards.store import Store, remedy

T = TypeVar("T")
_OPEN_FILES = 64
_DOWNLOADS = 4
"""Shards that a rank fetches ahead at a time."""
_BLOCK = 512
"""Bytes of a tar block."""
_TABLE_HEAD = 4096
"""More bytes than come before the records in the file of a clip table."""


class OpenManifest(NamedTuple):
    """Facts, clip table and shards of one data set."""

    where: str
    manifest: Manifest
    table: np.ndarray
    """`CLIP_RECORD` (N,), mapped from disk, sorted by shard and offset."""
    shards: Shards
    config: DataConfig


def open_manifest(where: str, *, config: DataConfig | None = None) -> OpenManifest:
    """Open prepared footage on a disk, an http(s) server or S3 and check that it is all there.

    Args:
        where: the folder or its manifest.json; a path or a URL.
        config: how to read it; `config.manifest` is not looked at.

    Raises:
        UserError: naming the file that is missing, altered or out of reach.
    """
    config = config or DataConfig()
    if not where:
        raise UserError("data.manifest: empty; name the folder that data_shards.prepare wrote")
    folder = where.removesuffix(MANIFEST).rstrip("/") or ("/" if where.startswith("/") else ".")
    store = Store(folder, timeout=config.timeout_seconds, attempts=config.attempts)
    try:
        text = store.read(MANIFEST).decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{store.url(MANIFEST)}: not a manifest; prepare the footage again"
        ) from None
    manifest = loads(text, where=store.url(MANIFEST))
    shards = Shards(store, manifest, config)
    table = _open_table(shards)
    shards.check()
    return OpenManifest(where, manifest, table, shards, config)


class Shards:
    """The shard files of one data set: in place where they are local, else copies on this node."""

    def __init__(self, store: Store, manifest: Manifest, config: DataConfig) -> None:
        self.store, self.manifest = store, manifest
        self.strict = config.on_damage == "fail"
        self.cache: NodeCache | None = None
        if not store.local:
            self.cache = NodeCache(
                config.cache_folder(), limit=int(config.cache_gib * 2**30),
                timeout=config.timeout_seconds, keep_damaged=not self.strict, store=store.where,
            )  # fmt: skip
            self._check_room(config)
        self.singles = Singles(store, self.cache) if self.cache else None
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._held: _File | None = None
        """The copy of the clip table, which must not be dropped while it is mapped."""
        self._lock = threading.Lock()
        self._ahead: set[int] = set()

    def check(self) -> None:
        """Compare every shard's size with the manifest (the policy `quarantine` lets a wrong size
        pass, as each clip is verified when it is read).

        Raises:
            UserError: naming a shard that is missing, or altered.
        """
        items = self.manifest.shards
        with ThreadPoolExecutor(1 if self.store.local else min(8, len(items))) as pool:
            sizes = list(pool.map(lambda shard: self.store.size(shard.file), items))
        for shard, size in zip(items, sizes, strict=True):
            if self.strict and size is not None and size != shard.bytes:
                raise UserError(
                    f"{self.store.url(shard.file)}: {size} bytes where the manifest says "
                    f"{shard.bytes}; copy the shard again, prepare the footage again, or set "
                    "data.on_damage=quarantine"
                )

    def place(self, number: int) -> str:
        """Where the bytes of a shard are read, for errors."""
        shard, cache = self.manifest.shards[number], self.cache
        copy = f" (copy {shard.sha256} in {cache.folder})" if cache and cache.has(shard) else ""
        return self.store.url(shard.file) + copy

    def table(self) -> Path:
        """Where the clip table lies, its SHA-256 compared; of a remote one, a copy on this node
        that is kept for as long as these shards are.

        Raises:
            UserError: missing, altered or out of reach.
        """
        name, sha256 = self.store.url(CLIPS), self.manifest.clips_sha256
        altered = f"{name}: altered (SHA-256); prepare the footage again"
        size = _TABLE_HEAD + self.manifest.clips * CLIP_RECORD.itemsize
        record = Shard(CLIPS, self.manifest.clips, size, sha256)
        try:
            if self.cache is None:
                path = self.store.path(CLIPS)
                if self.store.patient(lambda: disk.sha256(path)) == sha256:
                    return path
                raise UserError(altered)
            path = self.cache.path(record)
            for _ in range(2):
                self._held = _File(self.cache.take(record, self._fetching(record)))
                if disk.sha256(path) == sha256:
                    return path
                self.cache.discard(record, self._held.descriptor)  # changed since it was copied
        except AlteredError:
            raise UserError(altered) from None
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}; {remedy(error)}") from None
        raise UserError(altered)

    @contextlib.contextmanager
    def open(self, number: int) -> Iterator[int]:
        """A descriptor to `os.pread` a shard from, valid inside the `with`."""
        if self.cache is not None:
            shard, stop = self.manifest.shards[number], self.store.stop
            with self.cache.open(shard, self._fetching(shard, stop), stop) as descriptor:
                yield descriptor
            return
        file = self._local(number)
        try:
            yield file.descriptor
        except OSError:
            self._forget(number, file)
            raise

    def read(self, number: int, use: Callable[[int], T]) -> T:
        """What `use(descriptor)` gives of a shard. Where the disk refuses, the file is opened and
        used anew: over a network it may do so for a while, and what was opened grows stale.

        Raises:
            UserError: the shard is out of reach.
        """

        def once() -> T:
            with self.open(number) as descriptor:
                return use(descriptor)

        try:
            return self.store.patient(once)
        except FileNotFoundError as error:
            reason = f"{error.strerror}; is the shard still there?"
        except OSError as error:
            reason = f"{error.strerror or error}; check that disk, or mount it again"
        raise UserError(f"{self.place(number)}: {reason}")

    def renew(self, number: int, descriptor: int) -> bool:
        """Drop the node's copy of a shard that a reader has open and found altered.

        Returns:
            Whether reading again may help: not where the shard itself was read, or a copy that was
            damaged from the beginning.
        """
        return self.cache is not None and self.cache.discard(
            self.manifest.shards[number], descriptor
        )

    def fetch_ahead(self, numbers: Iterable[int]) -> None:
        """Begin to download shards that will be needed soon; failures show when they are read."""
        order = list(dict.fromkeys(numbers))
        if self.cache is None or self._ahead == set(order):
            return
        missing, self._ahead = deque(n for n in order if n not in self._ahead), set(order)
        if not missing:
            return  # some of them are only not needed any more
        self.cache.keep(self.manifest.shards[number] for number in order)
        words = (missing, self.store.stop)  # of now: none is to begin after `close`
        for _ in range(min(_DOWNLOADS, len(missing))):
            threading.Thread(target=self._fetch_all, args=words, daemon=True).start()

    def close(self) -> None:
        """End downloads under way and close the shards; both may be opened again."""
        self.store.close()
        with self._lock:
            self._files.clear()
        self._ahead = set()

    def _fetching(self, of: Shard, stop: threading.Event | None = None) -> Callable[[Path], None]:
        return lambda part: self.store.fetch(of.file, into=part, size=of.bytes, stop=stop)

    def _fetch_all(self, missing: deque[int], stop: threading.Event) -> None:
        """Download what is left of some shards, which other threads take from, too. A failure is
        met by the shard's reader again, who reports it where it can be handled."""
        assert self.cache is not None
        while missing and not stop.is_set():
            with contextlib.suppress(IndexError, UserError):  # another thread took the last one
                shard = self.manifest.shards[missing.popleft()]
                self.cache.ensure(shard, self._fetching(shard, stop), stop)

    def _local(self, number: int) -> _File:
        with self._lock:
            if number not in self._files:
                path = self.store.path(self.manifest.shards[number].file)
                self._files[number] = _File(os.open(path, os.O_RDONLY))
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(number)
            return self._files[number]

    def _forget(self, number: int, file: _File) -> None:
        """Open a file anew next time, unless another thread has done so."""
        with self._lock:
            if self._files.get(number) is file:
                del self._files[number]

    def _check_room(self, config: DataConfig) -> None:
        """Two groups of shards, and the table, are in use at a time: they must fit."""
        assert self.cache is not None
        sizes = sorted((shard.bytes for shard in self.manifest.shards), reverse=True)
        needed = sum(sizes[: 2 * config.shuffle_shards])
        needed += _TABLE_HEAD + self.manifest.clips * CLIP_RECORD.itemsize
        if needed > self.cache.limit:
            raise UserError(
                f"data.cache_gib: {config.cache_gib:g} is too small for twice "
                f"data.shuffle_shards={config.shuffle_shards} shards; "
                f"it takes {needed / 2**30 + 0.005:.2f}"
            )


class _File:
    """A descriptor that closes when nobody holds it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def _open_table(shards: Shards) -> np.ndarray:
    """The clip table, mapped (UserError)."""
    path, name = shards.table(), shards.store.url(CLIPS)
    try:
        table = shards.store.patient(lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; {remedy(error)}") from None
    except ValueError as error:
        raise UserError(f"{name}: {error}; prepare the footage again") from None
    problem = _table_problem(table, shards.manifest)
    if problem:
        raise UserError(f"{name}: {problem}; prepare the footage again")
    return table


def _table_problem(table: np.ndarray, manifest: Manifest) -> str:
    """What is wrong with a clip table, or nothing."""
    if table.dtype != CLIP_RECORD or table.shape != (manifest.clips,):
        return f"{table.shape} of {table.dtype} is no table of {manifest.clips} clips"
    counts = np.array([shard.clips for shard in manifest.shards])
    limits = np.array([shard.bytes for shard in manifest.shards])
    shard = table["shard"]
    if not np.array_equal(shard, np.repeat(np.arange(len(counts)), counts)):
        return "clips are not in the order of their shards"
    start, size = table["offset"], table["size"]
    if (start < 0).any() or (size < 2 * _BLOCK).any() or (start > limits[shard] - size).any():
        return "a clip lies outside its shard"
    if (table["frames"] < manifest.frames).any():
        return f"a clip has fewer than {manifest.frames} frames"
    if not ((table["video"] >= 0) & (table["video"] < len(manifest.videos))).all():
        return "a clip of an unknown video"
    return ""
