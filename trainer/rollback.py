"""Going back to the newest checkpoint, with lower rates, when a step is not finite.

Off by default (`train.rollback`). All ranks learn of such a step together, before anything has
moved, and go back together. How often a run went back is part of its checkpoints: one that is
killed after going back and resumes from a checkpoint of before meets the same step again, and goes
back again.
"""

from __future__ import annotations

from collections.abc import Callable

from trainer.leaving import NonFinite, one_line
from trainer.loop import Parts, Progress, save, train


def train_with_rollbacks(
    parts: Parts, begin: Progress, *, on_sample: Callable[[Progress], None]
) -> tuple[Progress, bool]:
    """As `loop.train`, which it is where `train.rollback` is 0.

    Raises:
        NonFinite: once more than `train.rollback` times.
        UserError: as `loop.train`.
    """
    allowed = parts.config.train.rollback
    if allowed and not begin.step:
        save(parts, begin)  # there is a way back from the very first steps
    while True:
        try:
            return train(parts, begin, on_sample=on_sample)
        except NonFinite as failure:
            if begin.rollbacks >= allowed:
                raise
            begin = go_back(parts, failure, rollbacks=begin.rollbacks + 1)


def go_back(parts: Parts, failure: NonFinite, *, rollbacks: int) -> Progress:
    """Restore the newest whole checkpoint on all ranks; where training goes on.

    Raises:
        NonFinite: there is none.
    """
    with parts.watchdog.patience(3600):
        newest = parts.saves.back()
        if newest is None:
            raise failure
        saved = parts.checkpoints.open(newest)
        parts.engine.restore(saved)
        parts.engine.ranks.comm.barrier()
    at = Progress.of(saved.state)._replace(rollbacks=rollbacks)
    factor = parts.config.train.rollback_rate**rollbacks
    parts.observer.rolled_back(
        at.step, rollbacks=rollbacks, factor=factor,
        text=f"{one_line(failure)}; goes back to step {at.step}, all rates times {factor:g}",
    )  # fmt: skip
    return at
