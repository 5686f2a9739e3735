"""Footage that fits in memory: decoded once, then a batch is one gather."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from data_shards.dataset import ClipReader, Damage, Request
from data_shards.shards import OpenManifest

_CHUNK = 16
"""Clips decoded by a thread at a time."""
_QUIET_SECONDS = 2.0


def decoded_bytes(opened: OpenManifest) -> int:
    """Bytes that all stored frames take as uint8."""
    manifest = opened.manifest
    frames = int(opened.table["frames"].sum(dtype=np.int64))
    return frames * 3 * manifest.height * manifest.width


class Resident:
    """All stored frames of a data set as one uint8 tensor, on the CPU or a device.

    Damaged clips are zeros, listed in `damages`; their `valid_N` is False.

    Raises:
        UserError: a shard is out of reach.
    """

    def __init__(self, opened: OpenManifest, *, threads: int, progress: bool) -> None:
        manifest = opened.manifest
        stored_N = np.asarray(opened.table["frames"], dtype=np.int64)
        self.frames = manifest.frames
        self.uniform = bool((stored_N == manifest.frames).all())
        self.first_N = torch.from_numpy(np.cumsum(stored_N) - stored_N)
        size = (3, manifest.height, manifest.width)
        self.frames_FCHW = torch.zeros((int(stored_N.sum()), *size), dtype=torch.uint8)
        self.valid_N = torch.zeros(manifest.clips, dtype=torch.bool)
        self.damages: list[Damage] = []
        self.bytes = 0
        self._load(ClipReader(opened), threads=threads, progress=progress)

    def gather(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames, uint8 (B, T, C, H, W), and `valid_B` of a request."""
        device = self.frames_FCHW.device
        clip_B = torch.from_numpy(request.clip_B).to(device)
        if self.uniform:
            table_NTCHW = self.frames_FCHW.unflatten(0, (-1, self.frames))
            return table_NTCHW.index_select(0, clip_B), self.valid_N[clip_B]
        start_B = torch.from_numpy(request.start_B).to(device)
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

    def _load(self, reader: ClipReader, *, threads: int, progress: bool) -> None:
        clips = np.arange(len(self.valid_N))
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
