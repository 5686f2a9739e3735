"""Keys of latent rows: what a row belongs to, as a hash of its name and its pixels.

A checkpoint stores the key beside every row. Rows are paired by key and never by position, so a
video may come or go while the rest keeps its rows, and other footage cannot take them by accident.
"""

from __future__ import annotations

import hashlib

import numpy as np

from data_shards.errors import UserError
from data_shards.manifest import Manifest


def row_keys(manifest: Manifest, clips: np.ndarray, kind: str) -> np.ndarray:
    """Keys, int64 (N,), of the rows of a key kind (`batch.KEY_KINDS`).

    Args:
        clips: records of `manifest.CLIP_RECORD`, mapped or in memory.

    Raises:
        UserError: the footage has no labels of this kind.
    """
    if kind == "clip":
        return np.asarray(clips["content"])
    if kind == "video":
        keys = np.array([_hash(f"video/{video.name}") for video in manifest.videos], np.int64)
        with np.errstate(over="ignore"):
            np.add.at(keys, clips["video"], clips["content"])
        return keys
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
