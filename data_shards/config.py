"""Settings of the stream: where the footage lies and how it is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from data_shards.cores import cores
from data_shards.errors import UserError

DAMAGE = ("fail", "quarantine")
FEW_THREADS, MOST_THREADS = 2, 16
"""Decoding threads of a rank, where none are asked for: beside a CPU, and at most."""
WORKER_STARTS = ("fork", "forkserver", "spawn")


@dataclass(frozen=True)
class DataConfig:
    """What is read, from where, by how many hands, and what happens to damage."""

    manifest: str = ""
    """Folder, or manifest.json itself: a path, http(s)://... or s3://..."""
    workers: int = 0
    """Loader processes of each rank; 0 decodes on threads inside the rank."""
    threads: int = 0
    """Decoding threads of a rank without loader processes; 0: two, and beside a GPU, which leaves
    the cores free, the machine's cores divided by its processes, at most 16."""
    prefetch: int = 4
    """Batches read ahead, per loader process or, without them, per rank, there at least as many as
    it has decoding threads."""
    worker_start: str = "fork"
    """How loader processes start: fork, forkserver or spawn."""
    cache_mib: int = 2048
    """Footage that decodes to at most this much uint8 is decoded once and held in memory."""
    on_damage: str = "fail"
    """`fail` stops at the first damaged clip; `quarantine` gives it no weight and goes on."""
    shuffle_shards: int = 16
    """Shards merged at a time."""
    shuffle_block: int = 4096
    """Clips shuffled at a time, after the merge."""
    cache_dir: str = ""
    """Copies of shards from a remote store, shared by a node's ranks; empty: the user's cache."""
    cache_gib: float = 64.0
    """Bound of those copies on disk, clip tables included."""
    timeout_seconds: float = 60.0
    """A store that delivers nothing for so long, over all retries, is an error."""
    attempts: int = 10
    """Tries at one file of a remote store, and at a read that a disk refuses."""

    def __post_init__(self) -> None:
        ranges = (
            ("workers", 0),
            ("threads", 0),
            ("prefetch", 1),
            ("cache_mib", 0),
            ("attempts", 1),
        )
        for name, least in (*ranges, ("shuffle_shards", 1), ("shuffle_block", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}: {getattr(self, name)} must be at least {least}")
        for name in ("cache_gib", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"data.{name}: {getattr(self, name)} must be positive")
        for name, known in (("on_damage", DAMAGE), ("worker_start", WORKER_STARTS)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"data.{name}: {getattr(self, name)!r} must be one of {', '.join(known)}"
                )

    def decoding_threads(self) -> int:
        """`threads`, or what 0 stands for on this machine."""
        if self.threads or not torch.cuda.is_available():
            return self.threads or FEW_THREADS
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return min(MOST_THREADS, max(FEW_THREADS, cores() // local))

    def cache_folder(self) -> Path:
        """Where copies of remote shards are kept."""
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "navsynth"
