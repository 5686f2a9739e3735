"""Running average of the weights (used for samples and evaluation, never for training)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from trainer.pieces import Piece


class WeightAverage:
    """Exponential average of a module's parameters; decay 0 keeps none and shows the weights."""

    def __init__(
        self,
        module: nn.Module,
        *,
        decay: float,
        memory: tuple[list[torch.Tensor], list[Piece]] | None = None,
    ) -> None:
        """`memory`: where averages lie that several ranks keep, and the pieces of this one."""
        self.decay = decay
        self._live = list(module.parameters())
        self._kept: list[torch.Tensor] = []
        self._moving: list[torch.Tensor] = []
        if decay:
            if memory is None:
                self._kept = self._moving = [param.detach().clone() for param in self._live]
                self._towards: list[torch.Tensor] = list(self._live)
            else:
                self._kept, own = memory
                self._moving = [piece.of(self._kept) for piece in own]
                self._towards = [piece.of(self._live).detach() for piece in own]
                for kept, weight in zip(self._moving, self._towards, strict=True):
                    kept.copy_(weight)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after step number `step`; early steps are forgotten fast."""
        if self._moving:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._moving, self._towards, 1 - decay)  # type: ignore

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The module with the average for its weights."""
        held = [param.data for param in self._live]
        self.show_()
        try:
            yield
        finally:
            for param, weight in zip(self._live, held, strict=True):
                param.data = weight

    def show_(self) -> None:
        """Give the module the average for its weights, for good."""
        for param, kept in zip(self._live, self._kept, strict=False):
            param.data = kept

    def state(self) -> dict[str, torch.Tensor]:
        """The average by number of the parameter."""
        return {f"{i:04d}": tensor for i, tensor in enumerate(self._kept)}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        for i, tensor in enumerate(self._kept):
            tensor.copy_(state[f"{i:04d}"])
