"""When to save, and which checkpoints to keep."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_shards.errors import UserError
from trainer import commit

log = logging.getLogger("navsynth")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    steps: int = 0
    """Lose at most so many steps when killed: save every so many, in the background every half as
    many as well; 0: not by steps."""
    minutes: float = 5.0
    """Lose at most so many minutes when killed: save when so many have passed since the last save,
    in the background half as many; 0: not by time."""
    keep: int = 2
    """Keep the newest so many checkpoints; 0: all."""
    every: int = 0
    """Also keep every checkpoint whose step is a multiple of this; 0: none."""
    best: bool = True
    """Also keep the one with the best score, where saves carry one (PSNR of the evaluation)."""
    background: bool = True
    """Write files in a thread while training goes on. A save has half an interval to be written;
    where it takes longer, training waits."""
    on_full: str = "stop"
    """When a checkpoint cannot be written (disk full or failing): stop | continue training."""

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "keep", "every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"checkpoint.{name}: {getattr(self, name)} is below 0")
        if self.on_full not in ("stop", "continue"):
            raise UserError(f"checkpoint.on_full: {self.on_full!r} is none of stop, continue")

    @property
    def behind(self) -> bool:
        """Whether saves are written while training goes on; there is no half of a single step."""
        return self.background and self.steps != 1

    @property
    def beside(self) -> bool:
        """Whether saves are due while training goes on. (A file `SAVE` may ask for one in any
        run.)"""
        return self.behind and bool(self.steps or self.minutes)

    def at_step(self, step: int) -> bool:
        """Whether a save is due by steps after `step`.

        Behind training, the save before is the newest whole one until this one is written, and it
        is written when the next one begins at the latest: two gaps must not exceed an interval.
        """
        if not self.steps:
            return False
        half = self.steps - self.steps // 2 if self.behind else 0
        return step % self.steps in (0, half)

    @property
    def seconds(self) -> float:
        """Seconds between two saves by time; infinite where the clock does not matter."""
        if not self.minutes:
            return float("inf")
        return self.minutes * (30 if self.behind else 60)


def kept(
    steps: Sequence[int], config: CheckpointConfig, *, score: Callable[[int], float | None]
) -> set[int]:
    """Which of the committed `steps` (ascending) to keep; always the newest.

    Args:
        score: of a checkpoint, higher is better; None: it has none. Asked only for `best`.
    """
    if not config.keep:
        return set(steps)
    chosen = set(steps[-config.keep :])
    chosen |= {step for step in steps if config.every and step % config.every == 0}
    if config.best:
        scores = {step: value for step in steps if (value := score(step)) is not None}
        chosen |= set(sorted(scores, key=lambda step: (scores[step], step))[-1:])
    return chosen


def spare(folder: Path, config: CheckpointConfig) -> list[int]:
    """Steps of a folder's committed checkpoints that the settings do not keep, ascending."""

    def score(step: int) -> float | None:
        path = folder / commit.step_name(step)
        try:
            return commit.read_manifest(path).score
        except commit.Damage as damage:
            log.warning("%s: %s", path, damage)
            return None

    steps = commit.committed(folder)
    return sorted(set(steps) - kept(steps, config, score=score))


def remove(left: Path) -> None:
    """Remove what is left of a checkpoint; where that fails it is told, and the next life tries."""
    try:
        shutil.rmtree(left)
    except OSError as error:
        log.warning("%s: what is left of a checkpoint could not be removed: %s", left, error)
