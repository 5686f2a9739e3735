"""Footage that fits in memory: decoded once, then a batch is one gather.

Ranks of one machine hold it once between them: each decodes its part into memory that all of them
see, and all learn what was damaged.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from data_shards.dataset import ClipReader, Damage, Request
from data_shards.errors import UserError
from data_shards.onto import onto
from data_shards.shards import OpenManifest

_CHUNK = 16
"""Clips decoded by a thread at a time."""
_QUIET_SECONDS = 2.0


class Together(Protocol):
    """The ranks that read one data set together. All of them call the same methods in order."""

    rank: int
    world: int

    def memory(self, size: int) -> torch.Tensor | None:
        """`size` zero bytes (uint8) that every rank sees; None, on every rank, where they cannot.

        It goes with the last tensor that refers to it.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value, by rank."""
        ...


def decoded_bytes(opened: OpenManifest) -> int:
    """Bytes that all stored frames take as uint8."""
    manifest = opened.manifest
    frames = int(opened.table["frames"].sum(dtype=np.int64))
    return frames * 3 * manifest.height * manifest.width


class Resident:
    """All stored frames of a data set as one uint8 tensor, on the CPU or a device.

    Damaged clips are zeros, listed in `damages`; their `valid_N` is False. With `together`, ranks
    that can share memory do; damage and errors are then the same on all of them.

    Raises:
        UserError: a shard is out of reach.
    """

    def __init__(
        self,
        opened: OpenManifest,
        *,
        threads: int,
        progress: bool,
        together: Together | None = None,
    ) -> None:
        manifest = opened.manifest
        stored_N = np.asarray(opened.table["frames"], dtype=np.int64)
        self.frames = manifest.frames
        self.uniform = bool((stored_N == manifest.frames).all())
        self.first_N = torch.from_numpy(np.cumsum(stored_N) - stored_N)
        shape = (int(stored_N.sum()), 3, manifest.height, manifest.width)
        memory = None
        if together is not None and together.world > 1:
            memory = together.memory(decoded_bytes(opened))
        if memory is None:
            memory, together = torch.zeros(decoded_bytes(opened), dtype=torch.uint8), None
        self.frames_FCHW = memory.view(shape)
        self.valid_N = torch.zeros(manifest.clips, dtype=torch.bool)
        self.damages: list[Damage] = []
        self.bytes = 0
        reader, clip_N = ClipReader(opened, whole=True), np.arange(manifest.clips)
        if together is None:
            self._load(reader, clip_N, threads=threads, progress=progress)
        else:
            mine_N = np.array_split(clip_N, together.world)[together.rank]
            self._load_together(reader, mine_N, together, threads=threads, progress=progress)

    def gather(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames, uint8 (B, T, C, H, W), and `valid_B` of a request."""
        device = self.frames_FCHW.device
        clip_B = onto(torch.from_numpy(request.clip_B), device)
        if self.uniform:
            table_NTCHW = self.frames_FCHW.unflatten(0, (-1, self.frames))
            return table_NTCHW.index_select(0, clip_B), self.valid_N[clip_B]
        start_B = onto(torch.from_numpy(request.start_B), device)
        time_T = torch.arange(self.frames, device=device)
        rows_BT = (self.first_N[clip_B] + start_B)[:, None] + time_T
        frames_BTCHW = self.frames_FCHW.index_select(0, rows_BT.flatten()).unflatten(
            0, (len(clip_B), self.frames)
        )
        return frames_BTCHW, self.valid_N[clip_B]

    def to_(self, device: torch.device | str) -> Resident:
        """Move the frames to a device; batches are gathered there from now on."""
        self.frames_FCHW = self.frames_FCHW.to(device)
        self.first_N, self.valid_N = self.first_N.to(device), self.valid_N.to(device)
        return self

    def _load_together(
        self,
        reader: ClipReader,
        mine_N: np.ndarray,
        together: Together,
        *,
        threads: int,
        progress: bool,
    ) -> None:
        """Decode this rank's part; then all know that everything is there, or why it is not."""
        error = ""
        try:
            self._load(reader, mine_N, threads=threads, progress=progress)
        except UserError as problem:
            error = str(problem)
        told = together.gather([error, self.damages])
        for problem, _ in told:
            if problem:
                raise UserError(problem)
        self.damages = [Damage(clip, reason) for _, found in told for clip, reason in found]
        self.valid_N.fill_(True)
        for damage in self.damages:
            self.valid_N[damage.clip] = False

    def _load(self, reader: ClipReader, clips: np.ndarray, *, threads: int, progress: bool) -> None:
        chunks = np.split(clips, range(_CHUNK, len(clips), _CHUNK))
        started = time.monotonic()
        console = Console(file=sys.stderr)
        with (
            Progress(console=console, transient=True, disable=not progress) as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            task = bar.add_task("decoding footage", total=len(clips), visible=False)
            for count, damages, size in pool.map(lambda c: self._decode(reader, c), chunks):
                self.damages += damages
                self.bytes += size
                late = time.monotonic() - started > _QUIET_SECONDS
                bar.update(task, advance=count, visible=late)

    def _decode(self, reader: ClipReader, clip_B: np.ndarray) -> tuple[int, list[Damage], int]:
        damages, read = [], 0
        for slot, pixels, size in reader.clips(clip_B):
            read += size
            if isinstance(pixels, Damage):
                damages.append(pixels)
                continue
            first = int(self.first_N[clip_B[slot]])
            place_TCHW = self.frames_FCHW[first : first + len(pixels)].numpy()
            np.copyto(place_TCHW, pixels.transpose(0, 3, 1, 2))
            self.valid_N[int(clip_B[slot])] = True
        return len(clip_B), damages, read
