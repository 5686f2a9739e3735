"""Clips by number: read by byte range, verified, decoded.

A clip is `size` bytes at `offset` of its shard: tar header, payload, padding. Their digest stands
in the clip table, whose own SHA-256 stands in the manifest; so a flipped bit or a missing byte
anywhere in a clip is found before its pixels go anywhere. What is found is not raised here but told
(`Damage`), as this code also runs in loader processes; `stream.Stream` applies the policy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from data_shards.config import DataConfig
from data_shards.errors import UserError
from data_shards.manifest import digest_of
from data_shards.payloads import decode
from data_shards.shards import OpenManifest, open_manifest

T = TypeVar("T")
U = TypeVar("U")
_AT_ONCE = 8
"""Shards of a remote store whose single clips are asked for at a time."""
_BLOCK = 512
_NAME, _SIZE, _MAGIC = slice(0, 100), slice(124, 136), slice(257, 262)
"""Fields of a ustar header."""


class DamagedShard(UserError):  # noqa: N818
    """Bytes of a shard are not those that were written; names shard, clip and byte range."""


class Damage(NamedTuple):
    """A clip that cannot be trusted."""

    clip: int
    reason: str


class Request(NamedTuple):
    """One rank's part of one global batch, still on disk."""

    step: int
    clip_B: np.ndarray
    start_B: np.ndarray
    """First frame of each clip's window."""


class Part(NamedTuple):
    """The same, read. `error` is a user's error met on the way (its message), or empty."""

    request: Request
    frames_BTCHW: torch.Tensor
    valid_B: torch.Tensor
    damages: tuple[Damage, ...]
    bytes: int
    retries: int
    error: str


def problem_of(part: Part, *, on_damage: str) -> str:
    """Why a part must not be used under a policy (`data.on_damage`); empty where it may."""
    if part.damages and on_damage == "fail":
        return part.error or part.damages[0].reason
    return part.error


