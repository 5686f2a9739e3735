"""Memory that all ranks of one machine see: one anonymous segment, gone with its last process.

Rank 0 makes it (memfd_create: no file system, no size limit of /dev/shm, nothing to clean up after
a kill -9) and passes its descriptor on to the others.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from trainer.comm import Comm


class OneMachine:
    """Ranks that hold footage once between them (`data_shards.memory.Together`)."""

    def __init__(self, comm: Comm) -> None:
        self.comm, self.rank, self.world = comm, comm.rank, comm.world

    def memory(self, size: int) -> torch.Tensor | None:
        """As `share_memory`."""
        return share_memory(size, self.comm)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value."""
        return self.comm.gather_json(value)


def share_memory(size: int, comm: Comm) -> torch.Tensor | None:
    """`size` zero bytes (uint8) of memory that every rank reads and writes.

    Returns:
        None, on every rank, where they do not share a machine or one of them has no room for it.
    """
    if comm.links is None:
        return None
    made = _make(size) if comm.rank == 0 else -1
    if comm.gather_json(made >= 0)[0] is False:
        return None
    descriptor = made
    try:
        descriptor = comm.links.pass_on(made)
        segment = torch.from_file(
            f"/proc/self/fd/{descriptor}", shared=True, size=size, dtype=torch.uint8
        )
    except (OSError, RuntimeError):
        segment = None  # said below by all ranks alike
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return segment if all(comm.gather_json(segment is not None)) else None


def _make(size: int) -> int:
    """A descriptor of so much memory; -1 where the system refuses it."""
    descriptor = -1
    try:
        descriptor = os.memfd_create("navsynth")
        os.ftruncate(descriptor, size)
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        return -1
    return descriptor
