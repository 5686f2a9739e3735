"""Random videos of a dictionary: which pairs of rows are drawn, and which of them training shows.

Where every pair is a cell that some clip trains, as with one static row for the whole set or a full
identity x action matrix, random videos are the training videos again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer import render
from trainer.random_pairs import draw_random
from trainer.run import Run


class Draw(NamedTuple):
    """Pairs of rows, no pair twice."""

    static_B: np.ndarray
    transient_B: np.ndarray
    total: int
    """Pairs out of which they were drawn."""
    shown: int
    """Of those drawn, how many are cells that training shows."""
    new: bool = False
    """Drawn out of the pairs that training does not show."""

    @property
    def known(self) -> bool:
        """All of them are cells that training shows."""
        return self.shown == len(self.static_B)


def random_pairs(run: Run, count: int, *, seed: int) -> Draw:
    """Random static and transient rows: all pairs where there are fewer than `count`."""
    drawn = draw_random(run, count=count, seed=seed)
    return Draw(*drawn.rows, drawn.total, drawn.shown)


def new_pairs(run: Run, count: int, *, seed: int) -> Draw:
    """Random pairs of trained rows that no clip shows together: all where there are fewer than
    `count`, and none where training shows every pair."""
    rows, cells = render.trained_rows(run), render.trained_pairs(run)
    static_X, transient_X = (
        grid.ravel() for grid in np.meshgrid(rows.static_N, rows.transient_N, indexing="ij")
    )
    fresh = np.flatnonzero(~cells.hold(static_X, transient_X))
    chosen = fresh[np.random.default_rng(seed).permutation(len(fresh))[:count]]
    return Draw(static_X[chosen], transient_X[chosen], len(fresh), 0, new=True)


def distinct(run: Run, static_B: np.ndarray, transient_B: np.ndarray) -> tuple[int, int]:
    """How many pairs of rows are different ones, and how many of these training shows."""
    pairs_P2 = np.unique(np.stack((static_B, transient_B), axis=1), axis=0)
    return len(pairs_P2), int(render.trained_pairs(run).hold(*pairs_P2.T).sum())


def is_of_clips(draw: Draw, run: Run, clips: Sequence[int]) -> bool:
    """Whether a draw is of the very rows of these clips, in any order."""
    rows = render.rows_of(run, clips)
    return sorted(_pairs(draw.static_B, draw.transient_B)) == sorted(_pairs(*rows))


def words(draws: Sequence[Draw]) -> str:
    """For a card, of one draw with each seed: how many pairs, and whether they are new."""
    count, total = len(draws[0].static_B), draws[0].total
    shown = [draw.shown for draw in draws]
    if draws[0].new:
        return f"{count} of {total} pairs of rows that training does not show, at random"
    text = f"{count} of {total} pairs of rows, at random"
    if all(draw.known for draw in draws):
        return f"{text}, all of which training shows"
    if not any(shown):
        return f"{text}, none of which training shows"
    by_seed = " (by seed)" if len(shown) > 1 else ""
    return f"{text}, of which training shows {', '.join(map(str, shown))}{by_seed}"


def _pairs(static_B: np.ndarray, transient_B: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(static_B.tolist(), transient_B.tolist(), strict=True))
