"""Projections against numpy, one vector or matrix at a time."""

import numpy as np
import pytest
import torch

from trainer import projections


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_unit_ball_equals_the_loop_and_keeps_inner_vectors():
    """Each vector is divided by max(1, its norm), in place; those inside keep their bits."""
    rows = random(4, 3, 5, dtype=torch.float32) * torch.tensor([0.1, 1, 10, 0])[:, None, None]
    before = rows.clone()
    assert projections.unit_ball_(rows) is rows
    for i in np.ndindex(4, 3):
        vector = before[i].double().numpy()
        np.testing.assert_allclose(
            rows[i].numpy(), vector / max(1, np.sqrt((vector**2).sum())), rtol=1e-6
        )
    assert torch.equal(rows[0], before[0]) and torch.equal(rows[3], before[3])


def test_unit_ball_of_no_rows():
    """An empty selection is fine."""
    assert projections.unit_ball_(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_low_rank_equals_the_loop(rank, dtype):
    """Every clip's matrix is the sum of its first singular triples (Eq. 7)."""
    matrix = random(3, 6, 9, dtype=dtype)
    fast = projections.low_rank(matrix, rank)
    assert fast.dtype == dtype
    for b in range(3):
        u, s, vt = np.linalg.svd(matrix[b].double().numpy())
        slow = sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(rank))
        np.testing.assert_allclose(
            fast[b].numpy(), slow, atol=1e-12 if dtype.itemsize == 8 else 1e-6
        )
        assert np.linalg.matrix_rank(fast[b].double().numpy(), tol=1e-5) == rank


def test_low_rank_leaves_what_has_that_rank():
    """At or above the largest possible rank the same bits come back; empty batches, too."""
    matrix = random(2, 3, 8)
    assert torch.equal(projections.low_rank(matrix, 3), matrix)
    assert projections.low_rank(torch.zeros(0, 3, 8), 2).shape == (0, 3, 8)


def test_directions_of_a_gram_are_the_right_singular_vectors():
    """Eigenvectors of Z^T Z project as the SVD of Z does, and their signs are fixed."""
    rows = random(40, 7)
    basis = projections.top_directions(rows.mT @ rows, 3)
    right = np.linalg.svd(rows.numpy())[2][:3].T
    for r in range(3):
        sign = np.sign(right[np.abs(right[:, r]).argmax(), r])
        np.testing.assert_allclose(basis[:, r].numpy(), sign * right[:, r], atol=1e-10)
    kept = projections.project_rows(rows, basis)
    np.testing.assert_allclose(
        kept.numpy(), projections.low_rank(rows[None], 3)[0].numpy(), atol=1e-10
    )


def test_projecting_twice_is_projecting_once():
    """A projection is idempotent and keeps shape and type."""
    rows = random(2, 5, 6, dtype=torch.float32)
    basis = projections.top_directions(random(6, 6) @ torch.eye(6).double(), 2)
    once = projections.project_rows(rows, basis)
    assert once.shape == rows.shape and once.dtype == rows.dtype
    torch.testing.assert_close(projections.project_rows(once, basis), once)


def test_rank_energy_shares():
    """Shares of the squared norm accumulate to one; nothing divides by zero."""
    assert projections.rank_energy(torch.tensor([2.0, 1.0, 1.0])).tolist() == pytest.approx(
        [4 / 6, 5 / 6, 1]
    )
    assert projections.rank_energy(torch.zeros(2)).tolist() == [1, 1]


def test_float32_grams_and_rank_zero_are_refused():
    """Both would lose the answer without a word."""
    with pytest.raises(ValueError, match="float64"):
        projections.top_directions(torch.eye(3), 1)
    with pytest.raises(ValueError, match="rank"):
        projections.low_rank(torch.zeros(1, 3, 3), 0)
    with pytest.raises(ValueError, match="rank"):
        projections.top_directions(torch.eye(3).double(), 0)
