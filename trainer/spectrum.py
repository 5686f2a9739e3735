"""What a dictionary looks like: its principal plane, and how much of it few directions hold.

Pure functions of latent rows, in float64. Eq. 7 constrains the rank of the transient codes; their
energy by rank says whether that costs anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Plane(NamedTuple):
    """Rows seen along the two directions in which they differ most."""

    points_X2: torch.Tensor
    """Signs are chosen such that each direction's largest weight is positive."""
    shares: tuple[float, float]
    """Of the rows' variance, along each of the two."""


def principal_plane(rows_XD: torch.Tensor) -> Plane:
    """PCA of rows (X, D) to two coordinates (X, 2); directions that are not there are zero."""
    rows = rows_XD.double()
    centred = rows - rows.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    points = rows.new_zeros(len(rows), 2)
    shares = [0.0, 0.0]
    energy = float(values.square().sum())
    for axis in range(min(2, len(values))):
        if energy <= 0 or float(values[axis]) <= 1e-9 * float(values[0]):
            break
        direction = directions[axis]
        sign = torch.sign(direction[direction.abs().argmax()])
        points[:, axis] = centred @ direction * sign
        shares[axis] = float(values[axis].square()) / energy
    return Plane(points, (shares[0], shares[1]))


def energy_by_rank(matrices: torch.Tensor) -> torch.Tensor:
    """Share of the squared norm that the first 1, 2, ... singular vectors hold, mean over matrices.

    Args:
        matrices: (..., X, D); all-zero ones count as held by one direction.

    Returns:
        float64 (min(X, D),), rising to 1.
    """
    energy = torch.linalg.svdvals(matrices.double()).square()
    total = energy.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, energy.cumsum(dim=-1) / total.clamp_min(1e-300), 1.0)
    return shares.flatten(0, -2).mean(dim=0) if shares.ndim > 1 else shares


def rank_for(shares_R: torch.Tensor, share: float) -> int:
    """The least rank that holds so large a share of the energy."""
    return int((shares_R < share - 1e-12).sum()) + 1
