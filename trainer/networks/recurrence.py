"""The GRU's recurrence for training on CPUs: nn.GRU's numbers, differentiated through time at once.

torch's own graph multiplies, allocates and adds up a weight gradient for every time step, which
costs more than all the rest of a recurrence with few clips. Here the backward pass runs through
time with the hidden state alone, and each weight's gradient is one product over all steps.
Equations as in torch.nn.GRU (Cho et al. 2014), gates in the order r, z, n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


def gru(module: nn.GRU, input_BTM: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, T, H) of a one-layer GRU that is batch-first and begins at zero."""
    mixed = torch.is_autocast_enabled("cpu")  # which products that write into given memory refuse
    if input_BTM.is_cpu and torch.is_grad_enabled() and len(input_BTM) and not mixed:
        weights = (module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0)
        return _Recurrence.apply(input_BTM.transpose(0, 1), *weights).transpose(0, 1)
    return module(input_BTM)[0]


class _Recurrence(torch.autograd.Function):
    """Time first: input (T, B, M), output (T, B, H)."""

    @staticmethod
    def forward(
        ctx: Any, input_TBM: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
        bias_ih: torch.Tensor, bias_hh: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        steps, clips, _ = input_TBM.shape
        units = weight_hh.shape[1]
        from_input = torch.addmm(bias_ih, input_TBM.reshape(steps * clips, -1), weight_ih.t())
        from_input = from_input.view(steps, clips, 3 * units)
        from_hidden = torch.empty_like(from_input)
        gates = torch.empty_like(from_input)
        hidden = input_TBM.new_zeros(steps + 1, clips, units)
        back = weight_hh.t()
        for i in range(steps):
            torch.addmm(bias_hh, hidden[i], back, out=from_hidden[i])
            r_z, new = gates[i, :, : 2 * units], gates[i, :, 2 * units :]
            torch.add(from_input[i, :, : 2 * units], from_hidden[i, :, : 2 * units], out=r_z)
            r_z.sigmoid_()
            torch.addcmul(
                from_input[i, :, 2 * units :], r_z[:, :units], from_hidden[i, :, 2 * units :],
                out=new,
            ).tanh_()  # fmt: skip
            torch.lerp(new, hidden[i], r_z[:, units:], out=hidden[i + 1])
        ctx.save_for_backward(
            input_TBM, weight_ih, weight_hh, gates, from_hidden[..., 2 * units :], hidden
        )
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input_TBM, weight_ih, weight_hh, gates, new_from_hidden, hidden = ctx.saved_tensors
        steps, clips, units = new_from_hidden.shape
        r, z, new = gates.split(units, dim=2)
        # What each gate's argument changes by when the state after it does.
        by_new = (1 - z) * (1 - new.square())
        by_z = (hidden[:-1] - new) * z * (1 - z)
        by_r = by_new * new_from_hidden * r * (1 - r)
        to_hidden = torch.stack([by_r, by_z, by_new * r], dim=2)
        gate_grads = torch.empty_like(to_hidden)
        state_grads = torch.empty_like(hidden[1:])
        carried = torch.zeros_like(hidden[0])
        for i in reversed(range(steps)):
            torch.add(grads[0][i], carried, out=state_grads[i])
            torch.mul(to_hidden[i], state_grads[i][:, None], out=gate_grads[i])
            carried = torch.addmm(state_grads[i] * z[i], gate_grads[i].flatten(1), weight_hh)
        hidden_grads = gate_grads.view(steps * clips, 3 * units)
        input_grads = hidden_grads.clone()
        input_grads[:, 2 * units :] = (by_new * state_grads).flatten(0, 1)
        needs = ctx.needs_input_grad
        return (
            (input_grads @ weight_ih).view_as(input_TBM) if needs[0] else None,
            input_grads.t() @ input_TBM.reshape(steps * clips, -1) if needs[1] else None,
            hidden_grads.t() @ hidden[:-1].flatten(0, 1) if needs[2] else None,
            input_grads.sum(0) if needs[3] else None,
            hidden_grads.sum(0) if needs[4] else None,
        )
