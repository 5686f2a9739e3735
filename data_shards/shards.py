"""An opened manifest: its checked table of clips, and its shards, to be read by byte range."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_shards.cache import NodeCache
from data_shards.config import DataConfig
from data_shards.errors import UserError
from data_shards.manifest import CLIP_RECORD, CLIPS, MANIFEST, Manifest, loads
from data_shards.store import Store

_OPEN_FILES = 64
_BLOCK = 512
"""Bytes of a tar block."""


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
    table = _open_table(store, manifest, config)
    shards = Shards(store, manifest, config)
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
                config.cache_folder(),
                limit=int(config.cache_gib * 2**30),
                timeout=config.timeout_seconds,
                keep_damaged=not self.strict,
            )
            self._check_room(config)
        self._files: OrderedDict[int, _File] = OrderedDict()
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
                    f"{shard.bytes}; copy the shard again, prepare the footage again, "
                    "or set data.on_damage=quarantine"
                )

    def place(self, number: int) -> str:
        """Where the bytes of a shard are read, for errors."""
        shard = self.manifest.shards[number]
        copy = f" (copy {shard.sha256} in {self.cache.folder})" if self.cache else ""
        return self.store.url(shard.file) + copy

    @contextlib.contextmanager
    def open(self, number: int) -> Iterator[int]:
        """A descriptor to `os.pread` a shard from, valid inside the `with`."""
        if self.cache is not None:
            shard = self.manifest.shards[number]
            with self.cache.open(shard, lambda part: self.store.fetch(shard.file, into=part)) as fd:
                yield fd
            return
        file = self._local(number)
        yield file.descriptor

    def fetch_ahead(self, numbers: Iterable[int]) -> None:
        """Begin to download shards that will be needed soon; failures show when they are read."""
        wanted = set(numbers)
        if self.cache is None or wanted == self._ahead:
            return
        missing, self._ahead = sorted(wanted - self._ahead), wanted
        if not missing:  # some of them are only not needed any more
            return
        # The event of now: a thread that gets going after `close` must not begin at all.
        words = (missing, self.store.stop)
        threading.Thread(target=self._fetch_all, args=words, daemon=True).start()

    def close(self) -> None:
        """End downloads under way and close the files; both may be opened again."""
        self.store.close()
        with self._lock:
            self._files.clear()
        self._ahead = set()

    def _fetch_all(self, numbers: list[int], stop: threading.Event) -> None:
        assert self.cache is not None
        for number in numbers:
            shard = self.manifest.shards[number]
            try:
                self.cache.ensure(
                    shard, lambda part, s=shard: self.store.fetch(s.file, into=part, stop=stop)
                )
            except UserError:
                return  # The reader meets the same failure and reports it where it can be handled.

    def _local(self, number: int) -> _File:
        with self._lock:
            if number not in self._files:
                path = self.store.path(self.manifest.shards[number].file)
                self._files[number] = _File(path)
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(number)
            return self._files[number]

    def _check_room(self, config: DataConfig) -> None:
        """Two groups of shards are in use at a time: they must fit."""
        assert self.cache is not None
        sizes = sorted((shard.bytes for shard in self.manifest.shards), reverse=True)
        needed = sum(sizes[: 2 * config.shuffle_shards])
        if needed > self.cache.limit:
            raise UserError(
                f"data.cache_gib: {config.cache_gib:g} is too small for twice "
                f"data.shuffle_shards={config.shuffle_shards} shards; "
                f"it takes {needed / 2**30 + 0.005:.2f}"
            )


class _File:
    """A descriptor that closes when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; is the shard still there?") from None

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _open_table(store: Store, manifest: Manifest, config: DataConfig) -> np.ndarray:
    """The clip table, mapped; a remote one is copied to the cache first (UserError)."""
    name = store.url(CLIPS)
    if store.local:
        path = store.path(CLIPS)
    else:
        folder = config.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{manifest.clips_sha256}.npy"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.table")
            part.write_bytes(store.read(CLIPS))
            part.replace(path)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != manifest.clips_sha256:
            if not store.local:
                path.unlink()
            raise UserError(f"{name}: altered (SHA-256); prepare the footage again")
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; prepare the footage again") from None
    except ValueError as error:
        raise UserError(f"{name}: {error}; prepare the footage again") from None
    problem = _table_problem(table, manifest)
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
