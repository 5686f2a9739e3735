"""Random draws of a step: a pure function of (seed, step) for the whole global batch.

Every rank draws for all slots and keeps its own, so the draws depend neither on the number of ranks
nor on a stored generator: resuming needs only the step's number.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from trainer.losses import Triplets, draw_triplets


class Draw(NamedTuple):
    """What chance decides about the clips of one rank's part of a batch."""

    frames_BF: torch.Tensor | None
    """Frames to generate, int64; None: all T of them, in order."""
    static_B: torch.Tensor
    """Which of the F generated frames l_static looks at (Eq. 4's k), int64."""
    triplets: Triplets
    """Frames of the triplet condition (Sec. 3.2.1)."""


def generator_of(seed: int, step: int, purpose: str) -> torch.Generator:
    """CPU generator whose stream depends on (seed, step, purpose) and nothing else."""
    text = f"{seed}/{step}/{purpose}".encode()
    mixed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(mixed)


def draw(
    slot_B: torch.Tensor,
    *,
    seed: int,
    step: int,
    batch: int,
    frames: int,
    drawn: int,
    radius: int,
    gap: int,
) -> Draw:
    """Draw for the slots of one rank out of a global batch.

    Args:
        slot_B: positions in the global batch, int64.
        batch: clips of the global batch.
        frames: T.
        drawn: frames to generate of each clip; 0 or >= T: all of them.
        radius: positives lie within so many frames of the anchor.
        gap: negatives lie more than so many frames away.
    """
    generator = generator_of(seed, step, "frames")
    if 0 < drawn < frames:
        order = torch.rand(batch, frames, generator=generator).argsort(dim=1)[:, :drawn]
        frames_BF = order.sort(dim=1).values[slot_B]
    else:
        frames_BF, drawn = None, frames
    static_B = torch.randint(drawn, (batch,), generator=generator)[slot_B]
    triplets = draw_triplets(
        batch, frames, radius=radius, gap=gap, generator=generator_of(seed, step, "triplets")
    )
    return Draw(frames_BF, static_B, Triplets(*(index[slot_B] for index in triplets)))
