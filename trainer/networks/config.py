"""Settings of the networks, and the small tables that they choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from data_shards.errors import UserError

NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, width: nn.BatchNorm2d(channels),
    "group": lambda channels, width: nn.GroupNorm(max(1, channels // width), channels),
    "none": lambda channels, width: nn.Identity(),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": lambda: nn.GELU(),
}
OUTPUTS: dict[str, Callable[[], nn.Module]] = {"linear": nn.Identity, "tanh": nn.Tanh}
GENERATORS = ("dcgan", "conditional")
COMPILERS: dict[str, dict[str, str]] = {
    "no": {},
    "inductor": {"backend": "inductor"},
    "graphs": {"mode": "reduce-overhead"},
    "aot_eager": {"backend": "aot_eager"},
}
"""What each word means to torch.compile."""
INITS = ("dcgan", "kaiming", "torch")


@dataclass(frozen=True)
class NetworksConfig:
    """Shape of the motion RNN (R, theta) and of the generator (G, gamma)."""

    hidden: int = 500
    """Hidden units of the one-layer GRU (Sec. 4.2)."""
    generator: str = "dcgan"
    """Architecture of the generator: dcgan | conditional (told identity and action, Sec. 4.2)."""
    label_channels: int = 32
    """Numbers that a conditional generator makes of the labels."""
    channels: int = 64
    """Channels of the generator's last hidden layer; each layer before it has twice as many."""
    norm: str = "group"
    """Normalisation in the generator: group (knows no batch) | batch (DCGAN's) | none."""
    group_channels: int = 16
    """Channels in a group of a group normalisation; a layer with fewer is one group."""
    activation: str = "relu"
    """Non-linearity of the generator: relu | leaky_relu | silu | gelu."""
    output: str = "linear"
    """Last layer of the generator: linear (clamped when shown) | tanh (the paper's DCGAN)."""
    init: str = "kaiming"
    """First weights of the generator: kaiming (first layer sd 1, last a tenth) | dcgan (normal,
    sd 0.02) | torch (its defaults)."""
    compile: str = "no"
    """Generator and losses through torch.compile: no | inductor (for GPUs: fused kernels) | graphs
    (these as CUDA graphs, where launching them takes longer) | aot_eager (to find faults)."""

    def __post_init__(self) -> None:
        for name in ("hidden", "channels", "group_channels", "label_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"networks.{name}: {getattr(self, name)} is below 1")
        choices = {"norm": NORMS, "activation": ACTIVATIONS, "output": OUTPUTS, "init": INITS}
        choices |= {"compile": COMPILERS, "generator": GENERATORS}
        for name, table in choices.items():
            if getattr(self, name) not in table:
                raise UserError(
                    f"networks.{name}: {getattr(self, name)!r} is none of {', '.join(table)}"
                )
        widths = [self.channels << doubling for doubling in range(5)]
        width = self.group_channels
        if self.norm == "group" and any(w % (max(1, w // width)) for w in widths):
            raise UserError(
                f"networks.group_channels: {width} does not divide networks.channels "
                f"{self.channels} into groups"
            )
