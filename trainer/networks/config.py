"""Settings of the networks, and the small tables that they choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from data_shards.errors import UserError

NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, groups: nn.BatchNorm2d(channels),
    "group": lambda channels, groups: nn.GroupNorm(min(groups, channels), channels),
    "none": lambda channels, groups: nn.Identity(),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": lambda: nn.GELU(),
}
OUTPUTS: dict[str, Callable[[], nn.Module]] = {"linear": nn.Identity, "tanh": nn.Tanh}
INITS = ("dcgan", "kaiming", "torch")


@dataclass(frozen=True)
class NetworksConfig:
    """Shape of the motion RNN (R, theta) and of the generator (G, gamma)."""

    hidden: int = 500
    """Hidden units of the one-layer GRU (Sec. 4.2)."""
    generator: str = "dcgan"
    """Architecture of the generator: dcgan."""
    channels: int = 64
    """Channels of the generator's last hidden layer; each layer before it has twice as many."""
    norm: str = "group"
    """Normalisation in the generator: group (knows no batch) | batch (DCGAN's) | none."""
    groups: int = 8
    """Groups of a group normalisation; must divide `channels`."""
    activation: str = "relu"
    """Non-linearity of the generator: relu | leaky_relu | silu | gelu."""
    output: str = "linear"
    """Last layer of the generator: linear (clamped when shown) | tanh (the paper's DCGAN)."""
    init: str = "dcgan"
    """First weights of the generator: dcgan (normal, sd 0.02) | kaiming | torch (its defaults)."""

    def __post_init__(self) -> None:
        for name in ("hidden", "channels", "groups"):
            if getattr(self, name) < 1:
                raise UserError(f"networks.{name}: {getattr(self, name)} is below 1")
        choices = {"norm": NORMS, "activation": ACTIVATIONS, "output": OUTPUTS, "init": INITS}
        for name, table in choices.items():
            if getattr(self, name) not in table:
                raise UserError(
                    f"networks.{name}: {getattr(self, name)!r} is none of {', '.join(table)}"
                )
        if self.norm == "group" and self.channels % min(self.groups, self.channels):
            raise UserError(
                f"networks.groups: {self.groups} does not divide networks.channels {self.channels}"
            )
