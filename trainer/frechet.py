"""The Frechet distance of two Gaussians (Dowson and Landau 1982), the algebra of FID and FVD.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64. (C1 C2)^(1/2) has the trace of
(C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric, so no complex root is cut to its real part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Gaussian(NamedTuple):
    """Mean (K,) and covariance (K, K) of features, float64."""

    mean_K: torch.Tensor
    covariance_KK: torch.Tensor


def gaussian_of(features_NK: torch.Tensor) -> Gaussian:
    """Mean and unbiased covariance of at least two rows of features."""
    if len(features_NK) < 2:
        raise ValueError(f"a covariance needs two rows of features, got {len(features_NK)}")
    rows = features_NK.double()
    mean = rows.mean(dim=0)
    centred = rows - mean
    return Gaussian(mean, centred.T @ centred / (len(rows) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians; 0 for equal ones."""
    values, vectors = torch.linalg.eigh(first.covariance_KK)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    middle = root @ second.covariance_KK @ root
    shared = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp_min(0).sqrt().sum()
    apart = (first.mean_K - second.mean_K).square().sum()
    spread = first.covariance_KK.trace() + second.covariance_KK.trace()
    return max(0.0, float(apart + spread - 2 * shared))
