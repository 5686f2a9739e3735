"""Random pairs of trained rows, with their figures (Sec. 4.4.1): part of `trainer.evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from trainer import generate, render, scores
from trainer.cards import FCS, MCS, Score, network, protocol
from trainer.reconstruction import Scored, in_parts, motion_sum
from trainer.vgg import Vgg

if TYPE_CHECKING:
    from trainer.run import Run


class Drawn(NamedTuple):
    """Random pairs of rows, no pair twice."""

    rows: tuple[np.ndarray, np.ndarray]
    """Static and transient, int64 (N,) each."""
    total: int
    """Pairs out of which they were drawn."""
    shown: int
    """Of those drawn, how many are cells that training shows."""
    seed: int

    @property
    def words(self) -> str:
        """For a card: how many of how many, and how many of them are training clips."""
        return (
            f"{len(self.rows[0])} of {self.total} random static x transient pairs, seed "
            f"{self.seed}, {self.shown} of which training shows"
        )


def draw_random(run: Run, *, count: int, seed: int) -> Drawn:
    """Random pairs of trained rows: all of them where there are fewer than `count`."""
    trained = render.trained_rows(run)
    total = len(trained.static_N) * len(trained.transient_N)
    static, transient = generate.draw_pairs(run, count=min(count, total), seed=seed)
    known = render.trained_pairs(run)
    return Drawn((static, transient), total, int(known.hold(static, transient).sum()), seed)


def random_scores(run: Run, found: Scored, drawn: Drawn, *, vgg: Vgg | None) -> list[Score]:
    """FCS and MCS of random pairs of rows against the same real videos (Sec. 4.4.1)."""
    (static, transient), count = drawn.rows, len(drawn.rows[0])
    consistency, motion = [], []
    for part in in_parts(range(count), label="random videos"):
        videos = render.render(run, static[list(part)], transient[list(part)])
        consistency.append(scores.fcs(videos))
        if vgg:
            motion.append(motion_sum(vgg, videos))
    fcs, bound = float(np.concatenate(consistency).mean()), float(found.bound_B.mean())
    card = protocol(run, videos=drawn.words, definition=FCS)
    better = "higher, up to the bound"
    table = [Score("FCS, random", fcs, "", better, bound, abs(fcs - bound), card)]
    if vgg and found.real_K is not None:
        value = scores.mcs(found.real_K, torch.stack(motion).sum(dim=0) / count)
        card = protocol(run, videos=drawn.words, definition=MCS, **network(vgg))
        table.append(Score("MCS, random", value, "", "lower", None, None, card))
    return table
