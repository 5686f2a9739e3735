"""G, the frame generator: DCGAN (Radford et al. 2016) on the concatenation of both latents."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from data_shards.errors import UserError
from trainer.networks.config import ACTIVATIONS, NORMS, OUTPUTS, NetworksConfig

WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 2, 1),
    64: (8, 4, 2, 1),
    128: (16, 8, 4, 2, 1),
}
"""Frame size to the channels of each hidden layer, in units of `networks.channels`."""
WIDE = 2**21
"""Weights of a wide convolution."""


class WideConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with many weights on a small image: plain order inside on a CPU.

    There oneDNN's gradient of such weights is a third slower in channels_last order, and is copied
    twice more on its way to the optimiser; 2 million weights took half of a small step.
    """

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Frames in channels_last order, as all other layers have them."""
        if input.device.type != "cpu":
            return super().forward(input, output_size)
        plain = super().forward(input.contiguous(), output_size)
        return plain.contiguous(memory_format=torch.channels_last)


def _upsampling(before: int, after: int, *, bias: bool) -> nn.ConvTranspose2d:
    wide = before * after * 16 >= WIDE
    return (WideConvTranspose2d if wide else nn.ConvTranspose2d)(before, after, 4, 2, 1, bias=bias)


class Generator(nn.Module):
    """D numbers to one frame: 4x4 pixels, then doubled by 4x4 transposed convolutions, stride 2.

    DCGAN's first layer, a transposed convolution on a 1x1 image, is written as the linear map that
    it is: the same numbers, but one matrix product, whose result lies in channels_last order.
    """

    def __init__(self, config: NetworksConfig, *, latent: int, size: int) -> None:
        super().__init__()
        if size not in WIDTHS:
            raise UserError(
                f"networks: no generator for frames of {size} pixels; prepare the footage at "
                f"one of {', '.join(map(str, WIDTHS))}"
            )
        widths = [config.channels * factor for factor in WIDTHS[size]]
        bias = config.norm == "none"
        self.first = nn.Linear(latent, 16 * widths[0], bias=bias)
        layers: list[nn.Module] = [*_after(config, widths[0])]
        for before, after in pairwise(widths):
            layers += [_upsampling(before, after, bias=bias)]
            layers += _after(config, after)
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), OUTPUTS[config.output]()]
        self.layers = nn.Sequential(*layers)
        _initialise_(self, init=config.init)
        self.arrange_()

    def arrange_(self) -> Generator:
        """Lay weights out as the device that they are on computes fastest; returns self."""
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                plain = isinstance(module, WideConvTranspose2d) and module.weight.is_cpu
                order = torch.contiguous_format if plain else torch.channels_last
                module.weight.data = module.weight.data.contiguous(memory_format=order)
        return self

    def forward(self, latent_XD: torch.Tensor) -> torch.Tensor:
        """Frames (X, 3, size, size), about [-1, 1]; X may be 0."""
        frames, _ = latent_XD.shape
        first_X44C = self.first(latent_XD).view(frames, 4, 4, self.first.out_features // 16)
        return self.layers(first_X44C.permute(0, 3, 1, 2))

    @torch.no_grad()
    def begin_at_colour_(self, colour_C: torch.Tensor) -> None:
        """Let the first frames have this mean colour (C,), about [-1, 1]; a linear output only."""
        last = [m for m in self.layers if isinstance(m, nn.ConvTranspose2d)][-1]
        if isinstance(self.layers[-1], nn.Identity) and last.bias is not None:
            last.bias.copy_(colour_C)


def _after(config: NetworksConfig, channels: int) -> list[nn.Module]:
    return [NORMS[config.norm](channels, config.group_channels), ACTIVATIONS[config.activation]()]


@torch.no_grad()
def _initialise_(generator: Generator, *, init: str) -> None:
    for module in generator.modules():
        if init == "torch" or not isinstance(module, (nn.Linear, nn.ConvTranspose2d)):
            continue
        if init == "dcgan":
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.normal_(module.weight, std=(2 / _fan_in(module)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if init == "kaiming":
        # Latents lie in the unit ball, so the first layer keeps their scale; the last one begins
        # near grey, where the loss is small and its gradient says where to go.
        nn.init.normal_(generator.first.weight, std=1.0)
        last = [m for m in generator.layers if isinstance(m, nn.ConvTranspose2d)][-1]
        last.weight.mul_(0.1)


def _fan_in(module: nn.Linear | nn.ConvTranspose2d) -> float:
    """Numbers that one output sums: with stride 2, a quarter of the 4x4 taps meet a pixel."""
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.in_channels * 16 / 4
