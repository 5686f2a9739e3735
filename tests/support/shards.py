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


GOLF_CLIPS, GOLF_VIDEOS = 583_508, 20_268


def write_golf_tables(folder: Path, *, shard_clips: int = 2000) -> Manifest:
    """Manifest and clip table of the full golf set beside shards that are holes: nothing to decode.

    Videos of different lengths in 500 folders; every clip has a content hash of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip_N = np.arange(GOLF_CLIPS)
    table = np.zeros(GOLF_CLIPS, CLIP_RECORD)
    lengths = np.random.default_rng(0).integers(1, 60, GOLF_VIDEOS)
    ends = np.cumsum(lengths) * GOLF_CLIPS // lengths.sum()
    table["video"] = np.searchsorted(ends, clip_N, side="right").clip(max=GOLF_VIDEOS - 1)
    table["frames"], table["size"] = 16, 4096
    table["shard"], table["offset"] = clip_N // shard_clips, clip_N % shard_clips * 4096
    table["content"] = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, GOLF_CLIPS)
    np.save(folder / CLIPS, table)
    shards = []
    for number, count in enumerate(np.bincount(table["shard"]).tolist()):
        shards.append(Shard(f"shard-{number:05d}.tar", count, count * 4096, "0" * 64))
        with (folder / shards[-1].file).open("wb") as file:
            file.truncate(count * 4096)
    scenes = tuple(f"{scene:04d}" for scene in range(500))
    videos = (
        Video(f"frames-stable-many/{v % 500:04d}/golf_{v:012d}", v % 500, -1, 900)
        for v in range(GOLF_VIDEOS)
    )
    clips_sha256 = hashlib.sha256((folder / CLIPS).read_bytes()).hexdigest()
    manifest = Manifest(
        "golf", "golf", 128, 128, 16, 1, "all", "jpg", clips_sha256, tuple(shards), tuple(videos),
        scenes, (),
    )  # fmt: skip
    (folder / MANIFEST).write_text(dumps(manifest))
    return manifest
