"""Row-wise optimisers of the latent dictionary: a row that no clip touched does not move.

Momentum SGD as the paper has it for the latents (supplement, Tab. 6: momentum 0.9), and Adam with
a step count per row, so that the bias correction of a rarely seen row is its own. Both work in
place on gathered rows: `state["value"]` (n, ...) and the optimiser's own fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

State = dict[str, torch.Tensor]


class RowRule(NamedTuple):
    """One row of `RULES`: the fields kept per element, those kept per row, and the update."""

    element_fields: tuple[str, ...]
    row_fields: tuple[str, ...]
    update_: Callable[..., None]


def momentum_(
    state: State, grad: torch.Tensor, *, rate: float, momentum: float, **_: object
) -> None:
    """v <- momentum v + g; x <- x - rate v."""
    state["momentum"].mul_(momentum).add_(grad)
    state["value"].add_(state["momentum"], alpha=-rate)


def adam_(
    state: State,
    grad: torch.Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    **_: object,
) -> None:
    """Adam (Kingma & Ba, Alg. 1) with t counted per row in `state["steps"]` (n,)."""
    steps, first, second = state["steps"].add_(1), state["exp_avg"], state["exp_avg_sq"]
    first.lerp_(grad, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    per_row = (-1, *[1] * (grad.ndim - 1))
    t = steps.to(torch.float64)
    scale = (rate / (1 - betas[0] ** t)).to(grad.dtype).view(per_row)
    root = (1 - betas[1] ** t).sqrt().to(grad.dtype).view(per_row)
    state["value"].sub_(scale * first / (second.sqrt() / root + eps))


RULES = {
    "momentum": RowRule(("momentum",), (), momentum_),
    "adam": RowRule(("exp_avg", "exp_avg_sq"), ("steps",), adam_),
}
