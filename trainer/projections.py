"""Projections of the latents after every update: the unit ball (Sec. 3.3), low rank (Eq. 7).

Pure functions of tensors. Shapes: `X` any leading dimensions, `N` rows, `B` clips, `T` frames, `M`
transient width, `R` rank. Everything about rank is computed in float64: a Gram matrix squares the
condition number, and float32 would lose the small directions.
"""

from __future__ import annotations

import torch


def unit_ball_(rows_XM: torch.Tensor) -> torch.Tensor:
    """Divide each vector along the last dimension by max(1, its l2 norm), in place (Sec. 3.3).

    Vectors inside the ball keep their bits.
    """
    with torch.no_grad():
        norm_X1 = torch.linalg.vector_norm(rows_XM, dim=-1, keepdim=True)
        return rows_XM.div_(norm_X1.clamp_min_(1))


def low_rank(matrix_BTM: torch.Tensor, rank: int) -> torch.Tensor:
    """Each matrix from its top `rank` singular vectors: the nearest one of that rank (Eq. 7).

    A matrix that cannot have a higher rank is returned as it is.

    Raises:
        ValueError: `rank` below 1.
    """
    _require_rank(rank)
    if rank >= min(matrix_BTM.shape[-2:]):
        return matrix_BTM
    with torch.no_grad():
        left, values, right = torch.linalg.svd(matrix_BTM.double(), full_matrices=False)
        kept = (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]
        return kept.to(matrix_BTM.dtype)


def top_directions(gram_MM: torch.Tensor, rank: int) -> torch.Tensor:
    """The `rank` leading eigenvectors of a Gram matrix Z^T Z, strongest first, as columns (M, R).

    They are the right singular vectors of Z. The sign is fixed: the component of largest magnitude
    (the first of equals) is positive. With `rank` above M, all M are returned.

    Raises:
        ValueError: `rank` below 1, or a Gram matrix that is not float64.
    """
    _require_rank(rank)
    if gram_MM.dtype != torch.float64:
        raise ValueError(f"gram_MM: {gram_MM.dtype} loses small directions; sum it in float64")
    vectors_MM = torch.linalg.eigh((gram_MM + gram_MM.mT) / 2).eigenvectors
    basis_MR = vectors_MM[:, -min(rank, len(gram_MM)) :].flip(1)
    largest_1R = basis_MR.abs().argmax(dim=0, keepdim=True)
    return basis_MR * torch.where(basis_MR.gather(0, largest_1R) < 0, -1.0, 1.0).to(basis_MR)


def project_rows(rows_BXM: torch.Tensor, basis_MR: torch.Tensor) -> torch.Tensor:
    """Orthogonal projection of each vector (last dimension) onto the span of an orthonormal basis.

    Each of the B rows by a product of its own, in float64: a library chooses how to add up by the
    size of a product, and a row's bits are not to depend on how many others a rank happens to hold.
    """
    wide_BXM = rows_BXM.double()[:, None] if rows_BXM.ndim == 2 else rows_BXM.double()
    basis_BMR = basis_MR.expand(len(wide_BXM), *basis_MR.shape)
    with torch.no_grad():
        kept_BXM = torch.bmm(torch.bmm(wide_BXM, basis_BMR), basis_BMR.mT)
    return kept_BXM.to(rows_BXM.dtype).view_as(rows_BXM)


def rank_energy(values_R: torch.Tensor) -> torch.Tensor:
    """Share of the squared Frobenius norm in the first 1, 2, ... singular values; float64 (R,).

    Values come in descending order; of an all-zero matrix every share is 1.
    """
    energy_R = values_R.double().square().cumsum(dim=-1)
    total = energy_R[..., -1:]
    return torch.where(total > 0, energy_R / total, torch.ones_like(energy_R))


def _require_rank(rank: int) -> None:
    if rank < 1:
        raise ValueError(f"rank: {rank} is below 1")
