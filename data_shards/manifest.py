"""The manifest: every fact about prepared footage, next to its shards.

`manifest.json` holds the tables (shards, videos, labels); `clips.npy` holds one fixed-size record
for each clip and is mapped, not read, so that half a million clips cost no memory. Its SHA-256 is
in the manifest. A shard is a plain tar that webdataset reads as well; member `00000012.png` is
clip 12.

A record's `digest` covers the whole span of its tar member (header, payload, padding), which is
what lets one clip be read and trusted without the rest of its shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from data_shards.errors import UserError

FORMAT = "navsynth-manifest/1"
MANIFEST = "manifest.json"
CLIPS = "clips.npy"
REJECTS = "rejects.csv"

CLIP_RECORD = np.dtype(
    [
        ("video", "<i4"),  # row of `Manifest.videos`
        ("start", "<i4"),  # first source frame of the clip
        ("frames", "<i4"),  # frames stored: Manifest.frames, or more where windows is "whole"
        ("shard", "<i4"),  # row of `Manifest.shards`
        ("offset", "<i8"),  # of the member's tar header in the shard, bytes
        ("size", "<i8"),  # of header + payload + padding, bytes
        ("digest", "V16"),  # of those bytes, see `digest_of`
        (
            "content",
            "<i8",
        ),  # hash of the pixels, see `content_of`; pairs a latent row with its clip
    ]
)


class Video(NamedTuple):
    """One source video. `identity` and `action` are rows of the label tables; -1: no label."""

    name: str
    identity: int
    action: int
    frames: int


class Shard(NamedTuple):
    """One tar file, relative to the manifest."""

    file: str
    clips: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Facts of one prepared data set."""

    name: str
    source: str
    height: int
    width: int
    frames: int
    """Frames of a training clip (T)."""
    stride: int
    windows: str
    """`first`: one clip a video; `each`: one clip a segment of it; `all`: consecutive clips;
    `whole`: whole videos, a random window of `frames` is drawn each time."""
    codec: str
    clips_sha256: str
    shards: tuple[Shard, ...]
    videos: tuple[Video, ...]
    identities: tuple[str, ...]
    actions: tuple[str, ...]

    @cached_property
    def clips(self) -> int:
        """Number of clips, N."""
        return sum(shard.clips for shard in self.shards)

    def rows(self, kind: str) -> int:
        """Rows of the table of a key kind (`batch.KEY_KINDS`)."""
        return {
            "dataset": 1,
            "action": len(self.actions),
            "identity": len(self.identities),
            "video": len(self.videos),
            "clip": self.clips,
        }[kind]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every fact: two manifests with the same footage, cut alike, agree."""
        return hashlib.sha256(dumps(self).encode()).hexdigest()


def dumps(manifest: Manifest) -> str:
    """Canonical JSON of a manifest: the same bytes for the same facts."""
    facts: dict = {
        "format": FORMAT,
        **{f.name: getattr(manifest, f.name) for f in fields(manifest)},
    }
    facts["shards"] = [shard._asdict() for shard in manifest.shards]
    facts["videos"] = [video._asdict() for video in manifest.videos]
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def loads(text: str, *, where: str) -> Manifest:
    """Read a manifest's JSON; `where` names it in errors.

    Raises:
        UserError: not JSON, another format, a missing, unknown or ill-typed field.
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise UserError(
                f"{where}: not a manifest of format {FORMAT}; prepare the footage again"
            )
        raw["shards"] = tuple(Shard(**item) for item in raw["shards"])
        raw["videos"] = tuple(Video(**item) for item in raw["videos"])
        raw["identities"] = tuple(raw["identities"])
        raw["actions"] = tuple(raw["actions"])
        manifest = Manifest(**raw)
        check(manifest)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: damaged manifest ({error}); prepare the footage again") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}; prepare the footage again") from None
    return manifest


def plain(name: str) -> bool:
    """Whether a set's name may name a folder, as it does that of its runs."""
    return name not in ("", ".", "..") and Path(name).name == name and name.isprintable()


MAX_SIDE, MOST_BYTES = 8192, 1 << 31
"""Pixels of a frame's side, and bytes of a decoded clip, that a set may have."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def check(manifest: Manifest) -> None:
    """Refuse facts that cannot be, and names that leave a folder (ValueError): copies of remote
    files are called after their SHA-256."""
    if not SHA256.fullmatch(manifest.clips_sha256):
        raise ValueError(f"clips_sha256 {manifest.clips_sha256!r} is no SHA-256")
    if not plain(manifest.name):
        raise ValueError(f"name {manifest.name!r} is not a plain one")
    for shard in manifest.shards:
        if Path(shard.file).name != shard.file or shard.file in ("", ".", ".."):
            raise ValueError(f"shard {shard.file!r} is not a plain file name")
        if not SHA256.fullmatch(shard.sha256):
            raise ValueError(f"shard {shard.file} has the SHA-256 {shard.sha256!r}, which is none")
        if min(shard.clips, shard.bytes) < 1:
            raise ValueError(f"shard {shard.file} is empty")
    if not manifest.shards:
        raise ValueError("no shards")
    if min(manifest.height, manifest.width, manifest.frames, manifest.stride) < 1:
        raise ValueError("height, width, frames and stride must be positive")
    decoded = 3 * manifest.frames * manifest.height * manifest.width
    if max(manifest.height, manifest.width) > MAX_SIDE or decoded > MOST_BYTES:
        raise ValueError(
            f"clips of {manifest.frames} frames of {manifest.width}x{manifest.height} are larger "
            f"than {MOST_BYTES >> 30} GiB, or {MAX_SIDE} pixels a side"
        )
    for video in manifest.videos:
        if not -1 <= video.identity < len(manifest.identities):
            raise ValueError(f"video {video.name} has an identity that is not in the table")
        if not -1 <= video.action < len(manifest.actions):
            raise ValueError(f"video {video.name} has an action that is not in the table")


def read_manifest(folder: str | Path) -> Manifest:
    """Read `folder/manifest.json` (the file itself may be named, too) from a local disk.

    Raises:
        UserError: naming the file.
    """
    path = Path(folder)
    path = path if path.name == MANIFEST else path / MANIFEST
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: no manifest ({reason}); run data_shards.prepare first") from None
    return loads(text, where=str(path))


def clip_key(manifest: Manifest, record: np.void) -> str:
    """Name of a clip that survives re-preparation: its video and first frame."""
    return f"{manifest.videos[int(record['video'])].name}@{int(record['start'])}"


def digest_of(span: bytes | memoryview) -> bytes:
    """XXH3, 16 bytes, of a member's span in its shard.

    It guards every read against accidents at the speed of memory; against intent stand the SHA-256
    of the shards and of the table, which `data_shards.inspect` verifies.
    """
    return xxhash.xxh3_128_digest(span)


def content_of(frames_THWC: np.ndarray) -> int:
    """Signed 64-bit hash of uint8 pixels and their shape."""
    state = hashlib.blake2b(repr(frames_THWC.shape).encode(), digest_size=8)
    state.update(np.ascontiguousarray(frames_THWC).data)
    return int.from_bytes(state.digest(), "little", signed=True)
