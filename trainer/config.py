"""The whole configuration of a run: every component's settings in one frozen dataclass.

Order of precedence: defaults < preset < YAML file (`--config FILE`) < `a.b=c` words. The resolved
config is written into the run folder, and running with that file again reproduces the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_shards.errors import UserError
from data_shards.stream import DataConfig
from trainer import settings
from trainer.beginning import BeginConfig
from trainer.changes import Changing
from trainer.checkpoint import CheckpointConfig
from trainer.latents import LatentsConfig
from trainer.networks import NetworksConfig
from trainer.objective import LossConfig
from trainer.optim import OptimConfig
from trainer.presets import PRESETS
from trainer.schedule import ScheduleConfig
from trainer.telemetry import TelemetryConfig


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, how exactly."""

    steps: int | None = None
    """Stop after this many steps (optimiser updates); wins over the length of the schedule."""
    minutes: float | None = None
    """Stop after this much training time; rates then follow time instead of steps. A resumed run
    goes on counting where it was. Set `steps` or `minutes`, or neither: the schedule's passes."""
    average: float = 0.99
    """Decay of the running average of weights that samples and evaluation use; 0: none."""
    log_steps: int = 20
    """Write metrics and move the progress bar every so many steps."""
    sample_minutes: float = 2.0
    """Write a sample sheet every so many minutes, and at the end; 0: only at the end."""
    pictures: bool = True
    """Write samples and the report when the training ends."""
    threads: int = 0
    """CPU threads of each process; 0: cores divided by the processes of this machine."""
    hang_seconds: float = 300.0
    """A rank without a sign of life for so long ends the run, stacks written; 0: never."""
    deterministic: bool = True
    """Use deterministic kernels, so that a resumed run repeats the bits of one never stopped."""
    precision: str = "no"
    """Of the networks on a GPU: no (float32) | tf32 (matrix products) | bf16 (autocast). Refused
    on a CPU."""
    accumulate: int = 1
    """Micro-batches that each rank's part of a global batch is computed in, one after the other:
    memory for activations shrinks by as much, results stay."""
    rollback: int = 0
    """How often a run with a step that is not finite goes back to its newest checkpoint and goes on
    with lower rates, instead of ending; not with DeepSpeed."""
    rollback_rate: float = 0.5
    """What all rates are multiplied by each time it goes back."""
    until: int | None = None
    """End after this many steps as at the end, though rates follow the whole length; the same run
    with a larger number goes on."""
    changes: str = ""
    """Settings that change at steps: `300: optim.gamma_rate=0.002 loss.margin=1; 600: ...`. Rates,
    weights of the losses and what the triplet condition is can; see trainer/changes.py."""
    gradients: str = "auto"
    """How ranks add up the networks' gradients: auto (memory, where it can be) | memory (weights
    shared by the processes of one machine without GPUs) | send (DistributedDataParallel)."""

    def __post_init__(self) -> None:
        for name in ("steps", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"train.{name}: {value} is not positive")
        if self.steps is not None and self.minutes is not None:
            raise UserError("train.minutes: set either train.steps or train.minutes, not both")
        if self.until is not None and self.until < 1:
            raise UserError(f"train.until: {self.until} is below 1")
        if self.hang_seconds < 0:
            raise UserError(f"train.hang_seconds: {self.hang_seconds} is below 0")
        if not 0 <= self.average < 1:
            raise UserError(f"train.average: {self.average} is not in [0, 1)")
        if self.log_steps < 1 or self.sample_minutes < 0 or self.threads < 0:
            raise UserError(
                "train: log_steps >= 1, sample_minutes >= 0 and threads >= 0 are needed"
            )
        if self.precision not in ("no", "tf32", "bf16"):
            raise UserError(f"train.precision: {self.precision!r} is none of no, tf32, bf16")
        if self.gradients not in ("auto", "memory", "send"):
            raise UserError(f"train.gradients: {self.gradients!r} is none of auto, memory, send")
        if self.rollback < 0 or not 0 < self.rollback_rate < 1:
            raise UserError("train: rollback >= 0 and rollback_rate in (0, 1) are needed")
        if self.accumulate < 1:
            raise UserError(f"train.accumulate: {self.accumulate} is below 1")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run does."""

    name: str = ""
    """Folder under runs/; empty: the preset and the data set's name."""
    preset: str = "folder"
    """Table of settings to start from: demo | weizmann | chair_cad | golf | folder and variants."""
    seed: int = 0
    """Seed of weights, latents, order of the clips and every random draw."""
    data: DataConfig = field(default_factory=DataConfig)
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    begin: BeginConfig = field(default_factory=BeginConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def __post_init__(self) -> None:
        if self.name and (
            self.name.strip() != self.name or "/" in self.name or self.name[0] == "."
        ):
            raise UserError(f"name: {self.name!r} is not the name of a folder under runs/")
        if self.train.changes:
            Changing(self)
        if self.train.accumulate > 1 and self.networks.norm == "batch":
            raise UserError(
                "train.accumulate: batch normalisation would see a micro-batch only; set "
                "networks.norm=group, or train.accumulate=1"
            )
        if self.train.accumulate > 1 and self.networks.compile == "graphs":
            raise UserError(
                "networks.compile: graphs leave gradients where the next micro-batch overwrites "
                "them; set networks.compile=inductor, or train.accumulate=1"
            )


def resolve(words: Sequence[str] = (), *, file: str | None = None) -> Config:
    """Config from an optional YAML file and `a.b=c` words (see the module's order of precedence).

    Raises:
        UserError: one line naming the setting; an unknown preset names those that exist.
    """
    layer: dict[str, Any] = settings.load_yaml(file) if file else {}
    named = [word.removeprefix("preset=") for word in words if word.startswith("preset=")]
    preset = str((named or [layer.get("preset", "folder")])[-1])
    if preset not in PRESETS:
        raise UserError(f"preset: {preset!r} is none of {', '.join(PRESETS)}")
    rest = [word for word in words if not word.startswith("preset=")]
    base = _without_other_length(PRESETS[preset], layer, rest)
    return settings.compose(Config, base, layer, {"preset": preset}, words=rest)


def _without_other_length(
    preset: Mapping[str, Any], layer: Mapping[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    """A preset without its minutes where the user says how many steps a run has."""
    train = layer.get("train") or {}
    said = train.get("steps") is not None or "train.steps" in layer
    if not said and not any(word.startswith("train.steps=") for word in words):
        return dict(preset)
    kept = {key: v for key, v in preset.get("train", {}).items() if key != "minutes"}
    rest = {key: value for key, value in preset.items() if key != "train"}
    return {**rest, "train": kept} if kept else rest
