"""Shards for `benchmarks.stream`: the same clips in every storage format."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data_shards.manifest import (
    CLIP_RECORD,
    CLIPS,
    MANIFEST,
    Manifest,
    Shard,
    Video,
    content_of,
    digest_of,
    dumps,
)
from data_shards.payloads import encode

FRAMES = 16


def source_clips(footage: Path | None, *, size: int, most: int = 128) -> list[np.ndarray]:
    """Clips, uint8 (16, size, size, 3): windows of the strips below `footage`, or moving shapes."""
    strips = sorted(footage.rglob("*.png")) if footage else []
    clips: list[np.ndarray] = []
    for path in strips:
        with Image.open(path) as image:
            side = image.height
            count = image.width // side
            for first in range(0, count - FRAMES + 1, FRAMES):
                boxes = [(f * side, 0, (f + 1) * side, side) for f in range(first, first + FRAMES)]
                cut = [image.crop(b).convert("RGB").resize((size, size)) for b in boxes]
                clips.append(np.stack([np.asarray(frame) for frame in cut]))
    if not clips:
        clips = [_moving_shape(seed, size) for seed in range(min(most, 64))]
    return clips[:most]


def write_set(folder: Path, clips: list[np.ndarray], *, codec: str, count: int, shards: int) -> int:
    """Write `count` clips (the given ones in turn) in `shards` shards; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    payloads = [encode(frames_THWC, codec) for frames_THWC in clips]
    contents = [content_of(frames_THWC) for frames_THWC in clips]
    table, facts = np.zeros(count, CLIP_RECORD), []
    for number, members in enumerate(np.array_split(np.arange(count), shards)):
        path = folder / f"shard-{number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in members:
                payload = payloads[clip % len(payloads)]
                info = tarfile.TarInfo(f"{clip:08d}.{codec}")
                info.size = len(payload)
                header = info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
                span = header + payload + bytes(-len(payload) % 512)
                table[clip] = (clip, 0, FRAMES, number, tar.offset, len(span), b"", 0)
                table[clip]["digest"] = np.void(digest_of(span))
                table[clip]["content"] = contents[clip % len(contents)]
                tar.addfile(info, io.BytesIO(payload))
        data = path.read_bytes()
        facts.append(Shard(path.name, len(members), len(data), hashlib.sha256(data).hexdigest()))
    np.save(folder / CLIPS, table)
    size = clips[0].shape[1]
    manifest = Manifest(
        name=f"bench-{codec}",
        source="benchmark",
        height=size,
        width=size,
        frames=FRAMES,
        stride=1,
        windows="first",
        codec=codec,
        clips_sha256=hashlib.sha256((folder / CLIPS).read_bytes()).hexdigest(),
        shards=tuple(facts),
        videos=tuple(Video(f"video{clip}", -1, -1, FRAMES) for clip in range(count)),
        identities=(),
        actions=(),
    )
    (folder / MANIFEST).write_text(dumps(manifest))
    return sum(shard.bytes for shard in facts)


def read_limit(folder: Path, *, cold: bool) -> float:
    """Bytes per second of reading all shards front to back, from the disk or the page cache."""
    done, seconds = 0, 0.0
    for path in sorted(folder.glob("*.tar")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if cold:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while block := os.read(descriptor, 1 << 20):
                done += len(block)
            seconds += time.perf_counter() - started
        finally:
            os.close(descriptor)
    return done / seconds


def _moving_shape(seed: int, size: int) -> np.ndarray:
    """A disc on a path over a coloured gradient with a little noise, as a camera gives."""
    random = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[:size, :size] / size
    base, colour = random.uniform(30, 200, (2, 3))
    speed, phase = random.uniform(0.1, 0.6), random.uniform(0, 6.28)
    frames = []
    for frame in range(FRAMES):
        centre = 0.5 + 0.3 * np.array([np.cos(phase + speed * frame), np.sin(phase)])
        inside_HW = (x_HW - centre[0]) ** 2 + (y_HW - centre[1]) ** 2 < 0.03
        image_HWC = np.where(inside_HW[..., None], colour, base * (0.6 + 0.4 * y_HW[..., None]))
        noisy_HWC = image_HWC + random.normal(0, 2, image_HWC.shape)
        frames.append(np.clip(noisy_HWC, 0, 255).astype(np.uint8))
    return np.stack(frames)
