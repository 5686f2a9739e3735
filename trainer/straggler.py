"""How much one rank keeps the others waiting."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise


def straggling(own: Sequence[float], *, clips: int) -> float:
    """How many times longer the slowest rank takes than the (lower) median one.

    A step has a part that is the same for all ranks and one that grows with a rank's clips, and
    clips need not divide by ranks. A rank is only as slow as it is both by step and by clip.

    Args:
        own: seconds of each rank's step before it waits for others.
        clips: of a global batch; rank r of W takes the slots from r B // W to (r + 1) B // W, and
            ranks without one are left out.
    """
    edges = [rank * clips // len(own) for rank in range(len(own) + 1)]
    counts = [end - first for first, end in pairwise(edges)]
    busy = [(spent, spent / count) for spent, count in zip(own, counts, strict=True) if count]
    usual = [max(statistics.median_low(column), 1e-9) for column in zip(*busy, strict=True)]
    return max(min(step / usual[0], clip / usual[1]) for step, clip in busy)
