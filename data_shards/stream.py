"""The stream: a rank's part of every global batch, in order, for ever.

What comes is fixed by the plan (`plan.Plan`); this module decides only how it gets here:

* footage that fits in `data.cache_mib` is decoded once and gathered from memory;
* otherwise threads of this process (`data.workers=0`) or loader processes read ahead.

All three give the same batches. Damaged clips stop the stream or are given no weight
(`data.on_damage`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from data_shards.batch import ClipBatch
from data_shards.config import DataConfig
from data_shards.dataset import ClipReader, Damage, DamagedShard, Part, Request
from data_shards.errors import UserError
from data_shards.memory import Resident, Together, decoded_bytes
from data_shards.plan import Plan, rank_slots
from data_shards.readahead import Memory, Processes, Source, Threads
from data_shards.shards import OpenManifest, open_manifest

__all__ = [
    "ClipBatch",
    "Counters",
    "Damage",
    "DamagedShard",
    "DataConfig",
    "OpenManifest",
    "Stream",
    "make_plan",
    "open_manifest",
]


class Counters(NamedTuple):
    """What a stream has done so far, on this rank."""

    clips: int
    """Clips delivered."""
    bytes: int
    """Bytes of shards read."""
    retries: int
    """Calls to a remote store, and reads of a disk, that had to be repeated."""
    damaged: int
    """Clips found damaged."""
    wait_seconds: float
    """Time that the caller spent waiting for batches."""
    queue_depth: int
    """Batches that lie ready."""


def make_plan(opened: OpenManifest, config: DataConfig, *, seed: int, batch: int) -> Plan:
    """The plan of an opened data set."""
    return Plan(
        [shard.clips for shard in opened.manifest.shards],
        seed=seed,
        batch=batch,
        group=config.shuffle_shards,
        block=config.shuffle_block,
    )


class Stream:
    """An endless iterator of `ClipBatch` (CPU tensors, uint8 frames) for one rank.

    Args:
        opened: from `open_manifest`.
        config: how to read.
        seed: of the plan; the same on all ranks.
        batch: clips of a global batch, over all ranks.
        rank: this rank of `world`.
        start_step: the step of the first batch.
        progress: show a bar where decoding into memory takes more than two seconds.
        together: the ranks, where they may hold footage that fits in memory once between them;
            every rank makes its stream then.

    `step` is the step of the batch that comes next: all that a resume needs.
    `damaged` lists the clips found damaged, each once. `close()` ends loader processes.

    Raises:
        DamagedShard: with `on_damage=fail`, here or while iterating; names shard, clip and bytes.
        UserError: a store is out of reach.
    """

    def __init__(
        self,
        opened: OpenManifest,
        config: DataConfig,
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        progress: bool = False,
        together: Together | None = None,
    ) -> None:
        self.opened, self.config = opened, config
        self.plan = make_plan(opened, config, seed=seed, batch=batch)
        self.slots = rank_slots(batch, rank=rank, world=world)
        self.step = start_step
        self.damaged: list[Damage] = []
        self.wait_seconds = 0.0
        self.resident: Resident | None = None
        self._seen: set[int] = set()
        self._clips = self._bytes = self._retries = 0
        videos = opened.manifest.videos
        self._identity_V = np.array([video.identity for video in videos], dtype=np.int64)
        self._action_V = np.array([video.action for video in videos], dtype=np.int64)
        self._looking: Plan | None = None
        self._source = self._open(progress, together)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> ClipBatch:
        """The batch of `self.step`."""
        if self._source is None:
            raise UserError("the stream is closed")
        started = time.perf_counter()
        part = self._source.next()
        self.wait_seconds += time.perf_counter() - started
        if part.error:
            raise UserError(part.error)
        self._report(part.damages)
        self._clips += len(part.request.clip_B)
        self._bytes += part.bytes
        if self.config.workers:
            self._retries += part.retries
        self.step = part.request.step + 1
        return self._batch(part)

    @property
    def distant(self) -> bool:
        """Whether batches may have to wait for a store."""
        return self.resident is None and not self.opened.shards.store.local

    def wait(self, seconds: float) -> bool:
        """Whether the next batch is there, after so many seconds at most."""
        started = time.perf_counter()
        there = self._source is None or self._source.wait(seconds)
        self.wait_seconds += time.perf_counter() - started
        return there

    def moved(self) -> bool:
        """Whether bytes of the store have come to this node since the last call."""
        shards = self.opened.shards
        own = {shard.sha256 for shard in self.opened.manifest.shards}
        return shards.cache is not None and shards.cache.moved(own)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def counters(self) -> Counters:
        """Counters of this rank, for telemetry."""
        ready = self._source.ready() if self._source else 0
        found = len(self.damaged)
        retries = self.opened.shards.store.retries + self._retries
        return Counters(self._clips, self._bytes, retries, found, self.wait_seconds, ready)

    def to_(self, device: torch.device | str) -> bool:
        """Hold footage that is in memory on a device instead; False where it is not in memory.

        Frames and `valid_B` of the batches then lie there; the row numbers stay on the CPU.
        """
        if self.resident is not None:
            self.resident.to_(device)
        return self.resident is not None

    def close(self) -> None:
        """End loader processes, threads and downloads. The stream cannot be read any more."""
        source, self._source = self._source, None
        if source is not None:
            source.cancel()  # what is begun behind the next line is not ended by it
            self.opened.shards.close()
            source.close()

    def request(self, step: int) -> Request:
        """What this rank reads for a step."""
        whole = self.plan.batch(step)
        part = type(whole)(*(column[self.slots.start : self.slots.stop] for column in whole))
        stored_B = self.opened.table["frames"][part.clip_B]
        start_B = self.plan.windows(part, stored_B=stored_B, frames=self.opened.manifest.frames)
        return Request(step, part.clip_B, start_B)

    def rows(self, step: int, kind: str) -> torch.Tensor:
        """Rows, int64 (batch,), that the whole global batch of any step has in a table of a key
        kind; without the rows of absent labels."""
        if self._looking is None:  # a plan of its own: loader threads use the other one
            seed, size = self.plan.seed, self.plan.batch_size
            self._looking = make_plan(self.opened, self.config, seed=seed, batch=size)
        none = torch.zeros(0)
        labels = self._labels(self._looking.batch(step).clip_B)
        rows = ClipBatch(none, **labels, slot_B=none, valid_B=none).rows(kind)
        return rows[rows >= 0]

    def _requests(self) -> Iterator[Request]:
        step = self.step
        while True:
            if self.distant:
                self.opened.shards.fetch_ahead(self.plan.shards_ahead(step))
            yield self.request(step)
            step += 1

    def _open(self, progress: bool, together: Together | None) -> Source | None:
        config = self.config
        if decoded_bytes(self.opened) <= config.cache_mib * 2**20:
            self.resident = Resident(
                self.opened, threads=config.decoding_threads(), progress=progress, together=together
            )
            self._bytes = self.resident.bytes
            self._report(self.resident.damages)
            return Memory(self.resident, self._requests())
        reader = ClipReader(self.opened, whole=True)
        if config.workers:
            return Processes(reader, self._requests(), config)
        return Threads(reader, self._requests(), config)

    def _report(self, damages: tuple[Damage, ...] | list[Damage]) -> None:
        """Apply the policy to damage."""
        for damage in damages:
            if self.config.on_damage == "fail":
                raise DamagedShard(
                    f"{damage.reason}; copy the shard again, or set data.on_damage=quarantine"
                )
            if damage.clip not in self._seen:
                self._seen.add(damage.clip)
                self.damaged.append(damage)

    def _batch(self, part: Part) -> ClipBatch:
        return ClipBatch(
            frames_BTCHW=part.frames_BTCHW,
            **self._labels(part.request.clip_B),
            slot_B=torch.arange(self.slots.start, self.slots.stop),
            valid_B=part.valid_B,
        )

    def _labels(self, clip_B: np.ndarray) -> dict[str, torch.Tensor]:
        """Columns of a batch that say what its clips belong to."""
        video_B = self.opened.table["video"][clip_B].astype(np.int64)
        return {
            "clip_B": torch.from_numpy(clip_B.copy()),
            "video_B": torch.from_numpy(video_B),
            "identity_B": torch.from_numpy(self._identity_V[video_B]),
            "action_B": torch.from_numpy(self._action_V[video_B]),
        }
