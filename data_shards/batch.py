"""What a stream hands to a trainer: clips with the dictionary rows that they belong to.

Shape legend of the project: `B` clips, `T` frames, `C H W` channels, height and width,
`S` static width, `M` transient width, `N` rows of a table.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

KEY_KINDS = ("dataset", "action", "identity", "video", "clip")
"""What a latent row may belong to (Sec. 4.1): see `Manifest.rows`."""


class ClipBatch(NamedTuple):
    """One rank's part of one global batch; may be empty (B = 0).

    `slot_B` are the clips' positions in the global batch, so that a random draw per slot does not
    depend on the number of ranks. A clip whose bytes are damaged has `valid_B` False: it takes its
    place in the batch and weighs nothing.
    """

    frames_BTCHW: torch.Tensor
    """uint8, 0..255."""
    clip_B: torch.Tensor
    video_B: torch.Tensor
    identity_B: torch.Tensor
    action_B: torch.Tensor
    slot_B: torch.Tensor
    valid_B: torch.Tensor

    @classmethod
    def empty(cls, frames: int, height: int, width: int) -> ClipBatch:
        """A batch of no clips."""
        none = torch.zeros(0, dtype=torch.int64)
        pixels = torch.zeros(0, frames, 3, height, width, dtype=torch.uint8)
        return cls(pixels, none, none, none, none, none, none.bool())

    def rows(self, kind: str) -> torch.Tensor:
        """Rows, int64 (B,), in the table of a key kind (`KEY_KINDS`); -1 for an absent label."""
        if kind == "dataset":
            return torch.zeros_like(self.clip_B)
        return {
            "action": self.action_B,
            "identity": self.identity_B,
            "video": self.video_B,
            "clip": self.clip_B,
        }[kind]
