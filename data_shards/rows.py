"""Which row of a table a clip belongs to, for any key kind of `batch.KEY_KINDS`."""

from __future__ import annotations

import numpy as np
import torch

from data_shards.stream import OpenManifest


def rows_of(opened: OpenManifest, clips: np.ndarray | torch.Tensor, kind: str) -> torch.Tensor:
    """Rows, int64 (B,), of clips in the table of a key kind; -1 where a label is absent."""
    clip_B = np.asarray(clips, dtype=np.int64)
    if kind == "dataset":
        return torch.zeros(len(clip_B), dtype=torch.int64)
    if kind == "clip":
        return torch.from_numpy(clip_B.copy())
    video_B = opened.table["video"][clip_B].astype(np.int64)
    if kind == "video":
        return torch.from_numpy(video_B)
    column = {"identity": 1, "action": 2}[kind]
    labels_V = np.array([video[column] for video in opened.manifest.videos], dtype=np.int64)
    return torch.from_numpy(labels_V[video_B])
