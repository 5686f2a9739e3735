"""What rank 0 writes for all ranks: tensors that are equal on all of them, and the run's counters.

Beside training, tensors are copied when the save begins, so that they are of that moment; turning
them into bytes is left to the thread that writes. They are written one by one: a copy of the
weights, of Adam's moments and of the average, kept from the first step on, is all that saves take
of memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer import commit
from trainer.share import Share, explain, write_share
from trainer.streamed import ROOM, StreamedSafetensors

Sets = Mapping[str, Mapping[str, torch.Tensor]]
"""Tensors by file and name."""
ENTRY = 256
"""Bytes that a tensor takes in a file's header beside its name, at most."""


class Commons(NamedTuple):
    """What one rank writes for all."""

    sets: Sets
    state: bytes


NOTHING = Commons({}, b"")
"""Of all ranks but the first."""


class Copies:
    """Copies in host memory that is kept from one save to the next: got anew, while the system's
    cache fills what is free, it held training up for three quarters of a second."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], torch.Tensor] = {}

    def reserve(self, sets: Sets) -> None:
        """Get the memory for copies of tensors such as these, and touch it."""
        for name, tensors in sets.items():
            for key, tensor in tensors.items():
                self._room(name, key, tensor).zero_()

    def take(self, sets: Sets, state: Mapping[str, Any], *, copy: bool) -> Commons:
        """Tensors and counters as they are now; with `copy` until the next call."""
        if copy:
            sets = {
                name: {key: self._copy(name, key, tensor) for key, tensor in tensors.items()}
                for name, tensors in sets.items()
            }
        return Commons(sets, (json.dumps(state, indent=1) + "\n").encode())

    def _copy(self, name: str, key: str, tensor: torch.Tensor) -> torch.Tensor:
        return self._room(name, key, tensor).copy_(tensor.detach())

    def _room(self, name: str, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """Memory of a tensor's shape: that of the last call, where it fits."""
        kept = self._kept.get((name, key))
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._kept[name, key] = torch.empty_like(tensor.detach(), device="cpu")
        return kept


def write(
    folder: Path,
    stem: str,
    commons: Commons,
    own: Iterator[tuple[str, torch.Tensor]],
    *,
    beat: Callable[[], None],
    beside: bool,
) -> Share:
    """Write and fsync this rank's files, those of `commons` first, `beside` training or not. Never
    raises: the other ranks wait for the answer."""
    files: dict[str, commit.FileFacts] = {}
    try:
        for name, tensors in commons.sets.items():
            files |= _write_set(folder, f"common-{name}", tensors, beside=beside)
            beat()
    except Exception as error:
        getattr(own, "close", lambda: None)()
        return Share({}, {}, {}, explain(error, folder))
    blobs = {commit.STATE: commons.state} if commons.state else {}
    share = write_share(folder, stem, blobs, own, beat=beat, beside=beside)
    return share if share.error else share._replace(files=files | share.files)


def _write_set(
    folder: Path, stem: str, tensors: Mapping[str, torch.Tensor], *, beside: bool
) -> dict[str, commit.FileFacts]:
    """One file of tensors, with room in its header for all of them."""
    names = sum(len(json.dumps(name)) + ENTRY for name in tensors)
    room = max(ROOM, -(-names // 8) * 8)
    writer = StreamedSafetensors(folder, stem, room=room, enough=None, beside=beside)
    try:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        return writer.close()
    finally:
        writer.abandon()
