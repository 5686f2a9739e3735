"""The recurrence is torch's GRU, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.networks.recurrence import gru


@pytest.mark.parametrize(("clips", "steps"), [(3, 5), (1, 1), (2, 16)])
def test_values_and_all_gradients_are_those_of_torch(clips: int, steps: int) -> None:
    """In float64, to 1e-12, for input and every weight, with a gradient at every step."""
    torch.manual_seed(0)
    module = nn.GRU(6, 7, batch_first=True).double()
    values = [torch.randn(clips, steps, 6, dtype=torch.float64, requires_grad=True)]
    values += list(module.parameters())
    probe = torch.randn(clips, steps, 7, dtype=torch.float64)
    ours, theirs = gru(module, values[0]), module(values[0])[0]
    assert torch.allclose(ours, theirs, atol=1e-12)
    expected = torch.autograd.grad((theirs * probe).sum(), values)
    found = torch.autograd.grad((ours * probe).sum(), values)
    for mine, reference in zip(found, expected, strict=True):
        assert torch.allclose(mine, reference, atol=1e-12)


def test_frozen_weights_get_no_gradient_and_no_clips_no_frames() -> None:
    """Only what asks for a gradient gets one; an empty batch stays empty and differentiable."""
    module = nn.GRU(4, 5, batch_first=True).requires_grad_(False)
    codes = torch.randn(2, 3, 4, requires_grad=True)
    gru(module, codes).sum().backward()
    assert codes.grad is not None and module.weight_hh_l0.grad is None
    module.requires_grad_(True)
    none = gru(module, torch.zeros(0, 3, 4))
    assert none.shape == (0, 3, 5)
    none.sum().backward()
    assert module.weight_hh_l0.grad is not None and not module.weight_hh_l0.grad.any()
