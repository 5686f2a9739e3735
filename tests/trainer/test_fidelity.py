"""Which clips of a large set are looked at after a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainer.fidelity import LARGEST, SHARDS, looked_at


def shards_of(counts: list[int]) -> Any:
    """A manifest of shards with so many clips each."""
    shards = [SimpleNamespace(clips=count) for count in counts]
    return SimpleNamespace(clips=sum(counts), shards=shards)


def test_of_a_set_that_is_not_large_all_are_looked_at() -> None:
    """Each once, in order."""
    assert looked_at(shards_of([5, 1, LARGEST - 6])).tolist() == list(range(LARGEST))


@pytest.mark.parametrize(
    "counts",
    [[393] * 1484 + [296], [3] * 2000, [100_000], [5000, 1, 5000], [9] * 500 + [4000]],
    ids=["golf", "small shards", "one shard", "uneven", "a large one behind small ones"],
)
def test_few_shards_of_a_large_set_are_read(counts: list[int]) -> None:
    """First and last shard among them, no more of them than hold that many clips; at least a third
    of `LARGEST` clips are looked at, however uneven shards are, and hardly more than all of it."""
    clips_N = looked_at(shards_of(counts))
    assert (np.diff(clips_N) > 0).all() and clips_N[0] == 0 and clips_N[-1] == sum(counts) - 1
    shards = np.unique(np.repeat(np.arange(len(counts)), counts)[clips_N])
    needed = -(-LARGEST * len(counts) // sum(counts))
    assert len(shards) <= max(SHARDS, needed)
    assert LARGEST / 3 < len(clips_N) < 1.1 * LARGEST
