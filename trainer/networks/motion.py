"""R, the motion RNN (Sec. 3): a one-layer GRU over time with a linear head back to D_t."""

from __future__ import annotations

import torch
from torch import nn

from trainer.networks.config import NetworksConfig
from trainer.networks.recurrence import gru


class MotionRNN(nn.Module):
    """z^(t)_1..T to r^(t)_1..T; frame i sees the latents of frames 1 to i."""

    def __init__(self, config: NetworksConfig, *, transient: int) -> None:
        super().__init__()
        self.gru = nn.GRU(transient, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, transient)

    def forward(self, transient_BTM: torch.Tensor) -> torch.Tensor:
        """Correlated codes (B, T, M); B may be 0."""
        return self.head(gru(self.gru, transient_BTM))
