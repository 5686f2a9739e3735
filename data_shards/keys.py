"""Keys of latent rows: what a row belongs to, as a hash of its name and its pixels.

A checkpoint stores the key beside every row. Rows are paired by key and never by position, so a
video may come or go while the rest keeps its rows, and other footage cannot take them by accident.
"""

from __future__ import annotations

import hashlib

import numpy as np

from data_shards.errors import UserError
from data_shards.manifest import Manifest

APART = 0x1E3779B97F4A7C15
"""What clips of one video that follow each other differ by; odd, so that no two of them meet."""


def row_keys(manifest: Manifest, clips: np.ndarray, kind: str) -> np.ndarray:
    """Keys, int64 (N,), of the rows of a key kind (`batch.KEY_KINDS`).

    A clip's tells its pixels, its video's name and its first frame: still videos have clips of
    equal pixels, and each has a row of its own.

    Args:
        clips: records of `manifest.CLIP_RECORD`, mapped or in memory.

    Raises:
        UserError: the footage has no labels of this kind.
    """
    if kind in ("clip", "video"):
        keys_V = np.array([_hash(f"video/{video.name}") for video in manifest.videos], np.int64)
        with np.errstate(over="ignore"):
            if kind == "clip":
                starts_N = APART * clips["start"].astype(np.int64)
                return clips["content"] + keys_V[clips["video"]] + starts_N
            np.add.at(keys_V, clips["video"], clips["content"])
        return keys_V
    labels = {
        "dataset": ("all",),
        "identity": manifest.identities,
        "action": manifest.actions,
    }[kind]
    unlabelled = kind != "dataset" and any(getattr(v, kind) < 0 for v in manifest.videos)
    if not labels or unlabelled:
        raise UserError(
            f"latents: the layout needs a label '{kind}' for every video and {manifest.name} has "
            "none for some; prepare it with --labels or choose another static_key/transient_key"
        )
    return np.array([_hash(f"{kind}/{label}") for label in labels], np.int64)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
