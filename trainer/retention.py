"""When to save, and which checkpoints to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_shards.errors import UserError


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    steps: int = 0
    """Save every so many steps; 0: not by steps."""
    minutes: float = 5.0
    """Save when so many minutes have passed since the last save; 0: not by time."""
    keep: int = 2
    """Keep the newest so many checkpoints; 0: all."""
    every: int = 0
    """Also keep every checkpoint whose step is a multiple of this; 0: none."""
    best: bool = True
    """Also keep the one with the best score, where saves carry one (PSNR of the evaluation)."""
    background: bool = True
    """Write files in a thread while training goes on."""
    on_full: str = "stop"
    """When a checkpoint cannot be written (disk full or failing): stop | continue training."""

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "keep", "every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"checkpoint.{name}: {getattr(self, name)} is below 0")
        if self.on_full not in ("stop", "continue"):
            raise UserError(f"checkpoint.on_full: {self.on_full!r} is none of stop, continue")


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
