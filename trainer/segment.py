"""Memory that all ranks of one machine see: one anonymous segment, gone with its last process.

Rank 0 makes it (memfd_create: no file system, no size limit of /dev/shm, nothing to clean up after
a kill -9); the others open it through /proc. A token inside tells whether they opened the same one,
as ranks of other machines or containers do not.
"""

from __future__ import annotations

import os
import secrets

import torch

from trainer.comm import Comm

TOKEN_BYTES = 64


def share_memory(size: int, comm: Comm) -> torch.Tensor | None:
    """`size` zero bytes (uint8) of memory that every rank reads and writes.

    Returns:
        None, on every rank, where they do not all see one memory.
    """
    token = secrets.token_bytes(TOKEN_BYTES) if comm.rank == 0 else b""
    descriptor, path = -1, ""
    if comm.rank == 0 and hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("navsynth-weights")
        os.ftruncate(descriptor, size + TOKEN_BYTES)
        os.pwrite(descriptor, token, size)
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        path, wanted = comm.gather_json([path, token.hex()])[0]
        segment = _open(path, size, wanted)
        if all(comm.gather_json(segment is not None)):
            return segment
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(path: str, size: int, token: str) -> torch.Tensor | None:
    """The segment behind `path`; None where there is none or another one."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            if os.pread(file.fileno(), TOKEN_BYTES, size).hex() != token:
                return None
    except OSError:
        return None
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
