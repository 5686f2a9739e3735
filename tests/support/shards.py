"""Small prepared data sets for tests of the stream, written byte by byte from the format."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def pixels(clip: int, frames: int, size: int) -> np.ndarray:
    """Frames, uint8 (T, H, W, 3), that no other clip has; frame f begins with the bytes clip, f."""
    random = np.random.default_rng([clip, frames, size])
    frames_THWC = random.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    frames_THWC[:, 0, 0, 0], frames_THWC[:, 0, 0, 1] = clip % 256, np.arange(frames)
    return frames_THWC


def write_set(
    folder: Path,
    counts: Sequence[int],
    *,
    frames: int = 2,
    size: int = 4,
    codec: str = "raw",
    extra: Sequence[int] = (),
) -> Manifest:
    """Write shards of `counts` clips, clip table and manifest; one video a clip.

    With `extra` the set has whole videos: clip i stores `extra[i % len(extra)]` frames more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = sum(counts)
    table = np.zeros(clips, CLIP_RECORD)
    shards, clip = [], 0
    for number, count in enumerate(counts):
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(count):
                stored = frames + (extra[clip % len(extra)] if extra else 0)
                frames_THWC = pixels(clip, stored, size)
                payload = encode(frames_THWC, codec)
                info = tarfile.TarInfo(f"{clip:08d}.{codec}")
                info.size = len(payload)
                offset = tar.offset
                tar.addfile(info, io.BytesIO(payload))
                span = body.getvalue()[offset : tar.offset]
                table[clip] = (clip, 0, stored, number, offset, len(span), b"", 0)
                table[clip]["digest"] = np.void(digest_of(span))
                table[clip]["content"] = content_of(frames_THWC)
                clip += 1
        data = body.getvalue()
        name = f"shard-{number:05d}.tar"
        (folder / name).write_bytes(data)
        shards.append(Shard(name, count, len(data), hashlib.sha256(data).hexdigest()))
    np.save(folder / CLIPS, table)
    manifest = Manifest(
        name="tiny",
        source="synthetic",
        height=size,
        width=size,
        frames=frames,
        stride=1,
        windows="whole" if extra else "first",
        codec=codec,
        clips_sha256=hashlib.sha256((folder / CLIPS).read_bytes()).hexdigest(),
        shards=tuple(shards),
        videos=tuple(Video(f"video{i}", i % 3, i % 2 - 1, frames) for i in range(clips)),
        identities=("a", "b", "c"),
        actions=("wave",),
    )
    (folder / MANIFEST).write_text(dumps(manifest))
    return manifest