class ClipReader(torch.utils.data.Dataset):
    """Reads clips of one data set; safe to share by threads and to send to other processes.

    Args:
        opened: from `open_manifest`.
        whole: fetch shards of a remote store whole, as a stream does, which reads all of each;
            otherwise single clips come by their byte ranges (`single.Singles`).
    """

    def __init__(self, opened: OpenManifest, *, whole: bool = False) -> None:
        self.opened, self.whole = opened, whole

    def __reduce__(self) -> tuple:
        """Another process opens the manifest itself: files and locks do not travel."""
        return _reopen, (self.opened.where, self.opened.config, self.whole)

    def __getitem__(self, request: Request) -> Part:
        """Read a request; damage takes its place as zeros with `valid_B` False."""
        manifest = self.opened.manifest
        shape_TCHW = (manifest.frames, 3, manifest.height, manifest.width)
        frames_BTCHW = _empty(len(request.clip_B), *shape_TCHW)
        places_BTCHW = frames_BTCHW.numpy()
        valid_B = torch.zeros(len(request.clip_B), dtype=torch.bool)
        damages, read, error = [], 0, ""
        before = self.opened.shards.store.retries
        try:
            for slot, pixels, size in self.clips(request.clip_B):
                read += size
                if isinstance(pixels, Damage):
                    damages.append(pixels)
                    continue
                start = int(request.start_B[slot])
                window_THWC = pixels[start : start + manifest.frames]
                # At once, while the cache has it; by numpy: torch would start a team of threads.
                np.copyto(places_BTCHW[slot], window_THWC.transpose(0, 3, 1, 2))
                valid_B[slot] = True
        except UserError as problem:
            error = str(problem)
        places_BTCHW[~valid_B.numpy()] = 0
        retries = self.opened.shards.store.retries - before
        return Part(request, frames_BTCHW, valid_B, tuple(damages), read, retries, error)

    def clips(self, clip_B: np.ndarray) -> Iterator[tuple[int, np.ndarray | Damage, int]]:
        """(slot, all stored frames as uint8 THWC or the damage, bytes read), shard by shard.

        Raises:
            UserError: a shard is out of reach.
        """
        records_B = self.opened.table[clip_B]
        slots = np.lexsort((records_B["offset"], records_B["shard"]))
        bounds = np.flatnonzero(np.diff(records_B["shard"][slots])) + 1
        groups = np.split(slots, bounds) if len(slots) else []

        def read(group: np.ndarray) -> list[tuple[bytes, str]]:
            records_G = records_B[group]
            return self._spans(int(records_G["shard"][0]), clip_B[group], records_G)

        for group, spans in zip(groups, self._ahead(read, groups), strict=True):
            for slot, record, (span, problem) in zip(group, records_B[group], spans, strict=True):
                clip = int(clip_B[slot])
                yield int(slot), self._verified(clip, record, span, problem), len(span)

    def _ahead(self, read: Callable[[T], U], groups: Sequence[T]) -> Iterator[U]:
        """`read` of each group in order; of a remote store several at a time, since each waits for
        it rather than for this machine."""
        if self.whole or self.opened.shards.singles is None or len(groups) < 2:
            yield from map(read, groups)
            return
        pool = ThreadPoolExecutor(min(_AT_ONCE, len(groups)), "navsynth-ranges")
        try:
            yield from pool.map(read, groups)
        finally:
            pool.shutdown(cancel_futures=True)

    def _spans(
        self, number: int, clip_G: np.ndarray, records_G: np.ndarray
    ) -> list[tuple[bytes, str]]:
        """Bytes of clips of one shard, and what is wrong with each or nothing; a node's copy that
        has changed since it was made is made anew and read once more."""
        shards = self.opened.shards

        def judged(spans: list[bytes]) -> list[tuple[bytes, str]]:
            of = zip(spans, clip_G, records_G, strict=True)
            return [(span, span_problem(span, int(clip), record)) for span, clip, record in of]

        def read(descriptor: int) -> tuple[list[tuple[bytes, str]], bool]:
            found = judged([_pread(descriptor, record) for record in records_G])
            again = any(problem for _, problem in found) and shards.renew(number, descriptor)
            return found, again

        if not self.whole and (singles := shards.singles):
            shard = shards.manifest.shards[number]
            if found := singles.read(shard, records_G, judged):
                return found
        found, again = shards.read(number, read)
        return shards.read(number, read)[0] if again else found

    def _verified(self, clip: int, record: Any, span: bytes, reason: str) -> np.ndarray | Damage:
        """Pixels of a span, unless there is a reason not to trust it."""
        manifest = self.opened.manifest
        if not reason:
            payload = span[_BLOCK : _BLOCK + int(span[_SIZE].strip(b"\0 "), 8)]
            size = {"height": manifest.height, "width": manifest.width}
            try:
                return decode(payload, manifest.codec, frames=int(record["frames"]), **size)
            except ValueError as error:
                reason = f"cannot be decoded ({error})"
        start, end = int(record["offset"]), int(record["offset"] + record["size"])
        place = self.opened.shards.place(int(record["shard"]))
        return Damage(clip, f"{place}: clip {clip}, bytes {start}..{end - 1}: {reason}")


def span_problem(span: bytes, clip: int, record: Any) -> str:
    """What is wrong with the bytes of a clip (header, payload, padding), or nothing."""
    if len(span) != int(record["size"]):
        return f"cut short, {len(span)} of {int(record['size'])} bytes are there"
    if digest_of(span) != record["digest"].tobytes():
        return "its bytes have changed (digest)"
    name = span[_NAME].rstrip(b"\0").decode("ascii", "replace")
    size = span[_SIZE].strip(b"\0 ")
    digits = bool(size) and set(size) <= set(b"01234567")
    if span[_MAGIC] != b"ustar" or name.partition(".")[0] != f"{clip:08d}" or not digits:
        return f"its tar header is that of {name!r}"
    if -(-int(size, 8) // _BLOCK) * _BLOCK + _BLOCK != len(span):
        return "its tar header tells another size"
    return ""


def _empty(*shape: int) -> torch.Tensor:
    """Memory for a batch, uint8; in a loader process shared memory, in which it then travels."""
    size = math.prod(shape)
    if get_worker_info() is None or not size:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)  # as torch's own collation
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _reopen(where: str, config: DataConfig, whole: bool) -> ClipReader:
    return ClipReader(open_manifest(where, config=config), whole=whole)


def _pread(descriptor: int, record: Any) -> bytes:
    """The bytes of a clip, fewer where the shard ends early (OSError)."""
    size, offset = int(record["size"]), int(record["offset"])
    pieces = []
    while size > 0:
        piece = os.pread(descriptor, size, offset)
        if not piece:
            break
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)
