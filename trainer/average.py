"""Running average of the weights (used for samples and evaluation, never for training)."""

from __future__ import annotations

import torch
from torch import nn


class WeightAverage:
    """Exponential average of a module's parameters; decay 0 keeps none and shows the weights."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._live = list(module.parameters())
        self._kept = [p.detach().clone() for p in self._live] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step number `step`; early steps are forgotten fast."""
        if self._kept:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._kept, self._live, 1 - decay)  # type: ignore

    @torch.no_grad()
    def swap_(self) -> None:
        """Exchange weights and average in place; call twice to undo."""
        for kept, live in zip(self._kept, self._live, strict=False):
            held = live.detach().clone()
            live.copy_(kept)
            kept.copy_(held)

    def state(self) -> dict[str, torch.Tensor]:
        """The average by number of the parameter."""
        return {f"{i:04d}": tensor for i, tensor in enumerate(self._kept)}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        for i, tensor in enumerate(self._kept):
            tensor.copy_(state[f"{i:04d}"])
