"""The conditional generator (Mirza and Osindero 2014), the paper's for Weizmann (Sec. 4.2).

It is told the identity and the action of a video. Labels belong to rows of the dictionary: the
identity to static rows, the action to transient ones, so a new pair of rows has labels, too. They
travel as one-hot columns behind the static code. As in the paper, labels pass a hidden layer of
their own before they meet the latents; those have none, since they are free to move by themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from trainer.networks.config import NetworksConfig
from trainer.networks.generator import Generator


class RowLabels(NamedTuple):
    """Labels of the dictionary's rows, int64; -1 where a row has none."""

    identity_N: torch.Tensor
    """Of static rows."""
    action_N: torch.Tensor
    """Of transient rows."""
    classes: tuple[int, int]
    """How many identities and actions there are."""


def columns_of(label_B: torch.Tensor, classes: int) -> torch.Tensor:
    """One-hot columns (B, classes); a row that has no label is a little of every class."""
    known_B = functional.one_hot(label_B.clamp_min(0), classes).float()
    return torch.where(label_B[:, None] >= 0, known_B, 1 / classes)


class ConditionalGenerator(Generator):
    """[z^(s); labels; r^(t)] to a frame. Without labels it makes a mean over all of them."""

    def __init__(
        self, config: NetworksConfig, *, latent: int, size: int, static: int, labels: RowLabels
    ) -> None:
        width = config.label_channels
        super().__init__(config, latent=latent + width, size=size)
        self.static, self.latent, self.told = static, latent, sum(labels.classes)
        self.classes = labels.classes
        self.embed = nn.Linear(self.told, width)
        if config.init != "torch":
            # About length 1, as the latents that it stands beside.
            sd = 0.02 if config.init == "dcgan" else width**-0.5
            nn.init.normal_(self.embed.weight, std=sd)
            nn.init.zeros_(self.embed.bias)
        nobody = torch.cat([torch.full((n,), 1 / n) for n in labels.classes])
        self.register_buffer("nobody_L", nobody, persistent=False)

    def forward(self, latent_XD: torch.Tensor) -> torch.Tensor:
        """Frames (X, 3, size, size) of codes with label columns behind the static part, or none."""
        if latent_XD.shape[1] == self.latent:
            told_XL = self.get_buffer("nobody_L").expand(len(latent_XD), -1).to(latent_XD.dtype)
            return self._frames(latent_XD, told_XL)
        before, told_XL, after = latent_XD.split(
            [self.static, self.told, self.latent - self.static], dim=1
        )
        return self._frames(torch.cat([before, after], dim=1), told_XL)

    def _frames(self, latent_XD: torch.Tensor, told_XL: torch.Tensor) -> torch.Tensor:
        embedded_XE = functional.relu(self.embed(told_XL))
        return super().forward(torch.cat([latent_XD, embedded_XE.to(latent_XD.dtype)], dim=1))
