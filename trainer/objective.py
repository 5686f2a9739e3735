"""The objective of a step (Eq. 6): l_rec + lambda_s * l_static + lambda_t * l_triplet.

Terms are sums over a rank's clips divided by the clips of the *global* batch, so that adding the
terms (or gradients) of all ranks gives those of one rank with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from data_shards.errors import UserError
from trainer import losses
from trainer.draws import Draw


def _pyramid(fake: torch.Tensor, real: torch.Tensor, levels: int) -> torch.Tensor:
    return losses.reconstruction(fake, real, levels=levels)


def _mse(fake_XCHW: torch.Tensor, real_XCHW: torch.Tensor, levels: int) -> torch.Tensor:
    return 4 * (fake_XCHW.float() - real_XCHW).square().mean(dim=(-3, -2, -1))


REGRESSIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "mse": _mse,
    "pyramid": _pyramid,
}
"""Regression losses by name: loss of every frame (leading dimensions)."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and shapes of the three terms."""

    levels: int = 4
    """Levels of the Laplacian pyramid (l in Tab. 6); the last one is the low-pass residual."""
    lambda_static: float = 0.01
    """Weight of l_static (lambda_s in Tab. 6)."""
    lambda_triplet: float = 0.01
    """Weight of l_triplet (lambda_t in Tab. 6)."""
    radius: int = 2
    """Positives are drawn within so many frames of the anchor (alpha as a frame margin)."""
    gap: int = 2
    """Negatives are drawn more than so many frames away; at least `radius`."""
    margin: float = 2.0
    """Margin of the hinge (alpha in Tab. 6)."""
    triplet_on: str = "latents"
    """Codes that the triplet condition is put on: latents (z^t, as Eq. 6 has it) | motion (output
    of R, as the authors' code has it)."""
    negatives: str = "random"
    """Negatives of the triplet condition: random | semi_hard (the nearest that is farther than the
    positive), as the authors' code has."""
    squared: bool = True
    """Squared distances, as the paper prints; off: distances, as the authors' code has."""
    regression: str = "mse"
    """The l of l_rec and l_static (Sec. 3.1: any regression loss): mse, four times the squared
    error, which fits best | pyramid, the paper's Laplacian pyramid of absolute errors."""

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise UserError(f"loss.levels: {self.levels} is below 1")
        for name in ("lambda_static", "lambda_triplet", "margin"):
            if not getattr(self, name) >= 0:
                raise UserError(f"loss.{name}: {getattr(self, name)} is below 0")
        if self.radius < 1 or self.gap < self.radius:
            raise UserError(f"loss.radius: 1 <= radius <= gap is needed, got {self.radius} and "
                            f"gap {self.gap}")  # fmt: skip
        if self.negatives not in ("random", "semi_hard"):
            raise UserError(f"loss.negatives: {self.negatives!r} is none of random, semi_hard")
        if self.regression not in REGRESSIONS:
            raise UserError(
                f"loss.regression: {self.regression!r} is none of {', '.join(REGRESSIONS)}"
            )
        if self.triplet_on not in ("motion", "latents"):
            raise UserError(f"loss.triplet_on: {self.triplet_on!r} is none of motion, latents")


class LossTerms(NamedTuple):
    """Scalars of one rank's part of a batch; `total` carries the graph."""

    total: torch.Tensor
    rec: torch.Tensor
    static: torch.Tensor
    triplet: torch.Tensor
    mse: torch.Tensor
    """Mean squared error on [-1, 1] pixels as shown (clamped), for PSNR."""


def to_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float [-1, 1]."""
    return frames.to(torch.float32).mul_(2 / 255).sub_(1)


def terms(
    fake_BFCHW: torch.Tensor,
    real_BFCHW: torch.Tensor,
    codes_BTM: torch.Tensor,
    draw: Draw,
    valid_B: torch.Tensor,
    *,
    config: LossConfig,
    batch: int,
) -> LossTerms:
    """Eq. 6 on one rank's clips.

    Args:
        fake_BFCHW: generated frames.
        real_BFCHW: the true ones, [-1, 1].
        codes_BTM: transient codes of all T frames.
        draw: of these clips, on the device of the frames.
        valid_B: clips that weigh nothing are False.
        batch: clips of the global batch, those that weigh nothing among them.
    """
    weight_B = valid_B.to(fake_BFCHW.dtype) / batch
    loss_BF = REGRESSIONS[config.regression](fake_BFCHW, real_BFCHW, config.levels)
    rec = (loss_BF.mean(dim=1) * weight_B).sum()
    # The static loss is l_rec of frame k (Eq. 4), which is in loss_BF already.
    static = (loss_BF.gather(1, draw.static_B[:, None])[:, 0] * weight_B).sum()
    triplets = draw.triplets
    if config.negatives == "semi_hard":
        triplets = losses.semi_hard(codes_BTM, triplets, gap=config.gap)
    triplet_B = losses.triplet(codes_BTM, triplets, margin=config.margin, squared=config.squared)
    triplet = (triplet_B * weight_B).sum()
    total = rec + config.lambda_static * static + config.lambda_triplet * triplet
    with torch.no_grad():
        shown_B = (fake_BFCHW.clamp(-1, 1) - real_BFCHW).square().flatten(1).mean(dim=1)
        mse = (shown_B * weight_B).sum()
    return LossTerms(total, rec.detach(), static.detach(), triplet.detach(), mse)


def psnr_of(mse: float) -> float:
    """PSNR in dB of a mean squared error on [-1, 1] pixels (peak to peak 2)."""
    return float(10 * torch.log10(torch.tensor(4.0) / max(mse, 1e-12)))


def shown(sums: Sequence[float], *, batch: int, valid: int) -> dict[str, float]:
    """What the `LossTerms` of a global batch tell of those `valid` clips that are not damaged;
    nothing, where none is."""
    if not valid:
        return {}
    told = dict(zip(LossTerms._fields, (term * (batch / valid) for term in sums), strict=True))
    psnr = psnr_of(told.pop("mse"))
    return {**{f"loss/{name}": value for name, value in told.items()}, "psnr": psnr}
