"""Batch normalisation whose batch is the global one, on any number of ranks and any device.

torch's SyncBatchNorm exists for GPUs only. This one takes means over the clips of all ranks, so
that results do not depend on how a batch is dealt; a rank may have none of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.comm import Comm


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, forward and backward: every rank's loss depends on every rank's summand."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, comm: Comm) -> torch.Tensor:
        ctx.comm = comm
        return comm.sum_(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.comm.sum_(grads[0].clone()), None


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the clips of all ranks while training; the plain one for evaluation."""

    comm: Comm

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, comm: Comm) -> SharedBatchNorm2d:
        """One that goes on with the very parameters and buffers of `norm`."""
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        made._parameters, made._buffers = norm._parameters, norm._buffers
        made.comm = comm
        return made

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalised (X, C, H, W); X may be 0 and differ between ranks."""
        if not self.training:
            return super().forward(input)
        images_XCHW = input.float()
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        size = torch.tensor([images_XCHW.numel() // self.num_features], device=input.device)
        sums = torch.cat([images_XCHW.sum(axes), size.to(images_XCHW.dtype)])
        sums = _SumOverRanks.apply(sums, self.comm)
        count = sums[-1].detach().clamp(min=1)
        mean_C = sums[:-1] / count
        centred_XCHW = images_XCHW - mean_C.view(shape)
        # A second pass, since the difference of two large sums would lose the small variances.
        var_C = _SumOverRanks.apply(centred_XCHW.square().sum(axes), self.comm) / count
        self._remember(mean_C.detach(), var_C.detach() * count / (count - 1).clamp(min=1))
        normal_XCHW = centred_XCHW * (var_C + self.eps).rsqrt().view(shape)
        out_XCHW = normal_XCHW * self.weight.view(shape) + self.bias.view(shape)
        return out_XCHW.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: torch.Tensor, var_C: torch.Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C, self.momentum)
        self.num_batches_tracked.add_(1)


def share_batch_norms_(module: nn.Module, comm: Comm) -> None:
    """Let every BatchNorm2d inside `module` see the global batch."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, SharedBatchNorm2d.like(child, comm))
        else:
            share_batch_norms_(child, comm)
