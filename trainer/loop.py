"""The training loop, flat: read, measure, agree, move, write down.

All ranks take every decision together: once per step, before anything moves, one small collective
tells each of them whether some rank met a non-finite value or a signal, and how much time has gone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_shards.stream import OpenManifest, Stream
from trainer import objective, schedule, setup
from trainer.beginning import codes_from_footage
from trainer.checkpoint import Checkpointer
from trainer.config import Config
from trainer.engine import TERMS, Engine, Measured
from trainer.parallel import Ranks
from trainer.telemetry import Telemetry


class Agreed(NamedTuple):
    """What all ranks know before a step moves anything."""

    bad: bool
    stop: bool
    seconds: float


class Outcome(NamedTuple):
    """How a training ended."""

    step: int
    seconds: float
    stopped: bool
    """By a signal, before its end."""


def length(config: Config, clips: int) -> int | None:
    """Steps of the whole run; None where minutes decide."""
    if config.train.minutes is not None:
        return None
    return config.train.steps or schedule.total_steps(
        clips=clips, pace=schedule.pace(config.schedule)
    )
