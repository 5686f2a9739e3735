"""Schedules as data (Sec. 3.1): which step works on which batch and moves what, at which rate.

Everything is a pure function of the step's number, so resuming needs that number and nothing else.

A *visit* is one global batch of the clip plan; a schedule takes one or more steps on each. `fast`
(ours) takes one step on a large batch and moves everything. `joint` (the authors' code) stays with
one video for 300 steps, everything moving. `alternate` (the paper, Eqs. 3.1 and 3.2) moves gamma,
then theta and the latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from data_shards.errors import UserError

GAMMA, THETA, LATENTS = "gamma", "theta", "latents"
EVERYTHING = frozenset({GAMMA, THETA, LATENTS})


class Stage(NamedTuple):
    """A kind of step: its name, and what it moves out of gamma (G), theta (R) and the latents."""

    name: str
    moves: frozenset[str]


TOGETHER = Stage("together", EVERYTHING)
GENERATOR = Stage("generator", frozenset({GAMMA}))
LATENT = Stage("latents", frozenset({THETA, LATENTS}))


class Kind(NamedTuple):
    """A row of the table of schedules; numbers stand in for settings that are left null."""

    passes: int
    clips: int
    frames: int
    stages: tuple[tuple[Stage, str, int], ...]
    """Of a visit, in order: stage, the setting with its number of steps, that number's default."""


KINDS: dict[str, Kind] = {
    "fast": Kind(2000, 8, 1, ((TOGETHER, "inner", 1),)),
    "joint": Kind(5, 1, 0, ((TOGETHER, "inner", 300),)),
    "alternate": Kind(5, 1, 0, ((GENERATOR, "inner_gamma", 5), (LATENT, "inner_latents", 300))),
}

CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
}


@dataclass(frozen=True)
class ScheduleConfig:
    """What a visit is. Settings left null take the number of their kind's row in the table."""

    kind: str = "fast"
    """fast: many clips a step | joint: one video at a time, as the authors' code | alternate:
    gamma, then theta and latents, as the paper."""
    passes: int | None = None
    """Passes over the clips when neither train.steps nor train.minutes says when to stop.
    null: fast 2000, joint 5, alternate 5."""
    clips: int | None = None
    """Clips of a global batch, all ranks together. null: fast 8, joint 1, alternate 1."""
    frames: int | None = None
    """Frames to generate of each clip, drawn at random every step; 0: all of them.
    null: fast 1, joint 0, alternate 0."""
    inner: int | None = None
    """Steps on each batch (fast, joint). null: fast 1, joint 300."""
    inner_gamma: int | None = None
    """Steps on each batch that move gamma alone (alternate; mu_gamma in Tab. 6). null: 5."""
    inner_latents: int | None = None
    """Steps on each batch that move theta and the latents (alternate; mu_Z in Tab. 6).
    null: 300."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"schedule.kind: {self.kind!r} is none of {', '.join(KINDS)}")
        lowest = {"passes": 1, "clips": 1, "frames": 0, "inner": 1}
        for name in ("passes", "clips", "frames", "inner", "inner_gamma", "inner_latents"):
            value = getattr(self, name)
            if value is not None and value < lowest.get(name, 0):
                raise UserError(f"schedule.{name}: {value} is below {lowest.get(name, 0)}")
        if not pace(self).stages:
            raise UserError("schedule.inner_gamma: with inner_latents 0 too, no step is left")


class Pace(NamedTuple):
    """A schedule with every number filled in."""

    passes: int
    clips: int
    """Clips of a global batch."""
    frames: int
    """Frames generated of each clip; 0: all."""
    stages: tuple[tuple[Stage, int], ...]
    """Of a visit, in order, with their numbers of steps; stages without steps are left out."""

    @property
    def visit_steps(self) -> int:
        """Steps on each batch."""
        return sum(steps for _, steps in self.stages)


def pace(config: ScheduleConfig) -> Pace:
    """Fill what the settings leave null from the kind's row."""
    row = KINDS[config.kind]
    stages = ((stage, _or(getattr(config, name), steps)) for stage, name, steps in row.stages)
    return Pace(
        passes=_or(config.passes, row.passes),
        clips=_or(config.clips, row.clips),
        frames=_or(config.frames, row.frames),
        stages=tuple((stage, steps) for stage, steps in stages if steps),
    )


def stage(step: int, *, pace: Pace) -> Stage:
    """What a step moves."""
    within = step % pace.visit_steps
    for kind, steps in pace.stages:
        if within < steps:
            return kind
        within -= steps
    raise AssertionError("a step lies in one of its visit's stages")


def visit(step: int, *, pace: Pace) -> int:
    """Which global batch of the clip plan a step works on."""
    return step // pace.visit_steps


def total_steps(*, clips: int, pace: Pace) -> int:
    """Steps after which the last of `passes` passes over `clips` clips is complete."""
    return math.ceil(pace.passes * clips / pace.clips) * pace.visit_steps


def rate_factor(progress: float, *, curve: str = "cosine", warmup: float = 0.0) -> float:
    """What learning rates are multiplied by, in [0, 1].

    Args:
        progress: share of the run that is done, of its steps or of its time; clamped to [0, 1].
        curve: constant | cosine | linear, the latter two falling to zero.
        warmup: share over which rates first rise from zero in a line; in [0, 1).
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    return CURVES[curve]((progress - warmup) / (1 - warmup))


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
