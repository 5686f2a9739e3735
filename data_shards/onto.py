"""Small tensors on their way to an accelerator, without waiting for it."""

from __future__ import annotations

import torch


def onto(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device: itself where it is there already.

    From pinned memory, so that the copy takes its turn among the kernels that were asked for, and
    this process goes on; out of ordinary memory it would wait for all of them.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
